package grant_test

import (
	"errors"
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

// FuzzResolve: whatever a client sends, it gets an audience that is its own to have, or one of
// the fixed refusals.
func FuzzResolve(f *testing.F) {
	for _, s := range [][3]string{
		{"orders", "", "orders:read"}, {"orders.shop.svc.example.com", orders, ""}, {"", "https://api.example.com/orders", "mesh"},
		{"ledger.front", "https://api.example.com/orders#x", "a b"}, {"https://legacy.example.com", "/x", `"`}, {".svc.example.com", "spiffe://*", "\x00"},
		{"orders\norders", "%zz:", strings.Repeat("x ", 70)},
	} {
		f.Add(s[0], s[1], s[2])
	}
	d := directory(f)
	clients := []*grant.Client{d.ClientFor(web, web), d.ClientFor(bare, bare), d.Client("ci")}
	f.Fuzz(func(t *testing.T, audience, resource, scope string) {
		var audiences, resources []string
		if audience != "" {
			audiences = strings.Split(audience, "\n")
		}
		if resource != "" {
			resources = strings.Split(resource, "\n")
		}
		for _, c := range clients {
			r, err := d.Resolve(c, audiences, resources)
			if err != nil {
				fixed(t, err)
				continue
			}
			switch {
			case r.Canonical == "":
				t.Fatal("no audience and no error")
			case c.Implicit && (r.Target != nil || r.Record != nil && r.Record.AllowBearer):
				t.Fatalf("an implicit client got %+v", r)
			case !c.Implicit && r.Target == nil:
				t.Fatalf("%s got %q, which is no target", c.ClientID, r.Canonical)
			}
			scopes, err := d.Scopes(c, r, strings.Fields(scope))
			if err != nil {
				fixed(t, err)
			}
			for _, s := range scopes {
				if c.Implicit || !grant.ValidScope(s) {
					t.Fatalf("%s got scope %q", c.ClientID, s)
				}
			}
		}
	})
}

func fixed(t *testing.T, err error) {
	t.Helper()
	r, ok := errors.AsType[*grant.Refusal](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	switch r.Text {
	case "audience or resource is required", "target not allowed", "scope not allowed":
	default:
		t.Fatalf("got %q", r.Text)
	}
}

// FuzzClientFor: a proven identity is never the client of another one, and a node is none.
func FuzzClientFor(f *testing.F) {
	f.Add(web, web)
	f.Add("ci", web)
	f.Add("spiffe://example.com/ns/countersign/sa/node-a", "spiffe://example.com/ns/countersign/sa/node-a")
	f.Add("spiffe://example.com/x/*", "spiffe://example.com/x/1")
	f.Add("", "spiffe://")
	d := directory(f)
	f.Fuzz(func(t *testing.T, clientID, id string) {
		c := d.ClientFor(clientID, id)
		if c == nil {
			return
		}
		if c.ClientID != clientID || c.SPIFFEID != id || strings.Contains(id+"/", "/ns/countersign/") && c.Implicit && strings.HasPrefix(id, "spiffe://example.com/ns/countersign") {
			t.Fatalf("%q by %q: got %+v", clientID, id, c)
		}
	})
}
