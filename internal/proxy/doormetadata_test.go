package proxy

import (
	"strings"
	"testing"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/route"
)

// A stranger who is refused for his token finds out at the door where to get one: for the resources of services on a
// route, and no others (tokens.md 11.3).
func TestDoorMetadata(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.audiences = []grant.Audience{
		{Namespace: "default", Name: "api", Service: "api", Resources: []string{"https://shop.test/orders", "https://other.test/"}, Scopes: []grant.Scope{{Name: "read", Public: true}}},
		{Namespace: "default", Name: "other", Service: "other", Resources: []string{"https://shop.test/other"}},
	}
	h.enforce()
	h.admit()
	h.furnish(route.Options{"hsts": "max-age=1"}, nil, nil, toAPI())
	const at = "/.well-known/oauth-protected-resource"
	status, body, header := h.ask("GET " + at + "/orders")
	if status != 200 || !strings.HasPrefix(body, `{"resource":"https://shop.test/orders","authorization_servers":["`) || header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", status, body)
	}
	for _, path := range []string{at, at + "/other", at + "/orders/17", at + "/orders?x", at + "x"} {
		if status, body, _ := h.ask("GET " + path); status != 403 { // it goes to the route, where policy says no
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	bad := bearerLine(h.id.foreign() + "x")
	for path, want := range map[string]string{"/orders/17": "https://shop.test" + at + "/orders", "/ordersx": "", "/": ""} {
		status, _, header := h.ask("GET "+path, bad)
		challenge := header.Get("Www-Authenticate")
		if _, where, _ := strings.Cut(challenge, `resource_metadata="`); status != 401 || strings.TrimSuffix(where, `"`) != want {
			t.Errorf("%s: %d %s", path, status, challenge)
		}
	}
}
