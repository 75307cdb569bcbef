package proxy

import (
	"net/http"
	"strings"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/route"
)

// doorMetadata answers for the services behind the rule that takes the resource of a metadata request (tokens.md 11.3).
// What no record names is for a route to answer, or nobody.
func (x *exchange) doorMetadata(router *route.Router, host string) {
	below, ok := strings.CutPrefix(x.path, bearer.MetadataPath)
	if !ok || below != "" && below[0] != '/' || x.ask.HasQuery || x.v.Tokens == nil || x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		return
	}
	at := below
	if at == "" {
		at = "/"
	}
	hit, ok := router.Lookup(host, &route.Request{Method: http.MethodGet, Path: at, Header: http.Header{}})
	name, named := x.resourceHost()
	if !ok || !named {
		return
	}
	if text := x.v.Tokens.Resource(servicesOf(hit.Action), name, x.path); text != nil {
		x.answerMetadata(text)
	}
}

func servicesOf(a *route.Action) (out []string) {
	for i := range a.Rule.Backends {
		out = append(out, a.Rule.Backends[i].Name.String())
	}
	return out
}

// strangerIdentity is step 10 of gateway.md 15. Who is refused for his token is told where the resource says whose
// tokens it takes (RFC 9728 section 5.1).
func (x *exchange) strangerIdentity() *refused {
	no := x.requestIdentity()
	if no == nil || no.status != http.StatusUnauthorized || no.challenge == "" || strings.Contains(no.challenge, "resource_metadata=") ||
		x.v.Tokens == nil || x.hit.Action == nil {
		return no
	}
	if host, ok := x.resourceHost(); ok {
		if where := x.v.Tokens.Where(servicesOf(x.hit.Action), host, x.path); where != "" {
			told := *no
			told.challenge += `, resource_metadata="` + where + `"`
			return &told
		}
	}
	return no
}
