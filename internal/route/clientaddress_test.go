package route

import (
	"net/netip"
	"strings"
	"testing"
)

// The table of gateway.md section 20, and what hides in a list.
func TestClient(t *testing.T) {
	for _, tt := range []struct {
		peer   string
		count  int
		from   string
		lines  []string
		client string
		chain  string
	}{
		{"10.0.0.9", 0, "", []string{"1.2.3.4"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"9.9.9.9, 1.2.3.4"}, "1.2.3.4", "1.2.3.4, 10.0.0.9"},
		{"10.0.0.9", 2, "", []string{"6.6.6.6, 1.2.3.4, 10.0.0.8"}, "1.2.3.4", "1.2.3.4, 10.0.0.8, 10.0.0.9"},
		{"10.0.0.9", 2, "", []string{"1.2.3.4"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"9.9.9.9", "[2001:db8::7]:443"}, "2001:db8::7", "2001:db8::7, 10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"1.2.3.4, unknown"}, "10.0.0.9", "10.0.0.9"},
		{"203.0.113.5", 1, "10.0.0.0/8", []string{"1.2.3.4"}, "203.0.113.5", "203.0.113.5"},

		{"10.0.0.9", 1, "10.0.0.0/8", []string{"1.2.3.4"}, "1.2.3.4", "1.2.3.4, 10.0.0.9"},
		{"10.0.0.9", 1, "", nil, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"", " , "}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"1.2.3.4:8080"}, "1.2.3.4", "1.2.3.4, 10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"[2001:db8::7]"}, "2001:db8::7", "2001:db8::7, 10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"::ffff:1.2.3.4"}, "1.2.3.4", "1.2.3.4, 10.0.0.9"},
		{"10.0.0.9", 2, "", []string{"1.2.3.4, unknown"}, "1.2.3.4", "1.2.3.4, unknown, 10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"010.1.1.1"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"[1.2.3.4]"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"fe80::1%eth0"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"1.2.3.4:"}, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.9", 1, "", []string{"1.2.3.4,,"}, "1.2.3.4", "1.2.3.4, 10.0.0.9"},
	} {
		p := Proxies{Count: tt.count}
		if tt.from != "" {
			p.From, _ = ParseNetworks(tt.from)
		}
		peer := netip.MustParseAddr(tt.peer)
		client, believed := p.Client(peer, tt.lines)
		if client.String() != tt.client || p.Chain(peer, tt.lines, believed) != tt.chain {
			t.Errorf("%s, %d of %q, %q: %s, %q", tt.peer, tt.count, tt.from, tt.lines, client, p.Chain(peer, tt.lines, believed))
		}
	}
}

// What a stranger puts in front of what trusted proxies add never changes whom we take him for.
func FuzzClient(f *testing.F) {
	f.Add("9.9.9.9, [::1]:80", "1.2.3.4", 1)
	f.Add(",,", "::1", 2)
	f.Fuzz(func(t *testing.T, stranger, added string, count int) {
		peer := netip.MustParseAddr("10.0.0.9")
		p := Proxies{Count: 1 + count&3}
		client, believed := p.Client(peer, []string{stranger, added})
		if !client.IsValid() || client.Zone() != "" || client.Is4In6() || believed < 0 || believed > p.Count {
			t.Fatalf("%s, %d", client, believed)
		}
		if chain := p.Chain(peer, []string{stranger, added}, believed); strings.Count(chain, ",") != believed || strings.ContainsAny(chain, "\r\n%") {
			t.Fatalf("%q", chain)
		}
		if a, err := netip.ParseAddr(added); p.Count == 1 && err == nil && a.Zone() == "" && client != a.Unmap() {
			t.Fatalf("%q moved %s to %s", stranger, a, client)
		}
	})
}

func TestNetworks(t *testing.T) {
	n, err := ParseNetworks("10.0.0.0/8, 10.1.0.0/16,192.0.2.7 , 2001:db8::/32, 0.0.0.0/32")
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]bool{
		"10.0.0.0": true, "10.255.255.255": true, "10.1.2.3": true, "11.0.0.0": false, "9.255.255.255": false, "192.0.2.7": true,
		"192.0.2.8": false, "::ffff:10.1.1.1": true, "2001:db8:ffff::1": true, "2001:db9::": false, "::": false, "0.0.0.0": true,
	} {
		if got := n.Contains(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
	for _, s := range []string{"", "10.0.0.1/8", "x", "::ffff:1.2.3.4", "fe80::1%eth0", "1.2.3.4,", "1.2.3.4/33"} {
		if _, err := ParseNetworks(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if (&Networks{}).Contains(netip.Addr{}) || n.Contains(netip.Addr{}) {
		t.Error("no address is in a set")
	}
}

// The nearest holder counts: rule, route, listener, Gateway (gateway.md 11.2).
func TestSettings(t *testing.T) {
	r := routeOf("r", ruleNamed("a", prefix("/")), ruleNamed("b", prefix("/b")))
	r.Options = Options{"request-body": "2Ki", "request-body.b": "0", "websocket.a": "deny", "ip-deny": "10.0.0.0/8", "ip-deny.b": "192.0.2.0/24"}
	plain := routeOf("plain", ruleNamed("a", prefix("/")))
	g := Options{"request-body": "1Ki", "request-body.web": "3", "stream-idle": "5s", "ip-allow": "10.0.0.0/8", "max-connections": "9", "max-connections.web": "7",
		"trusted-proxies": "2", "hsts.web": "max-age=1", "allow-client-headers": "x-real-ip, X-Host"}
	table, _ := Compile([]Attached{
		{Listener: "web", Port: 80, Hostname: "x.test", Options: g, Routes: []Effective{on(r, "x.test"), on(plain, "y.x.test")}},
		{Listener: "other", Port: 80, Hostname: "z.test", Options: g},
	})
	p := table.Port(Name{}, 80)
	web, other := p.Router("x.test"), p.Router("z.test")
	settings := func(path string) *Settings {
		hit, _ := web.Lookup("x.test", &Request{Method: "GET", Path: path})
		return web.Settings(hit.Action)
	}
	a, b, none := settings("/"), settings("/b"), web.Settings(nil)
	if a.Body != 2<<10 || b.Body != -1 || none.Body != 3 || other.Settings(nil).Body != 1<<10 {
		t.Error("request-body:", a.Body, b.Body, none.Body, other.Settings(nil).Body)
	}
	if !a.NoWebSocket || b.NoWebSocket || none.NoWebSocket {
		t.Error("websocket")
	}
	ten, test := netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("192.0.2.1")
	if a.Guard.Admits(ten) || !a.Guard.Admits(test) || !b.Guard.Admits(ten) || b.Guard.Admits(test) || none.Guard != nil {
		t.Error("ip-deny")
	}
	if e := web.Entrance(); !e.Guard.Admits(ten) || e.Guard.Admits(test) || e.Proxies.Count != 2 || e.HSTS == "" || other.Entrance().HSTS != "" {
		t.Errorf("%+v", e)
	}
	if p.MaxConnections != 7 || p.MaxPerSource != 0 || len(p.ClientHeaders) != 2 || a.Idle.Seconds() != 5 {
		t.Errorf("%+v", p)
	}
	if hit, _ := web.Lookup("y.x.test", &Request{Path: "/"}); hit.Action != nil && web.Settings(hit.Action) != none {
		t.Error("a route without options has some")
	}
}

// A list that cannot be read lets nobody in.
func TestSecUnreadableList(t *testing.T) {
	for _, o := range []Options{{"ip-deny": "x"}, {"ip-allow": "10.0.0.0/8,x"}} {
		if g := guardOf("", holders{{o, ""}}); g.Admits(netip.MustParseAddr("10.0.0.1")) {
			t.Errorf("%v lets in", o)
		}
	}
}

// The status of a Gateway says that it believes anybody about addresses (gateway.md 20).
func TestSecBelievesAnybody(t *testing.T) {
	for _, tt := range []struct {
		options Options
		want    bool
	}{
		{nil, false}, {Options{"trusted-proxies": "1"}, true}, {Options{"trusted-proxies.web": "1"}, true}, {Options{"trusted-proxies.else": "1"}, false},
		{Options{"trusted-proxies": "1", "trusted-proxy-addresses": "10.0.0.0/8"}, false}, {Options{"trusted-proxies": "1", "trusted-proxies.web": "0"}, false},
	} {
		g := Gateway{Meta: Meta{Name: Name{"shop", "edge"}}, Class: builtInClass, Options: tt.options, Listeners: []Listener{{Name: "web", Port: 80, Protocol: HTTP}}}
		status := Status(Objects{Gateways: []Gateway{g}}, Facts{}).Gateways[g.Name]
		if got := strings.Contains(status.Conditions[0].Message, "names his address himself"); got != tt.want {
			t.Errorf("%v: %+v", tt.options, status.Conditions[0])
		}
	}
}
