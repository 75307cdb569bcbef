package snapshot

import (
	"net/url"
	"strings"
)

// Reserved gives the test for names that no Gateway has in a certificate of our own authority: those of the mesh, in
// every form that a workload may call, and the token service's host (gateway.md 12.1).
func Reserved(trustDomain string, tokens *Tokens, services func(yield func(Service) bool)) func(name string) bool {
	issuer := ""
	if tokens != nil {
		if u, err := url.Parse(tokens.Issuer); err == nil && u.Hostname() != "localhost" {
			issuer = u.Hostname()
		}
	}
	called := map[string]bool{}
	for s := range services {
		called[s.Name], called[s.Name+"."+s.Namespace], called["*."+s.Namespace] = true, true, true
	}
	return func(name string) bool {
		base := "." + strings.TrimPrefix(name, "*.")
		return called[name] || name == issuer || strings.HasSuffix(base, ".svc") || strings.HasSuffix(base, ".svc."+trustDomain) ||
			issuer != "" && strings.HasPrefix(name, "*.") && strings.HasSuffix(issuer, base)
	}
}
