package admin

import (
	"fmt"
	"strings"

	"countersign.dev/internal/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Name is a NAME as people type it (cli.md 2.4): api, shop/api, api.shop or a SPIFFE ID; as
// FROM also 'shop/*' and '*'.
type Name struct {
	Namespace string // empty: every namespace ('*')
	Name      string // "*": every one
	// TrustDomain is set when a SPIFFE ID was typed: Name is then a service account, and the
	// ID may be of another mesh.
	TrustDomain string
}

// ParseName reads a NAME; bare ones are of namespace ns. wild lets * through.
func ParseName(s, ns string, wild bool) (Name, error) {
	if ns == "" {
		ns = "default"
	}
	n := Name{Namespace: ns, Name: s}
	switch {
	case strings.HasPrefix(s, "spiffe://"):
		id, err := spiffeid.FromString(s)
		if err != nil {
			return n, badName(s, err.Error())
		}
		space, account, ok := identity.Split(id)
		if !ok {
			return n, badName(s, "it is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME")
		}
		return Name{Namespace: space, Name: account, TrustDomain: id.TrustDomain().Name()}, nil
	case s == "*" && wild:
		return Name{Name: "*"}, nil
	case s == "anonymous":
		return n, &Problem{Code: "anonymous", Exit: 2, Message: "anonymous callers are admitted only by a policy written by hand",
			Hints: []string{"countersign allow '*' b --dry-run > b.yaml"}}
	case strings.Contains(s, "/"):
		n.Namespace, n.Name, _ = strings.Cut(s, "/")
	case strings.Contains(s, "."):
		n.Name, n.Namespace, _ = strings.Cut(s, ".")
	}
	if err := identity.CheckLabel(n.Namespace); err != nil {
		return n, badName(s, err.Error())
	}
	if n.Name == "*" && wild {
		return n, nil
	}
	if err := identity.CheckLabel(n.Name); err != nil {
		return n, badName(s, err.Error())
	}
	return n, nil
}

func badName(s, why string) error {
	return &Problem{
		Code: "name_invalid", Exit: 2, Message: fmt.Sprintf("name %q: a name is a-z, 0-9 and -, at most 63 bytes", s),
		Details: Details{{"reason", why}}, Hints: []string{"api, shop/api, api.shop or a SPIFFE ID"},
	}
}
