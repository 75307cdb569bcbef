package route

import "fmt"

var trustDomainKind = Kind{"countersign.dev", "TrustDomain"}

// Frontend is how a Gateway asks its callers for certificates (spec.tls.frontend): by port, else the default.
type Frontend struct {
	Default *Validation
	Ports   map[uint16]*Validation // nil there: callers of that port are not asked
}

// Validation is what certificates of callers are verified by.
type Validation struct {
	Insecure    bool // AllowInsecureFallback: who has no good one is let in as nobody
	Authorities []Ref
}

// Validation is that of the HTTPS listeners of a port; nil: callers are not asked.
func (g *Gateway) Validation(port uint16) *Validation {
	if v, own := g.Frontend.Ports[port]; own {
		return v
	}
	return g.Frontend.Default
}

// TrustDomains are those whose SVIDs count.
func (v *Validation) TrustDomains() []string {
	var out []string
	for _, to := range v.Authorities {
		if to.Kind == trustDomainKind {
			out = append(out, to.Name.Name)
		}
	}
	return out
}

// resolveAuthority is what is wrong with one of caCertificateRefs.
func resolveAuthority(to Ref, f Facts) Refusal {
	switch {
	case to.Kind != trustDomainKind:
		return Refusal{"InvalidCACertificateKind", to.Kind.String() + " " + fmt.Sprintf("%q", to.Name.Name) + " vouches for nobody here; refer to a TrustDomain of countersign.dev"}
	case f.TrustDomain == nil || !f.TrustDomain(to.Name.Name):
		return Refusal{"InvalidCACertificateRef", fmt.Sprintf("trust domain %q is not known here; write this mesh's own", to.Name.Name)}
	}
	return Refusal{}
}

// authorities follows the references that callers' certificates are verified by. One good of several is enough.
func (in *inspection) authorities(l *Listener) (refs, none Refusal) {
	v := in.Validation(l.Port)
	if v == nil || l.Protocol != HTTPS {
		return Refusal{}, Refusal{}
	}
	good := false
	for _, to := range v.Authorities {
		bad := resolveAuthority(to, in.facts)
		good = good || bad == (Refusal{})
		if refs == (Refusal{}) {
			refs = bad
		}
	}
	if !good {
		none = Refusal{"NoValidCACertificate", fmt.Sprintf("listener %q has nothing to verify callers by; its condition ResolvedRefs says why", l.Name)}
	}
	return refs, none
}

// insecure says whether callers that prove nothing are let in where certificates are asked for.
func (g *Gateway) insecure() bool {
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if v := g.Validation(l.Port); l.Protocol == HTTPS && v != nil && v.Insecure {
			return true
		}
	}
	return false
}
