package proxy

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

func namesView() *view {
	return newView(&State{
		TrustDomain: "corp.example", Namespaces: map[string]bool{"default": true, "shop": true},
		Services: map[ServiceKey]*Service{
			{"shop", "orders"}: {
				Namespace: "shop", Name: "orders",
				Ports:     []ServicePort{{Number: 80, Target: 8080, Protocol: "http"}, {Number: 9000, Target: 9000, Protocol: "grpc"}},
				Instances: []Instance{{ID: "i1", State: "ready", Ports: map[uint16]uint16{80: 8081}}, {ID: "i2", State: "draining"}, {ID: "i3", State: "starting"}},
			},
			{"default", "web"}: {Namespace: "default", Name: "web"},
		},
	})
}

func TestFind(t *testing.T) {
	v := namesView()
	orders := ServiceKey{"shop", "orders"}
	for _, tc := range []struct {
		host, ns string
		key      ServiceKey
		want     reach
	}{
		{"orders", "shop", orders, inside},
		{"orders", "default", ServiceKey{"default", "orders"}, unknown},
		{"orders.shop", "default", orders, inside},
		{"orders.shop.svc", "default", orders, inside},
		{"orders.shop.svc.corp.example", "default", orders, inside},
		{"i1.orders.shop.svc.corp.example", "default", orders, inside},
		{"i9.orders.shop.svc.corp.example", "default", orders, unknown},
		{"nothing.shop", "default", ServiceKey{"shop", "nothing"}, unknown},
		{"nothing.gone.svc", "default", ServiceKey{"gone", "nothing"}, unknown},
		{"orders.gone", "shop", ServiceKey{}, outside},
		{"example.com", "shop", ServiceKey{}, outside},
		{"svc.corp.example", "shop", ServiceKey{}, outside},
		{"192.0.2.1", "shop", ServiceKey{}, outside},
		{"2001:db8::1", "shop", ServiceKey{}, outside},
		{"a.b.c.d.svc.corp.example", "shop", ServiceKey{}, unknown},
	} {
		if key, kind := v.find(tc.host, tc.ns); key != tc.key || kind != tc.want {
			t.Errorf("%s from %s: got %v %v, want %v %v", tc.host, tc.ns, key, kind, tc.key, tc.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	v := namesView()
	first, second := v.place(ServiceKey{"shop", "orders"}, 80), v.place(ServiceKey{"shop", "orders"}, 9000)
	if len(first.ready) != 1 || first.ready[0].serverName != "i1.orders.shop.svc.corp.example" || first.ready[0].port != 8081 {
		t.Errorf("first port: %+v", first.ready)
	}
	if len(second.ready) != 1 || second.ready[0].serverName != "_9000.i1.orders.shop.svc.corp.example" || second.ready[0].port != 9000 {
		t.Errorf("second port: %+v", second.ready)
	}
	if got := countStates([]Instance{{State: "starting"}, {State: "draining"}, {State: "starting"}}); got != "2 starting, 1 draining" {
		t.Errorf("got %q", got)
	}
}

// FuzzServerName: no name, however odd, may panic, and every name we make means what it was made of.
func FuzzServerName(f *testing.F) {
	for _, s := range []string{"i1.orders.shop.svc.corp.example", "_80.orders.shop.svc.corp.example", "_.svc.corp.example", ".svc.corp.example", ""} {
		f.Add(s)
	}
	v := namesView()
	f.Fuzz(func(t *testing.T, name string) {
		m, ok := v.parseServerName(name)
		if ok && (!strings.HasSuffix(strings.ToLower(name), v.suffix) || strings.Contains(m.key.Name+m.key.Namespace+m.instance, ".")) {
			t.Fatalf("%q means %+v", name, m)
		}
	})
}

func TestSpan(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, tc := range []struct {
		in   string
		kept bool
	}{
		{good, true},
		{"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true},
		{good + "-more", false},
		{"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false},
		{strings.ToUpper(good), false},
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", false},
		{"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false},
		{"", false},
	} {
		h := http.Header{"Traceparent": {tc.in}, "Tracestate": {"a=b, countersign=x", "countersign=y"}}
		s := newSpan(h)
		s.write(h)
		out := h.Get("Traceparent")
		if strings.Contains(out, "0af7651916cd43dd8448eb211c80319c") != tc.kept || strings.Contains(out, "b7ad6b7169203331") || !new(span).parse(out) {
			t.Errorf("%q became %q", tc.in, out)
		}
		if got := h.Get("Tracestate"); tc.kept && got != "a=b" || !tc.kept && got != "" {
			t.Errorf("%q: tracestate %q", tc.in, got)
		}
	}
}

// FuzzTraceparent: whatever came, what goes on is a valid traceparent of our own span, in the
// same trace only if theirs was valid.
func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more")
	f.Add("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x")
	f.Fuzz(func(t *testing.T, in string) {
		h := http.Header{"Traceparent": {in}, "Tracestate": {in, "countersign=x"}}
		s := newSpan(h)
		s.write(h)
		var out, theirs span
		if text := h.Get("Traceparent"); len(text) != 55 || !out.parse(text) || out.parent != s.id || out.trace != s.trace {
			t.Fatalf("%q became %q", in, text)
		}
		valid := theirs.parse(in)
		if valid && (theirs.trace != out.trace || theirs.parent != s.parent || theirs.flags != out.flags || !strings.Contains(in, out.String()[3:35])) {
			t.Fatalf("%q became %q", in, h.Get("Traceparent"))
		}
		if states, kept := h["Tracestate"]; kept && (!valid || strings.Contains(strings.Join(states, ","), "countersign=x")) {
			t.Fatalf("tracestate %q beside %q", states, in)
		}
	})
}

// FuzzCredentials: only Basic with the run's secret as its password is the secret.
func FuzzCredentials(f *testing.F) {
	f.Add("Basic "+base64.StdEncoding.EncodeToString([]byte("web:s3cret")), "s3cret")
	f.Add("basic d2ViOg==", "")
	f.Add("Bearer s3cret", "s3cret")
	f.Fuzz(func(t *testing.T, header, secret string) {
		x := &exchange{run: &run{Run: Run{Secret: secret}}, secret: header}
		if !x.knowsSecret() {
			return
		}
		plain, err := base64.StdEncoding.DecodeString(strings.Trim(header[min(len(header), 6):], " "))
		if err != nil || secret == "" || !strings.EqualFold(header[:6], "Basic ") || !strings.HasSuffix(string(plain), ":"+secret) {
			t.Fatalf("%q counts as %q", header, secret)
		}
	})
}

// FuzzGRPCTimeout: a time is never negative, and what is valid is what it says.
func FuzzGRPCTimeout(f *testing.F) {
	f.Add("50m")
	f.Add("99999999H")
	f.Add("-1S")
	f.Fuzz(func(t *testing.T, in string) {
		if d := grpcTimeout([]string{in}); d < 0 || d > 0 && (len(in) > 9 || in[0] < '0' || in[0] > '9') {
			t.Fatalf("%q is %v", in, d)
		}
	})
}
