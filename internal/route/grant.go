package route

import (
	"fmt"
	"slices"
	"strconv"
)

// Kinds that references start from and lead to.
var (
	gatewayKind   = Kind{"gateway.networking.k8s.io", "Gateway"}
	httpRouteKind = Kind{"gateway.networking.k8s.io", "HTTPRoute"}
	serviceKind   = Kind{"", "Service"}
	hostnameKind  = Kind{"networking.istio.io", "Hostname"} // host of a ServiceEntry
	secretKind    = Kind{"", "Secret"}
	rateLimitKind = Kind{"countersign.dev", "RateLimit"}
)

func (k Kind) String() string {
	if k.Group == "" {
		return k.Kind
	}
	return k.Group + "/" + k.Kind
}

// String names the object for a message.
func (r Ref) String() string { return r.Kind.String() + " " + strconv.Quote(r.Name.String()) }

// permitted reports whether an object of the kind and namespace may refer to
// the target: one of its own namespace always, any other by a ReferenceGrant
// there (ReferenceGrant API). Every reference of this package asks here.
func permitted(grants []Grant, from Kind, namespace string, to Ref) bool {
	return namespace == to.Namespace || slices.ContainsFunc(grants, func(g Grant) bool {
		return g.Namespace == to.Namespace &&
			slices.Contains(g.From, GrantFrom{from, namespace}) &&
			(slices.Contains(g.To, GrantTo{to.Kind, to.Name.Name}) || slices.Contains(g.To, GrantTo{to.Kind, ""}))
	})
}

// Refusal is why a part of an object has no effect: the reason of a condition,
// and a text that names the way out. The zero Refusal is none.
type Refusal struct{ Reason, Text string }

// Backing is what the running system knows of a backend.
type Backing uint8

// What may be known of a backend; the zero value fails closed.
const (
	NoService  Backing = iota // no record, and no entry that could serve it
	NoPort                    // the service has no such port
	NotHTTP                   // the port's protocol carries no HTTP
	NoIdentity                // foreign endpoints, and nothing that says how to trust them
	NeedsTLS                  // foreign endpoints that speak TLS alone
	Usable                    // also while nothing runs
)

// ResolveBackend is gateway.md 8.1: whether a request of the route may go to
// the backend. The grant is asked before the service, so that a reference
// learns nothing of another namespace.
func ResolveBackend(r *HTTPRoute, b *Backend, grants []Grant, f Facts) Refusal {
	if b.Kind != serviceKind && b.Kind != hostnameKind {
		return Refusal{"InvalidKind", b.Ref.String() + " is no backend; refer to a Service"}
	}
	if !permitted(grants, httpRouteKind, r.Namespace, b.Ref) {
		return notPermitted(httpRouteKind, r.Namespace, b.Ref)
	}
	if b.Port == 0 {
		return Refusal{"BackendNotFound", b.Ref.String() + " is named without a port; write one"}
	}
	backing := NoService
	if f.Backend != nil {
		backing = f.Backend(b.Ref, b.Port)
	}
	if backing == Usable {
		return Refusal{}
	}
	what := b.Ref.String()
	switch backing {
	case NoPort:
		return Refusal{"BackendNotFound", what + " has no port " + number(b.Port) + "; name one of its ports"}
	case NotHTTP:
		return Refusal{"UnsupportedProtocol", "port " + number(b.Port) + " of " + what + " does not speak HTTP; set its protocol or name another"}
	case NoIdentity:
		return Refusal{"UnsupportedProtocol", "no identity: " + what + " has endpoints outside the mesh; annotate it with countersign.dev/plaintext: allow to reach it in clear text (a BackendTLSPolicy is not supported yet)"}
	case NeedsTLS:
		return Refusal{"UnsupportedProtocol", "no identity: port " + number(b.Port) + " of " + what + " takes TLS alone, which needs a BackendTLSPolicy, and that is not supported yet; name a port in clear text"}
	}
	return Refusal{"BackendNotFound", what + " does not exist; run it or correct the name"}
}

// ResolveCertificate is whether the Gateway may use the certificate, and can;
// what is known of it where it may.
func ResolveCertificate(g *Gateway, to Ref, grants []Grant, f Facts) (Certificate, Refusal) {
	if to.Kind != secretKind {
		return Certificate{}, Refusal{"InvalidCertificateRef", to.String() + " is no certificate; refer to a Secret"}
	}
	if !permitted(grants, gatewayKind, g.Namespace, to) {
		return Certificate{}, notPermitted(gatewayKind, g.Namespace, to)
	}
	c := Certificate{Fault: "does not exist; apply it or correct the name"}
	if f.Secret != nil {
		c = f.Secret(to.Name)
	}
	if c.Fault != "" {
		return c, Refusal{"InvalidCertificateRef", to.String() + " " + c.Fault}
	}
	return c, Refusal{}
}

// ResolveExtension is gateway.md 7.7: a RateLimit of the route's namespace
// and nothing else.
func ResolveExtension(r *HTTPRoute, to Ref, f Facts) Refusal {
	switch {
	case to.Kind != rateLimitKind:
		return Refusal{"InvalidKind", to.String() + " is no extension; refer to a RateLimit of countersign.dev"}
	case to.Namespace != r.Namespace || f.RateLimit == nil || !f.RateLimit(to.Name):
		return Refusal{"InvalidKind", to.String() + " does not exist in the namespace of the route; apply it there or correct the name"}
	}
	return Refusal{}
}

func notPermitted(from Kind, namespace string, to Ref) Refusal {
	return Refusal{"RefNotPermitted", fmt.Sprintf("%s is in another namespace; a ReferenceGrant there must admit %s of namespace %q", to, from, namespace)}
}
