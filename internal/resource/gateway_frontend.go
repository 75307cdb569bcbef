package resource

import (
	"countersign.dev/internal/route"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// checkFrontend takes trust domains as what callers' certificates are verified by: other authorities are not built.
func (o *object) checkFrontend(frontend map[string]any, p *path) {
	check := func(tls any, p *path) {
		p = p.field("validation").field("caCertificateRefs")
		for i, ref := range itemsOf(at(tls, "validation", "caCertificateRefs")) {
			_, namespaced := fieldsOf(ref)["namespace"]
			_, err := spiffeid.TrustDomainFromString(word(ref, "name"))
			switch {
			case word(ref, "group") != "countersign.dev" || word(ref, "kind") != "TrustDomain":
				o.fault("E301", p.item(i), atValue, "only SVIDs are taken from callers: other authorities are not supported yet", "{group: countersign.dev, kind: TrustDomain, name: cluster.local}")
			case err != nil:
				o.fault("E103", p.item(i).field("name"), atValue, quote(word(ref, "name"))+" is not a trust domain", "such as cluster.local")
			case namespaced:
				o.fault("E103", p.item(i).field("namespace"), atKey, "a trust domain has no namespace", "leave it out")
			}
		}
	}
	check(frontend["default"], p.field("default"))
	for i, port := range itemsOf(frontend["perPort"]) {
		check(at(port, "tls"), p.field("perPort").item(i).field("tls"))
	}
}

type frontendSpec struct {
	Default *frontendTLS
	PerPort []struct {
		Port uint16
		TLS  frontendTLS
	}
}

type frontendTLS struct {
	Validation *struct {
		Mode              string
		CACertificateRefs []refSpec
	}
}

func (s frontendSpec) value(namespace string) route.Frontend {
	var out route.Frontend
	if s.Default != nil {
		out.Default = s.Default.value(namespace)
	}
	for _, p := range s.PerPort {
		if out.Ports == nil {
			out.Ports = map[uint16]*route.Validation{}
		}
		out.Ports[p.Port] = p.TLS.value(namespace)
	}
	return out
}

func (s *frontendTLS) value(namespace string) *route.Validation {
	if s.Validation == nil {
		return nil
	}
	out := &route.Validation{Insecure: s.Validation.Mode == "AllowInsecureFallback"}
	for _, r := range s.Validation.CACertificateRefs {
		out.Authorities = append(out.Authorities, r.ref(namespace))
	}
	return out
}
