package policy

import (
	"net/http"
	"strings"
	"testing"
)

// one is the short form of istio-semantics 13.1: a rule with one source and one operation.
func one(s Source, o Operation) Rule {
	var r Rule
	if usesPeer(s) || usesToken(s) {
		r.From = []Source{s}
	}
	if usesHTTP(o) || len(o.Ports)+len(o.NotPorts) > 0 {
		r.To = []Operation{o}
	}
	return r
}

func allow(rules ...Rule) Policy {
	return Policy{Namespace: "shop", Name: "a", Action: Allow, Rules: rules}
}
func deny(rules ...Rule) Policy {
	return Policy{Namespace: "shop", Name: "d", Action: Deny, Rules: rules}
}

func from(s Source) Rule          { return one(s, Operation{}) }
func to(o Operation) Rule         { return one(Source{}, o) }
func principals(v ...string) Rule { return from(Source{Principals: v}) }
func namespaces(v ...string) Rule { return from(Source{Namespaces: v}) }
func accounts(v ...string) Rule   { return from(Source{ServiceAccounts: v}) }
func methods(v ...string) Rule    { return to(Operation{Methods: v}) }
func paths(v ...string) Rule      { return to(Operation{Paths: v}) }
func hosts(v ...string) Rule      { return to(Operation{Hosts: v}) }
func ports(v ...string) Rule      { return to(Operation{Ports: v}) }

// asked is a request of the tables; GET /x to host api at port 8080 unless said.
type asked struct {
	id     string // without spiffe://; as=ns/sa of the tables is prod.example/ns/…
	method string
	path   string
	host   string
	tcp    bool
	http2  bool

	jwt     string   // verified claims
	token   *card    // the same, where JSON is not enough
	headers []string // name=value, a line each
	query   string   // behind the ?; "?" is an empty one
	cut     bool     // a token was taken out of it
	claimed string   // a scheme of the request's own
	socket  bool     // a WebSocket upgrade
}

func as(nsSA string) string {
	p := "prod.example/ns/"
	for i := range nsSA {
		if nsSA[i] == '/' {
			return p + nsSA[:i] + "/sa/" + nsSA[i+1:]
		}
	}
	return p + nsSA
}

func (a asked) conn() Conn {
	c := Conn{Port: 8080, HTTP: true}
	if a.tcp {
		c = Conn{Port: 5432}
	}
	if a.id != "" {
		p := ParsePeer(a.id, "prod.example")
		c.Peer = &p
	}
	return c
}

func (a asked) request() *Request {
	if a.tcp {
		return nil
	}
	r := &Request{Method: "GET", Host: "api", Path: "/x"}
	if a.method != "" {
		r.Method = a.method
	}
	if a.host != "" {
		r.Host = a.host
	}
	if a.path != "" {
		r.Path = a.path
	}
	if w := wideOf(r.Path); w != r.Path {
		r.Wide = w
	}
	r.Scheme = "http"
	if a.id != "" {
		r.Scheme = "https"
	}
	if a.token != nil {
		r.Token = a.token
	} else if a.jwt != "" {
		r.Token = jwt(a.jwt)
	}
	for _, h := range a.headers {
		name, value, _ := strings.Cut(h, "=")
		if r.Header == nil {
			r.Header = http.Header{}
		}
		http.Header(r.Header).Add(name, value)
	}
	r.Query, r.HasQuery = strings.TrimPrefix(a.query, "?"), a.query != ""
	r.QueryCut, r.ClaimedScheme, r.HTTP2, r.WebSocket = a.cut, a.claimed, a.http2, a.socket
	return r
}

var shopAPI = Destination{Namespace: "shop", Labels: map[string]string{"app": "api"}}

// The table of istio-semantics 13.1, as far as the fields of this version go. There are no
// aliases yet, so P20 is left out. Paths are given normalized.
func TestIstioCases(t *testing.T) {
	get := asked{}
	web := asked{id: as("shop/web")}
	partner := asked{id: "partner.example/ns/shop/sa/web"}
	node := asked{id: as("countersign/node-a")}
	region := asked{id: "prod.example/region/eu/ns/shop/sa/web"}
	tcp := asked{id: as("shop/web"), tcp: true}
	path := func(p string) asked { return asked{path: p} }
	host := func(h string) asked { return asked{host: h} }
	for _, c := range []struct {
		name     string
		policies []Policy
		ask      asked
		allow    bool
	}{
		{"P1", []Policy{allow()}, web, false},
		{"P2", []Policy{allow(Rule{})}, get, true},
		{"P3", []Policy{deny(Rule{})}, web, false},
		{"P4", []Policy{allow(), {Namespace: "shop", Name: "b", Action: Allow, Rules: []Rule{methods("GET")}}}, get, true},
		{"P5", []Policy{allow(Rule{}), deny(methods("DELETE"))}, asked{id: as("shop/web"), method: "DELETE"}, false},
		{"P6", []Policy{allow(Rule{}), deny(methods("DELETE"))}, web, true},
		{"P7", []Policy{deny(methods("DELETE"))}, get, true},
		{"P8", []Policy{allow(methods("GET"), to(Operation{Methods: []string{"POST"}, Paths: []string{"/in"}}))}, asked{method: "POST", path: "/in"}, true},
		{"P9", []Policy{allow(methods("GET"), to(Operation{Methods: []string{"POST"}, Paths: []string{"/in"}}))}, asked{method: "POST", path: "/other"}, false},
		{"P11", []Policy{allow(principals("*"))}, get, false},
		{"P12", []Policy{allow(principals("*"))}, web, true},
		{"P13", []Policy{allow(principals("prod.example/ns/shop/sa/web"))}, web, true},
		{"P14", []Policy{allow(principals("prod.example/ns/shop/sa/web"))}, asked{id: as("shop/web2")}, false},
		{"P15", []Policy{allow(principals("prod.example/ns/shop/sa/web*"))}, asked{id: as("shop/web2")}, true},
		{"P16", []Policy{allow(principals("*/sa/web"))}, asked{id: as("crm/web")}, true},
		{"P17", []Policy{allow(principals("spiffe://prod.example/ns/shop/sa/web"))}, web, false},
		{"P18", []Policy{allow(principals("cluster.local/ns/shop/sa/web"))}, web, true},
		{"P19", []Policy{allow(principals("cluster.local/ns/shop/*"))}, web, false},
		{"P21", []Policy{allow(principals("*"))}, partner, false},
		{"P22", []Policy{allow(principals("partner.example/ns/shop/sa/web"))}, partner, true},
		{"P22 by prefix", []Policy{allow(principals("partner.example/*"))}, partner, true},
		{"P22 not whole", []Policy{allow(principals("partner.exam*"))}, partner, false},
		{"P23", []Policy{allow(namespaces("shop"))}, partner, false},
		{"P26", []Policy{deny(namespaces("shop"))}, partner, false},
		{"P27", []Policy{allow(namespaces("shop"))}, asked{id: as("shop-dev/web")}, false},
		{"P28", []Policy{allow(namespaces("shop*"))}, asked{id: as("shop-dev/web")}, true},
		{"P29", []Policy{allow(namespaces("*-dev"))}, asked{id: as("shop-dev/web")}, true},
		{"P30", []Policy{allow(namespaces("*a"))}, web, false},
		{"P31", []Policy{allow(namespaces("*"))}, get, false},
		{"P32", []Policy{allow(from(Source{NotNamespaces: []string{"dev"}}))}, get, true},
		{"P33", []Policy{allow(from(Source{NotNamespaces: []string{"dev"}, Principals: []string{"*"}}))}, get, false},
		{"P34", []Policy{deny(from(Source{NotNamespaces: []string{"shop"}}))}, get, false},
		{"P35", []Policy{deny(from(Source{NotPrincipals: []string{"*"}}))}, get, false},
		{"P36", []Policy{deny(from(Source{NotPrincipals: []string{"*"}}))}, web, true},
		{"P36a", []Policy{deny(from(Source{NotPrincipals: []string{"*"}}))}, asked{id: "partner.example/ns/a/sa/b"}, false},
		{"P36b", []Policy{deny(from(Source{NotPrincipals: []string{"*", "partner.example/*"}}))}, asked{id: "partner.example/ns/a/sa/b"}, true},
		{"P36c", []Policy{allow(principals("*"))}, node, false},
		{"P36c prefix", []Policy{allow(principals("prod.example/ns/count*"))}, node, false},
		{"P36c suffix", []Policy{allow(principals("*/sa/node-a"))}, node, false},
		{"P36c namespace", []Policy{allow(namespaces("*", "count*"))}, node, false},
		{"P36c named", []Policy{allow(principals("*/ns/countersign/sa/node-a"))}, node, true},
		{"P36c namespace named", []Policy{allow(namespaces("countersign"))}, node, true},
		{"P36c account named", []Policy{allow(accounts("countersign/node-a"))}, node, true},
		{"P36d", []Policy{deny(principals("*"))}, node, false},
		{"P37", []Policy{allow(accounts("web"))}, web, true},
		{"P38", []Policy{allow(accounts("web"))}, asked{id: as("crm/web")}, false},
		{"P39", []Policy{allow(accounts("crm/web"))}, asked{id: as("crm/web")}, true},
		{"P40", []Policy{allow(accounts("crm/web"))}, asked{id: as("crm/web2")}, false},
		{"P41", []Policy{allow(accounts("web"))}, region, false},
		{"P42", []Policy{deny(accounts("web"))}, region, false},
		{"wide namespace", []Policy{deny(namespaces("shop"))}, region, false},
		{"P55", []Policy{allow(ports("8080"))}, get, true},
		{"P56", []Policy{allow(ports("80"))}, get, false},
		{"P57", []Policy{allow(to(Operation{NotPorts: []string{"9090"}}))}, get, true},
		{"P61", []Policy{allow(hosts("API.Example.com"))}, host("api.example.com"), true},
		{"P62", []Policy{allow(hosts("api.example.com"))}, host("api.example.com:8443"), false},
		{"P63", []Policy{allow(hosts("api.example.com", "api.example.com:*"))}, host("api.example.com:8443"), true},
		{"P64", []Policy{deny(hosts("admin.example.com"))}, host("admin.example.com:8443"), false},
		{"P65", []Policy{deny(hosts("admin.example.com"))}, host("admin.example.com."), false},
		{"P65 both", []Policy{deny(hosts("admin.example.com"))}, host("ADMIN.example.com.:443"), false},
		{"P66", []Policy{allow(to(Operation{NotHosts: []string{"admin.example.com"}}))}, host("admin.example.com:1"), false},
		{"P67", []Policy{allow(hosts("*.example.com"))}, host("example.com"), false},
		{"P68", []Policy{allow(methods("get"))}, get, false},
		{"P69", []Policy{allow(methods("GET"))}, asked{method: "HEAD"}, false},
		{"P70", []Policy{allow(methods("*"))}, asked{method: "PURGE"}, true},
		{"P71", []Policy{allow(methods("P*"))}, asked{method: "PATCH"}, true},
		{"P72", []Policy{allow(to(Operation{Methods: []string{"POST"}, Paths: []string{"/pkg.Cart/Add"}}))}, asked{method: "POST", path: "/pkg.Cart/Add"}, true},
		{"P82", []Policy{allow(paths("/info"))}, path("/info/"), false},
		{"P83", []Policy{allow(paths("/info*"))}, path("/information"), true},
		{"P83a", []Policy{allow(paths("/**"))}, path("/orders"), false},
		{"P84", []Policy{allow(paths("info*"))}, path("/info"), false},
		{"P85", []Policy{allow(paths("*.png"))}, path("/a/b.png"), true},
		{"P86", []Policy{allow(paths("*"))}, path("/"), true},
		{"P87", []Policy{allow(paths("/a/*/c"))}, path("/a/b/c"), false},
		{"P88", []Policy{allow(paths("*admin*"))}, path("/x/admin/y"), false},
		{"P89", []Policy{allow(paths("/v1/{*}/items"))}, path("/v1/7/items"), true},
		{"P90", []Policy{allow(paths("/v1/{*}/items"))}, path("/v1//items"), false},
		{"P91", []Policy{allow(paths("/v1/{*}/items"))}, path("/v1/7/8/items"), false},
		{"P92", []Policy{allow(paths("/v1/{**}"))}, path("/v1/"), true},
		{"P93", []Policy{allow(paths("/v1/{**}"))}, path("/v1"), false},
		{"P94", []Policy{allow(paths("/v1/{**}/end"))}, path("/v1/a/b/end"), true},
		{"P95", []Policy{allow(paths("/v1/{**}/end"))}, path("/v1/end"), false},
		{"P95 empty", []Policy{allow(paths("/v1/{**}/end"))}, path("/v1//end"), true},
		{"P96", []Policy{allow(paths("/v1/{*}"))}, path("/v1/a*b"), true},
		{"P96a", []Policy{allow(paths("/v1/{*}"))}, path("/v1/a[b]"), false},
		{"P96b", []Policy{allow(paths("/v1/{*}/"))}, path("/v1/7"), false},
		{"P96b with it", []Policy{allow(paths("/v1/{*}/"))}, path("/v1/7/"), true},
		{"P97", []Policy{deny(paths("/v1/{*}"))}, path("/v1/a[b]"), false},
		{"P101", []Policy{deny(paths("/admin*"))}, path("//admin"), false},
		{"P102", []Policy{deny(paths("/admin/*"))}, path("/admin%2Fusers"), false},
		{"P103", []Policy{deny(paths("/admin"))}, path("/admin;v=1"), false},
		{"P104", []Policy{deny(paths("/admin*"))}, path("/Admin"), true},
		{"P107", []Policy{deny(paths("/admin*"))}, path("/%2561dmin"), true},
		{"P108", []Policy{allow(to(Operation{NotPaths: []string{"/admin*"}}))}, path("//admin"), false},
		{"P109", []Policy{allow(paths("/projects/{*}"))}, path("/projects/g%2Fp"), true},
		{"P110", []Policy{deny(to(Operation{NotPaths: []string{"/public/*"}}))}, path("/public%2Fx"), false},
		{"P132", []Policy{allow(one(Source{Principals: []string{"*/sa/web"}}, Operation{Methods: []string{"GET"}}))}, tcp, false},
		{"P133", []Policy{allow(principals("*/sa/web"), methods("GET"))}, tcp, true},
		{"P134", []Policy{deny(methods("DELETE"))}, tcp, false},
		{"P135", []Policy{deny(to(Operation{Methods: []string{"DELETE"}, Ports: []string{"8080"}}))}, tcp, true},
		{"P136", []Policy{deny(one(Source{Namespaces: []string{"dev"}}, Operation{Paths: []string{"/x"}}))}, asked{id: as("dev/t"), tcp: true}, false},
		{"P137", []Policy{deny(one(Source{Namespaces: []string{"dev"}}, Operation{Paths: []string{"/x"}}))}, tcp, true},
		{"P138", []Policy{deny(to(Operation{NotMethods: []string{"GET"}}))}, tcp, false},
		{"P141", []Policy{allow(one(Source{Principals: []string{"*/sa/web"}}, Operation{Ports: []string{"5432"}}))}, tcp, true},
		{"ALLOW rule dropped whole on TCP", []Policy{allow(Rule{To: []Operation{{Ports: []string{"5432"}}, {Methods: []string{"GET"}}}})}, tcp, false},
		{"a path that is absent is in no list", []Policy{allow(paths("*"))}, asked{method: "CONNECT", path: "none"}, false},
		{"and out of every not list", []Policy{allow(to(Operation{NotPaths: []string{"*"}}))}, asked{method: "CONNECT", path: "none"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := Set{TrustDomain: "prod.example", Policies: c.policies}
			compiled, faults := Compile(set)
			if len(faults) > 0 {
				t.Fatalf("faults %v", faults)
			}
			q := c.ask.request()
			if q != nil && q.Path == "none" {
				q.Path, q.Wide = "", ""
			}
			bound := compiled.For(shopAPI).Bind(c.ask.conn())
			if v := bound.Decide(q); v.Allow != c.allow {
				t.Errorf("got %+v, want allow %v", v, c.allow)
			}
		})
	}
}

// Table 13.5 of istio-semantics: which policies attach.
func TestAttachment(t *testing.T) {
	root := func(name string, a Action, rules ...Rule) Policy {
		return Policy{Namespace: "istio-system", Name: name, Action: a, Rules: rules}
	}
	selecting := func(p Policy, labels map[string]string) Policy { p.Selector = labels; return p }
	in := func(ns string) Destination {
		return Destination{Namespace: ns, Labels: map[string]string{"app": "web", "tier": "1"}}
	}
	nothing := root("allow-nothing", Allow)
	for _, c := range []struct {
		name     string
		policies []Policy
		to       Destination
		ask      asked
		reason   string
	}{
		{"S1 another namespace", []Policy{deny(Rule{})}, in("crm"), asked{}, ReasonNoPolicy},
		{"S2 root", []Policy{root("d", Deny, Rule{})}, in("crm"), asked{}, ReasonDenyRule},
		{"S3 root with selector", []Policy{selecting(root("d", Deny, Rule{}), map[string]string{"app": "web"})}, in("crm"), asked{}, ReasonDenyRule},
		{"S3 selector of another", []Policy{selecting(root("d", Deny, Rule{}), map[string]string{"app": "api"})}, in("crm"), asked{}, ReasonNoPolicy},
		{"S4 two labels, one there", []Policy{selecting(deny(Rule{}), map[string]string{"app": "web", "v": "1"})}, in("shop"), asked{}, ReasonNoPolicy},
		{"S4 both there", []Policy{selecting(deny(Rule{}), map[string]string{"app": "web", "tier": "1"})}, in("shop"), asked{}, ReasonDenyRule},
		{"S5 empty selector", []Policy{selecting(deny(Rule{}), map[string]string{})}, in("shop"), asked{}, ReasonDenyRule},
		{"S6 union", []Policy{nothing, allow(methods("GET"))}, in("shop"), asked{}, ReasonAllowRule},
		{"S6 alone", []Policy{nothing}, in("shop"), asked{}, ReasonNoRule},
		{"S6a allow-nothing", []Policy{nothing}, in("countersign"), asked{}, ReasonNoPolicy},
		{"S6a DENY evil", []Policy{nothing, root("d", Deny, principals("*/sa/evil"))}, in("countersign"), asked{id: as("shop/evil")}, ReasonDenyRule},
		{"S6a DENY web", []Policy{nothing, root("d", Deny, principals("*/sa/evil"))}, in("countersign"), asked{id: as("shop/web")}, ReasonNoPolicy},
		{"S6b own ALLOW", []Policy{nothing, {Namespace: "countersign", Name: "a", Action: Allow, Rules: []Rule{namespaces("shop")}}}, in("countersign"), asked{id: as("crm/x")}, ReasonNoRule},
		{"S7 root DENY, namespace ALLOW", []Policy{root("d", Deny, Rule{}), allow(Rule{})}, in("shop"), asked{}, ReasonDenyRule},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: c.policies})
			bound := compiled.For(c.to).Bind(c.ask.conn())
			if v := bound.Decide(c.ask.request()); v.Reason != c.reason {
				t.Errorf("got %+v, want %s", v, c.reason)
			}
		})
	}
}

// Table 13.4 of istio-semantics: the effective mode and who set it.
func TestModes(t *testing.T) {
	app := map[string]string{"app": "api"}
	mesh := func(m Mode) PeerAuthentication {
		return PeerAuthentication{Namespace: "istio-system", Name: "mesh", Mode: m}
	}
	space := func(name string, created int64, m Mode) PeerAuthentication {
		return PeerAuthentication{Namespace: "shop", Name: name, Mode: m, Created: created}
	}
	work := func(name string, created int64, m Mode, ports map[uint16]Mode) PeerAuthentication {
		return PeerAuthentication{Namespace: "shop", Name: name, Selector: app, Mode: m, Ports: ports, Created: created}
	}
	disable := map[uint16]Mode{9000: Disable}
	for _, c := range []struct {
		name    string
		def     Mode
		objects []PeerAuthentication
		to      Destination
		port    uint16
		mode    Mode
		from    string
	}{
		{"M1", Unset, nil, shopAPI, 80, Strict, "mesh default"},
		{"M1 set", Permissive, nil, shopAPI, 80, Permissive, "mesh default"},
		{"M2", Unset, []PeerAuthentication{mesh(Strict), space("ns", 1, Permissive)}, shopAPI, 80, Permissive, "PeerAuthentication/shop/ns"},
		{"M3", Unset, []PeerAuthentication{mesh(Strict), space("ns", 1, Unset)}, shopAPI, 80, Strict, "PeerAuthentication/istio-system/mesh"},
		{"M4", Unset, []PeerAuthentication{mesh(Permissive), space("ns", 1, Unset), work("w", 1, Strict, nil)}, shopAPI, 80, Strict, "PeerAuthentication/shop/w"},
		{"M5 port", Unset, []PeerAuthentication{space("ns", 1, Strict), work("w", 1, Unset, disable)}, shopAPI, 9000, Disable, "PeerAuthentication/shop/w"},
		{"M5 others", Unset, []PeerAuthentication{space("ns", 1, Strict), work("w", 1, Unset, disable)}, shopAPI, 80, Strict, "PeerAuthentication/shop/ns"},
		{"M6", Unset, []PeerAuthentication{work("w", 1, Permissive, map[uint16]Mode{9000: Unset})}, shopAPI, 9000, Permissive, "PeerAuthentication/shop/w"},
		{"M7 port", Unset, []PeerAuthentication{work("w", 1, Disable, map[uint16]Mode{9000: Strict})}, shopAPI, 9000, Strict, "PeerAuthentication/shop/w"},
		{"M7 others", Unset, []PeerAuthentication{work("w", 1, Disable, map[uint16]Mode{9000: Strict})}, shopAPI, 80, Disable, "PeerAuthentication/shop/w"},
		{"M8", Unset, []PeerAuthentication{mesh(Unset)}, shopAPI, 80, Strict, "mesh default"},
		{"M9", Unset, []PeerAuthentication{space("new", 2, Strict), space("old", 1, Disable)}, shopAPI, 80, Disable, "PeerAuthentication/shop/old"},
		{"M10", Unset, []PeerAuthentication{work("new", 2, Unset, disable), work("old", 1, Unset, nil)}, shopAPI, 9000, Strict, "mesh default"},
		{"M11", Unset, []PeerAuthentication{space("b", 1, Disable), space("a", 1, Permissive)}, shopAPI, 80, Permissive, "PeerAuthentication/shop/a"},
		{"M13", Unset, []PeerAuthentication{mesh(Permissive)}, Destination{Namespace: "istio-system"}, 80, Permissive, "PeerAuthentication/istio-system/mesh"},
		{"another namespace", Unset, []PeerAuthentication{space("ns", 1, Disable)}, Destination{Namespace: "crm"}, 80, Strict, "mesh default"},
		{"another workload", Unset, []PeerAuthentication{work("w", 1, Disable, nil)}, Destination{Namespace: "shop"}, 80, Strict, "mesh default"},
		{"namespace countersign", Permissive, []PeerAuthentication{mesh(Disable)}, Destination{Namespace: "countersign"}, 80, Strict, "namespace countersign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiled, faults := Compile(Set{DefaultMode: c.def, PeerAuth: c.objects})
			if len(faults) > 0 {
				t.Fatalf("faults %v", faults)
			}
			p := compiled.For(c.to)
			if mode, from := p.ModeFrom(c.port); mode != c.mode || from != c.from || p.Mode(c.port) != mode {
				t.Errorf("got %s by %s, want %s by %s", mode, from, c.mode, c.from)
			}
		})
	}
}
