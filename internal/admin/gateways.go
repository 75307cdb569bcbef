package admin

import "time"

// GatewayStatus is one Gateway of ours and how it fares.
type GatewayStatus struct {
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	Addresses []string         `json:"addresses"`
	Listeners []ListenerStatus `json:"listeners"`
	Warnings  []string         `json:"warnings,omitempty"`
}

// ListenerStatus is one listener of a Gateway.
type ListenerStatus struct {
	Name                string    `json:"name"`
	Port                uint16    `json:"port"`
	Protocol            string    `json:"protocol"`
	Programmed          bool      `json:"programmed"`
	Fault               string    `json:"fault,omitempty"`                // why it does not serve, or not what was asked for
	CertificateNotAfter time.Time `json:"certificate_not_after,omitzero"` // of several the first to end
}

// ShownCertificate is what a node knows of a listener that it serves.
type ShownCertificate struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Listener  string    `json:"listener"`
	NotAfter  time.Time `json:"not_after"`
}
