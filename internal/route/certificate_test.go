package route

import (
	"slices"
	"testing"
)

// Of several certificates the one whose names fit the server name most exactly is shown, then the first.
func TestByFit(t *testing.T) {
	names := [][]string{{"z.test"}, {"*.w.test"}, {"b.w.test", "c.test"}, {"*.w.test", "b.w.test"}}
	for server, want := range map[string][]int{
		"b.w.test": {2, 3, 1, 0}, "x.w.test": {1, 3, 0, 2}, "a.b.w.test": {0, 1, 2, 3}, "w.test": {0, 1, 2, 3}, "": {0, 1, 2, 3}, "c.test": {2, 0, 1, 3},
	} {
		if got := ByFit(names, server); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", server, got, want)
		}
	}
}

// A file lies below a namespace's directory, or nowhere.
func TestCertificatePlace(t *testing.T) {
	dirs := []string{"/etc/certs", "/srv/"}
	for file, want := range map[string]string{
		"/etc/certs/shop/chain.pem": "/etc/certs shop/chain.pem", "/srv/shop/a/b.pem": "/srv/ shop/a/b.pem",
		"/etc/certs/chain.pem": "", "/etc/certs2/shop/a": "", "/etc/certs/shop/": "", "/etc/certs//a": "", "/etc/certs": "", "shop/a": "", "": "",
	} {
		dir, below, ok := CertificatePlace(dirs, file)
		if got := dir + " " + below; ok != (want != "") || ok && got != want {
			t.Errorf("%s: got %q %v, want %q", file, got, ok, want)
		}
	}
}

// A Gateway has the Secrets it refers to and may see, and no others.
func TestSecSecretsOf(t *testing.T) {
	g := edge(
		certified(open("a", 443, HTTPS, "a.test"), secret("infra", "two"), secret("b", "granted"), secret("b", "other"), secret("c", "s")),
		certified(open("b", 443, HTTPS, "b.test"), secret("infra", "one"), secret("infra", "two"), Ref{Kind{"", "ConfigMap"}, Name{"infra", "cm"}}),
		certified(open("c", 80, HTTP, ""), secret("infra", "plain")),
	)
	o := Objects{Gateways: []Gateway{g}, Grants: []Grant{grantIn("b", GrantFrom{gatewayKind, "infra"}, GrantTo{secretKind, "granted"}), grantIn("c", GrantFrom{httpRouteKind, "infra"}, GrantTo{secretKind, ""})}}
	if got, want := o.SecretsOf(&g), []Name{{"b", "granted"}, {"infra", "one"}, {"infra", "two"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
