package route

import (
	"slices"
	"strings"
)

// Ours are the Gateways of the own classes, in the order given.
func (o *Objects) Ours() []*Gateway {
	classes := ownClasses(o.Classes)
	var out []*Gateway
	for i := range o.Gateways {
		if _, ok := classes[o.Gateways[i].Class]; ok {
			out = append(out, &o.Gateways[i])
		}
	}
	return out
}

// CertificateNames are the names that a certificate of our own authority has for the Gateway: the hostnames of its
// HTTPS listeners without certificates, and localhost, which leads nowhere but to this machine (gateway.md 12.1).
func (g *Gateway) CertificateNames() []string {
	var out []string
	for i := range g.Listeners {
		if l := &g.Listeners[i]; l.own() && l.Hostname != "" && !slices.Contains(out, l.Hostname) {
			out = append(out, l.Hostname)
		}
	}
	if len(out) > 0 || slices.ContainsFunc(g.Listeners, func(l Listener) bool { return l.own() }) {
		out = append(out, "localhost")
	}
	slices.SortFunc(out, strings.Compare)
	return slices.Compact(out)
}

// own reports a listener that shows a certificate of our own authority.
func (l *Listener) own() bool { return l.Protocol == HTTPS && len(l.Certificates) == 0 }
