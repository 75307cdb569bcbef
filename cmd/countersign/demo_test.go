package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/resource"
)

func TestMisplayed(t *testing.T) {
	id := func(name string) string { return "spiffe://cluster.local/ns/default/sa/" + name }
	call := func(from, to string) audit.Row {
		return audit.Row{From: id(from), To: id(to), Method: "GET", Route: "/orders/{*}"}
	}
	door := func(from, route string) audit.Row {
		return audit.Row{From: from, To: id("edge"), Method: "GET", Route: route}
	}
	allowed := func(n uint64, r audit.Row) audit.Row { r.Allowed = n; return r }
	refused := func(n uint64, by string, r audit.Row) audit.Row { r.Refused, r.RefusedBy = n, by; return r }
	limited := func(n uint64, r audit.Row) audit.Row { r.Limited = n; return r }
	nobody, payments := call("web", "orders"), call(intruder, "payments")
	nobody.Route, payments.Method, payments.Route = "/orders", "POST", "/payments"
	scrapes := door("key:default:scraper", "/stock/{*}")
	good := []audit.Row{
		allowed(3, door("p1:7kq2rrrr", "/orders/{*}")), allowed(3, call("web", "orders")),
		refused(1, audit.LayerAuthz, nobody), refused(1, audit.LayerToken, call(intruder, "orders")), refused(2, audit.LayerAuthz, payments),
		refused(1, audit.LayerAuthz, door("", "/orders/{*}")), refused(1, audit.LayerAuthz, door("key:default:partner", "/orders/{*}")),
		allowed(2, limited(4, scrapes)),
	}
	instead := func(at int, r audit.Row) []audit.Row {
		rows := append([]audit.Row(nil), good...)
		rows[at] = r
		return rows
	}
	for _, test := range []struct {
		name string
		rows []audit.Row
		want string
	}{
		{"as intended", good, ""},
		{"refused", append(good[:8:8], refused(3, audit.LayerAuthz, call("orders", "inventory"))), "3 calls of orders → inventory were refused that should be allowed"},
		{"limited", append(good[:8:8], audit.Row{From: id("orders"), To: id("payments"), Limited: 1}), "1 call of orders → payments were refused that should be allowed"},
		{"a customer", instead(0, refused(1, audit.LayerToken, door("p1:7kq2rrrr", "/orders/{*}"))), "1 call of p1:7kq2… → edge were refused that should be allowed"},
		{"for a customer", instead(1, refused(1, audit.LayerToken, call("web", "orders"))), "1 call of web → orders were refused that should be allowed"},
		{"let in without a customer", instead(2, allowed(1, nobody)), "1 call of web → orders were allowed that should be refused"},
		{"let in with a stolen token", instead(3, allowed(1, call(intruder, "orders"))), "1 call of intruder → orders were allowed that should be refused"},
		{"a stolen token that is only not allowed", instead(3, refused(4, audit.LayerAuthz, call(intruder, "orders"))), "4 calls of intruder → orders were refused by policy, not by token"},
		{"let in", instead(4, allowed(1, payments)), "1 call of intruder → payments were allowed that should be refused"},
		{"let in elsewhere", append(good[:8:8], allowed(1, call(intruder, "inventory"))), "1 call of intruder → inventory were allowed that should be refused"},
		{"refused elsewhere", append(good[:8:8], refused(1, audit.LayerAuthz, call(intruder, "inventory"))), ""},
		{"let in with nothing", instead(5, allowed(1, door("", "/orders/{*}"))), "1 call of ? → edge were allowed that should be refused"},
		{"a stranger refused by a limit", instead(5, limited(1, door("", "/orders/{*}"))), "1 call of ? → edge were refused by limit, not by policy"},
		{"let in with a key for something else", instead(6, allowed(1, door("key:default:partner", "/orders/{*}"))), "1 call of key:partner → edge were allowed that should be refused"},
		{"a key refused", instead(7, refused(2, audit.LayerToken, scrapes)), "2 calls of key:scraper → edge were refused by token, not by limit"},
		{"a key limited that should not be", append(good[:8:8], limited(1, door("key:default:partner", "/stock/{*}"))), "1 call of key:partner → edge were refused that should be allowed"},
		{"no limit", instead(7, allowed(9, scrapes)), "15 calls allowed, 6 refused: too few to tell"},
		{"no intruder", good[:3], "6 calls allowed, 1 refused: too few to tell"},
		{"no call without a customer", append(good[:2:2], good[3:]...), "8 calls allowed, 9 refused: too few to tell"},
		{"nothing", nil, "0 calls allowed, 0 refused: too few to tell"},
	} {
		got := ""
		if err := misplayed(test.rows, true); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	if err := misplayed(good[:2], false); err != nil {
		t.Errorf("cut short: %v", err)
	}
	for i := range good {
		if got, want := opened(append(good[:i:i], good[i+1:]...)), i == 0 || i == 2; got != want {
			t.Errorf("opened without row %d: %v, want %v", i, got, want)
		}
	}
}

func TestDemoTable(t *testing.T) {
	id := func(name string) string { return "spiffe://cluster.local/ns/default/sa/" + name }
	rows := []audit.Row{
		{From: "p1:7kq2rrrr", To: id("web"), Method: "GET", Route: "/orders/{*}", Allowed: 1204, P50: time.Millisecond, P99: 2 * time.Millisecond},
		{From: id(intruder), To: id("orders"), Method: "GET", Route: "/orders/{*}", Refused: 49, RefusedBy: audit.LayerToken},
		{To: id("payments"), Refused: 1, RefusedBy: audit.LayerTLS},
	}
	var b strings.Builder
	demoTable(rows, true).write(&b)
	if got, want := b.String(), `CALLER    CALLEE    REQUEST          ALLOWED  REFUSED  BY            P50    P99
p1:7kq2…  web       GET /orders/{*}    1,204        0  -           1.0ms  2.0ms
intruder  orders    GET /orders/{*}        0       49  token           -      -
?         payments  -                      0        1  connection      -      -
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	rows[0].Limited = 2
	for wide, want := range map[bool]string{true: "CALLER CALLEE REQUEST ALLOWED REFUSED LIMITED BY P50 P99", false: "CALLER CALLEE REQUEST ALLOWED REFUSED LIMITED BY"} {
		if got := strings.Join(demoTable(rows, wide).head, " "); got != want {
			t.Errorf("with a limit, wide %v: %s", wide, got)
		}
	}
}

// What is redrawn fits the terminal; the way out and the door are always shown.
func TestDemoTries(t *testing.T) {
	d := &demo{e: &env{}, dir: "/d", door: admin.Door{Host: "shop.localhost", Port: 40123}}
	for room, want := range map[int]int{-3: 4, 0: 4, 4: 4, 5: 5, 7: 7, 90: 7} {
		got := d.tries(room)
		if n := strings.Count(got, "\n"); n != want || !strings.Contains(got, "Ctrl-C ends it") || !strings.HasPrefix(got, "try ") {
			t.Errorf("room %d: %d lines\n%s", room, n, got)
		}
		for line := range strings.Lines(got) {
			if len(line) > 81 {
				t.Errorf("%d columns: %s", len(line)-1, line)
			}
		}
	}
}

func TestDemoNames(t *testing.T) {
	for id, want := range map[string]string{
		"": "?", "spiffe://cluster.local/ns/default/sa/web": "web", "p1:": "p1:", "p1:7kq2": "p1:7kq2", "p1:7kq2rr": "p1:7kq2…",
		"key:shop:acme": "key:shop:acme", "key:default:acme": "key:acme", "spiffe://other.example/x": "spiffe://other.example/x", "a\x1b[2J": `a\x1b[2J`,
	} {
		if got := nameOf(id); got != want {
			t.Errorf("nameOf(%q) = %q, want %q", id, got, want)
		}
	}
}

func startLogin(t *testing.T) (l *loginService, dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := newLoginService(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l, dir
}

// What the demo applies has no fault, no note, and nothing of the private key.
func TestDemoPolicies(t *testing.T) {
	l, dir := startLogin(t)
	if err := l.writePolicies(40123, "https://localhost:40444"); err != nil {
		t.Fatal(err)
	}
	var texts []resource.File
	for _, name := range []string{policiesFile, doorFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, resource.File{Name: name, Data: text})
	}
	objects, faults := resource.Decode(texts, resource.Options{Gateway: true})
	for _, f := range faults {
		t.Errorf("%+v", f)
	}
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[o.Kind]++
		if o.Kind != "TrustedIssuer" {
			continue
		}
		issuer, err := resource.Issuer(o)
		if err != nil {
			t.Fatal(err)
		}
		if issuer.Issuer != customersIssuer || !strings.Contains(string(issuer.JWKS), l.signer.Key().ID()) || strings.Contains(string(issuer.JWKS), `"d"`) {
			t.Errorf("the issuer is %+v with keys %s", issuer, issuer.JWKS)
		}
	}
	if kinds["AuthorizationPolicy"] != 6 || kinds["TrustedIssuer"] != 1 || kinds["Gateway"] != 1 || kinds["RateLimit"] != 1 || len(objects) != 13 {
		t.Errorf("kinds %v", kinds)
	}
	door := string(texts[1].Data)
	if strings.Contains(door, "PUBLIC-KEY") || strings.Contains(door, standardIssuer) || !strings.Contains(door, "port: 40123") || strings.Contains(door, `"d"`) {
		t.Errorf("the door is\n%s", door)
	}
}

// A customer's token verifies as the policies ask, and is renewed before it ends.
func TestDemoLogin(t *testing.T) {
	l, dir := startLogin(t)
	keys, err := jose.NewSet(l.signer.Key())
	if err != nil {
		t.Fatal(err)
	}
	check := &jose.Check{Profile: jose.External, Issuer: customersIssuer, Keys: keys, Audiences: []string{"https://shop.example"}}
	began := time.Now()
	last, renewed := "", 0
	for at := began; at.Before(began.Add(time.Hour)); at = at.Add(time.Minute) {
		if err := l.renew(at); err != nil {
			t.Fatal(err)
		}
		token := readToken(filepath.Join(dir, tokenFile))
		got, err := check.Verify(at, token)
		if err != nil {
			t.Fatalf("after %v: %v", at.Sub(began), err)
		}
		if role, _ := got.Value("role"); got.Subject() != "alice" || role != "customer" {
			t.Errorf("sub %q, role %v", got.Subject(), role)
		}
		if token != last {
			renewed++
		}
		last = token
	}
	if renewed != 12 {
		t.Errorf("%d tokens in an hour, want 12", renewed)
	}
	if st, err := os.Stat(filepath.Join(dir, tokenFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", st.Mode(), err)
	}
}
