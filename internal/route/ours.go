package route

import (
	"slices"
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
// HTTPS listeners without certificates, and localhost, which leads nowhere but to this machine (gateway.md 12.1). What
// is reserved is left out: its certificate would stand between the mesh and its own.
func (g *Gateway) CertificateNames(reserved func(name string) bool) []string {
	var out []string
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if !l.Own() {
			continue
		}
		out = append(out, "localhost")
		if l.Hostname != "" && !reserved(l.Hostname) {
			out = append(out, l.Hostname)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Own reports a listener that shows a certificate of our own authority.
func (l *Listener) Own() bool {
	return l.Protocol == HTTPS && len(l.Certificates) == 0 && l.Files == nil
}
