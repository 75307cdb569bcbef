package route

import (
	"strings"
	"testing"
)

func service(namespace, name string) Ref {
	return Ref{serviceKind, Name{namespace, name}}
}

func secret(namespace, name string) Ref { return Ref{secretKind, Name{namespace, name}} }

func grantIn(namespace string, from GrantFrom, to GrantTo) Grant {
	return Grant{Meta: Meta{Name: Name{namespace, "grant"}}, From: []GrantFrom{from}, To: []GrantTo{to}}
}

// Group, kind and namespace of from are exact, group and kind of to as well,
// its name exact or absent; the grant stands in the namespace of the target.
func TestGrantIsExact(t *testing.T) {
	from := GrantFrom{httpRouteKind, "shop"}
	to := GrantTo{serviceKind, "orders"}
	for _, c := range []struct {
		name  string
		grant Grant
		want  bool
	}{
		{"exact", grantIn("back", from, to), true},
		{"every name", grantIn("back", from, GrantTo{serviceKind, ""}), true},
		{"in the namespace of the route", grantIn("shop", from, to), false},
		{"in a third namespace", grantIn("other", from, to), false},
		{"from another namespace", grantIn("back", GrantFrom{httpRouteKind, "shop2"}, to), false},
		{"from no namespace", grantIn("back", GrantFrom{httpRouteKind, ""}, to), false},
		{"from another kind", grantIn("back", GrantFrom{gatewayKind, "shop"}, to), false},
		{"from another group", grantIn("back", GrantFrom{Kind{"", "HTTPRoute"}, "shop"}, to), false},
		{"to another name", grantIn("back", from, GrantTo{serviceKind, "order"}), false},
		{"to another kind", grantIn("back", from, GrantTo{secretKind, "orders"}), false},
		{"to another group", grantIn("back", from, GrantTo{Kind{"v1", "Service"}, "orders"}), false},
		{"kind in other case", grantIn("back", from, GrantTo{Kind{"", "service"}, "orders"}), false},
		{"empty", Grant{Meta: Meta{Name: Name{"back", "grant"}}}, false},
		{"any of from with any of to", Grant{
			Meta: Meta{Name: Name{"back", "grant"}},
			From: []GrantFrom{{gatewayKind, "x"}, from}, To: []GrantTo{{secretKind, ""}, to},
		}, true},
	} {
		if got := permitted([]Grant{c.grant}, httpRouteKind, "shop", service("back", "orders")); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
	if !permitted(nil, httpRouteKind, "back", service("back", "orders")) {
		t.Error("a reference within a namespace asked for a grant")
	}
	split := []Grant{grantIn("back", from, GrantTo{serviceKind, "x"}), grantIn("back", GrantFrom{httpRouteKind, "x"}, to)}
	if permitted(split, httpRouteKind, "shop", service("back", "orders")) {
		t.Error("from of one grant was joined with to of another")
	}
}

func TestResolveBackend(t *testing.T) {
	facts := Facts{Backend: func(r Ref, port uint16) Backing {
		switch r.Name.Name {
		case "orders", "api.example.com":
			if port == 80 {
				return Usable
			}
			return NoPort
		case "db":
			return NotHTTP
		case "foreign":
			return NoIdentity
		}
		return NoService
	}}
	grants := []Grant{grantIn("back", GrantFrom{httpRouteKind, "shop"}, GrantTo{serviceKind, "orders"})}
	for _, c := range []struct {
		name         string
		ref          Ref
		port         uint16
		reason, text string
	}{
		{"usable", service("shop", "orders"), 80, "", ""},
		{"external host", Ref{hostnameKind, Name{"shop", "api.example.com"}}, 80, "", ""},
		{"unknown kind", Ref{Kind{"", "Pod"}, Name{"shop", "orders"}}, 80, "InvalidKind", `Pod "shop/orders" is no backend`},
		{"unknown group", Ref{Kind{"x.test", "Service"}, Name{"shop", "orders"}}, 80, "InvalidKind", `x.test/Service "shop/orders" is no backend`},
		{"no service", service("shop", "order"), 80, "BackendNotFound", `Service "shop/order" does not exist`},
		{"no port", service("shop", "orders"), 81, "BackendNotFound", "no port 81"},
		{"port not written", service("shop", "orders"), 0, "BackendNotFound", "without a port"},
		{"not HTTP", service("shop", "db"), 80, "UnsupportedProtocol", "does not speak HTTP"},
		{"no identity", service("shop", "foreign"), 80, "UnsupportedProtocol", "no identity: "},
		{"granted", service("back", "orders"), 80, "", ""},
		{"granted, no port", service("back", "orders"), 81, "BackendNotFound", "no port 81"},
		{"not granted", service("back", "db"), 80, "RefNotPermitted", `namespace "shop"`},
		{"not granted, and not there", service("back", "nothing"), 80, "RefNotPermitted", "ReferenceGrant"},
	} {
		got := ResolveBackend(&HTTPRoute{Meta: Meta{Name: Name{"shop", "r"}}}, &Backend{Ref: c.ref, Port: c.port}, grants, facts)
		if got.Reason != c.reason || !strings.Contains(got.Text, c.text) || (got.Text == "") != (c.reason == "") {
			t.Errorf("%s: %+v, want %s with %q", c.name, got, c.reason, c.text)
		}
	}
	orders := &Backend{Ref: service("shop", "orders"), Port: 80}
	if got := ResolveBackend(&HTTPRoute{Meta: Meta{Name: Name{"shop", "r"}}}, orders, nil, Facts{}); got.Reason != "BackendNotFound" {
		t.Errorf("without facts: %+v, want BackendNotFound", got)
	}
}

func TestResolveExtension(t *testing.T) {
	facts := Facts{RateLimit: func(n Name) bool { return n.Name == "public" }}
	for _, c := range []struct {
		name   string
		to     Ref
		reason string
	}{
		{"known", Ref{rateLimitKind, Name{"shop", "public"}}, ""},
		{"unknown name", Ref{rateLimitKind, Name{"shop", "private"}}, "InvalidKind"},
		{"other namespace", Ref{rateLimitKind, Name{"back", "public"}}, "InvalidKind"},
		{"other kind", Ref{Kind{"countersign.dev", "Workload"}, Name{"shop", "public"}}, "InvalidKind"},
	} {
		if got := ResolveExtension(&HTTPRoute{Meta: Meta{Name: Name{"shop", "r"}}}, c.to, facts); got.Reason != c.reason {
			t.Errorf("%s: %+v, want %q", c.name, got, c.reason)
		}
	}
}
