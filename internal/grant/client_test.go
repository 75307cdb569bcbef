package grant_test

import (
	"testing"

	"countersign.dev/internal/grant"
)

// A prefix holds whole segments; exact before prefix, a longer prefix first.
func TestA5gPrefix(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		o.TrustDomain = "a"
		o.NoImplicit = true
		o.Services, o.Audiences, o.Clients, o.Delegations = nil, nil, nil, nil
		for _, c := range [][2]string{{"wide", "spiffe://a/x/*"}, {"long", "spiffe://a/x/y/*"}, {"exact", "spiffe://a/x/y/z"}} {
			o.Clients = append(o.Clients, grant.Client{Namespace: "n", Name: c[0], ClientID: c[0], SPIFFEID: c[1], Auth: grant.AuthSPIFFE})
		}
	})
	for _, c := range []struct{ clientID, id, want string }{
		{"wide", "spiffe://a/x1", ""},
		{"wide", "spiffe://a/x", ""},
		{"wide", "spiffe://a/x/1/2", "wide"},
		{"wide", "spiffe://a/x/1", "wide"},
		{"wide", "spiffe://a/x/", ""},
		{"wide", "spiffe://b/x/1", ""},
		{"wide", "spiffe://a/x/y/z", "wide"}, // it names itself: the prefix holds
		{"exact", "spiffe://a/x/y/zz", ""},
		{"spiffe://a/x/1", "spiffe://a/x/1", "wide"},
		{"spiffe://a/x/y/1", "spiffe://a/x/y/1", "long"},
		{"spiffe://a/x/y/z", "spiffe://a/x/y/z", "exact"},
		{"spiffe://a/x/1", "spiffe://a/x/2", ""},
		{"spiffe://a/other", "spiffe://a/other", ""},
		{"", "spiffe://a/x/1", ""},
		{"unknown", "spiffe://a/x/1", ""},
	} {
		got := ""
		if found := d.ClientFor(c.clientID, c.id); found != nil {
			got = found.Name
		}
		if got != c.want {
			t.Errorf("%q by %q: got %q, want %q", c.clientID, c.id, got, c.want)
		}
	}
}

// Identities of the trust domain are clients without a record; nodes and servers never are.
func TestA6dImplicitClient(t *testing.T) {
	d := directory(t)
	c := d.ClientFor(bare, bare)
	if c == nil || !c.Implicit || c.ClientID != bare || c.Namespace != "shop" || !c.May(grant.GrantClientCredentials) || c.May(grant.GrantTokenExchange) {
		t.Fatalf("got %+v", c)
	}
	for name, id := range map[string]string{
		"node": "spiffe://example.com/ns/countersign/sa/node-a", "server": "spiffe://example.com/ns/countersign/sa/server-a",
		"namespace itself": "spiffe://example.com/ns/countersign", "node elsewhere": "spiffe://partner.example/ns/countersign/sa/node-a",
		"other domain": "spiffe://partner.example/ns/shop/sa/web", "longer domain": "spiffe://example.com.evil/ns/shop/sa/web",
		"no path": "spiffe://example.com", "upper case": "spiffe://EXAMPLE.com/ns/shop/sa/bare", "dots": "spiffe://example.com/ns/shop/../x",
		"trailing slash": bare + "/", "empty": "",
	} {
		if got := d.ClientFor(id, id); got != nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := d.ClientFor(web, bare); got != nil {
		t.Errorf("another's client_id: got %+v", got)
	}
	off := directory(t, func(o *grant.Objects) { o.NoImplicit = true })
	if off.ClientFor(bare, bare) != nil || off.ClientFor(web, web) == nil {
		t.Error("implicitClients: false takes implicit clients and leaves records")
	}
	if _, err := d.Resolve(c, []string{"https://legacy.example.com"}, nil); err == nil {
		t.Error("an implicit client got an audience with allowBearer")
	} else {
		refused(t, err, "invalid_target", "target not allowed")
	}
}

// No prefix, however wide, makes a client of a node.
func TestSecNodeIsNoClientByRecord(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "all", ClientID: "all", SPIFFEID: "spiffe://example.com/*", Auth: grant.AuthSPIFFE})
	})
	node := "spiffe://example.com/ns/countersign/sa/node-a"
	if d.ClientFor("all", node) != nil || d.ClientFor(node, node) != nil {
		t.Error("a node is a client")
	}
	if c := d.ClientFor("all", bare); c == nil || c.Name != "all" {
		t.Errorf("a workload is not: %+v", c)
	}
}

// A record counts by its own name and by the identity; disabled ones are found, and the
// identity does not fall back to an implicit client.
func TestClientByRecord(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		o.Clients = append(o.Clients,
			grant.Client{Namespace: "shop", Name: "off", ClientID: "off", SPIFFEID: bare, Auth: grant.AuthSPIFFE, Disabled: true},
			grant.Client{Namespace: "shop", Name: "signs", ClientID: "signs", SPIFFEID: payments, Auth: grant.AuthPrivateKeyJWT})
	})
	for _, id := range []string{"off", bare} {
		if c := d.ClientFor(id, bare); c == nil || !c.Disabled {
			t.Errorf("%s: got %+v, want the disabled record", id, c)
		}
	}
	for _, id := range []string{"signs", payments} {
		if c := d.ClientFor(id, payments); c != nil {
			t.Errorf("%s: %+v proves itself by an SVID, but its method is private_key_jwt", id, c)
		}
	}
	if c := d.ClientFor("ci", web); c != nil {
		t.Errorf("a workload is the client of a secret: %+v", c)
	}
	if d.Client("ci") == nil || d.Client(web) == nil || d.Client(bare) != nil || d.Client("") != nil {
		t.Error("records by client_id")
	}
}

// Of several records of one identity that one counts which has no other name for it,
// else the first.
func TestClientTwoRecords(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		for _, c := range [][2]string{{"a", web}, {"c", bare}, {"b", bare}} {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: c[0], ClientID: c[0], SPIFFEID: c[1], Auth: grant.AuthSPIFFE})
		}
	})
	for id, want := range map[string]string{web: "web", bare: "b"} {
		if c := d.ClientFor(id, id); c == nil || c.Name != want {
			t.Errorf("%s: got %+v, want %s", id, c, want)
		}
	}
	if c := d.ClientFor("a", web); c == nil || c.Name != "a" {
		t.Errorf("got %+v", c)
	}
}

// A record that may not be is no reason to give its workload more.
func TestSecFaultyClientIsDisabled(t *testing.T) {
	o := world()
	o.Clients = append(o.Clients, grant.Client{Namespace: "zoo", Name: "z", ClientID: "ci", SPIFFEID: bare, Auth: grant.AuthSPIFFE})
	d, faults := grant.New(o)
	if len(faults) != 1 || faults[0].Namespace != "zoo" {
		t.Fatalf("got %+v", faults)
	}
	if c := d.ClientFor(bare, bare); c == nil || !c.Disabled || c.Implicit {
		t.Errorf("got %+v, want the record, disabled", c)
	}
	if c := d.Client("ci"); c == nil || c.Namespace != "shop" || c.Disabled {
		t.Errorf("the first keeps its name: got %+v", c)
	}
	if o.Clients[len(o.Clients)-1].Disabled {
		t.Error("the objects were changed")
	}
}
