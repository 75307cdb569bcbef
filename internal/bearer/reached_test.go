package bearer

import (
	"testing"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
)

const front = "spiffe://example.com/ns/shop/sa/front" // a Gateway

// At a Gateway a token must be for a service that the request may go to, or for the Gateway: whatever was seen before,
// whatever else is in aud (gateway.md 13).
func TestSecTokenOfAnotherRoute(t *testing.T) {
	w := newWorld(t)
	w.issuers = []grant.Issuer{{
		Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Audiences: []string{"https://api"}, Uses: []grant.Use{grant.UseRequest},
	}}
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", Resources: []string{"https://api"}}}
	_ = w.rules()
	door := w.book.For(Workload{ID: front, Service: "shop/front", Services: []string{"shop/front"}, Gateway: true})
	other := "spiffe://example.com/ns/shop/sa/other"
	for name, c := range map[string]struct {
		token   string
		reached []string
		ok      bool
	}{
		"own":                    {w.own.ours(), []string{"shop/orders"}, true},
		"own, one of two":        {w.own.ours(), []string{"shop/returns", "shop/orders"}, true},
		"own, other rule":        {w.own.ours(), []string{"shop/returns"}, false},
		"own, no backend":        {w.own.ours(), nil, false},
		"own, unknown":           {w.own.ours(claims{"aud": other}), []string{"shop/other", ""}, false},
		"own, for the Gateway":   {w.own.ours(claims{"aud": front}), nil, true},
		"foreign":                {w.corp.foreign(claims{"iss": corp, "aud": "https://api"}), []string{"shop/orders"}, true},
		"foreign, other rule":    {w.corp.foreign(claims{"iss": corp, "aud": "https://api"}), []string{"shop/returns"}, false},
		"foreign, no backend":    {w.corp.foreign(claims{"iss": corp, "aud": "https://api"}), nil, false},
		"foreign, other aud":     {w.corp.foreign(claims{"iss": corp, "aud": "https://other"}), []string{"shop/orders"}, false},
		"foreign, for nobody":    {w.corp.foreign(claims{"iss": corp}), []string{"shop/orders"}, false},
		"foreign, the Gateway's": {w.corp.foreign(claims{"iss": corp, "aud": front}), []string{"shop/orders"}, false},
	} {
		for range 2 { // the second comes out of the cache
			q := w.get("/", bearer(c.token))
			q.Reached = c.reached
			out := door.Authenticate(q)
			switch {
			case c.ok && (out.Token == nil || out.Raw != c.token):
				t.Errorf("%s: %s (%+v)", name, say(out), out.Refused)
			case !c.ok && (out.Refused == nil || out.Refused.Status != 401 || out.Refused.Reason != string(jose.Aud) || out.Token != nil):
				t.Errorf("%s: %s (%+v)", name, say(out), out.Refused)
			}
		}
	}
}
