package route

import (
	"reflect"
	"slices"
	"testing"
)

func TestListenerConflicts(t *testing.T) {
	at := func(name string, port uint16, p Protocol, hostname string) Listener {
		return Listener{Name: name, Port: port, Protocol: p, Hostname: hostname}
	}
	const host, proto = hostnameConflict, protocolConflict
	for _, c := range []struct {
		name      string
		listeners []Listener
		want      []string
	}{
		{"HTTP of different hostnames", []Listener{at("a", 80, HTTP, "a.test"), at("b", 80, HTTP, "*.test"), at("c", 80, HTTP, "")}, []string{"", "", ""}},
		{"HTTPS of different hostnames", []Listener{at("a", 443, HTTPS, "a.test"), at("b", 443, HTTPS, "")}, []string{"", ""}},
		{"HTTPS and TLS, chosen by SNI", []Listener{at("a", 443, HTTPS, "a.test"), at("b", 443, protocolTLS, "b.test")}, []string{"", ""}},
		{"A5 HTTPS and TLS of one hostname, and a third", []Listener{at("a", 443, HTTPS, "a.test"), at("b", 443, protocolTLS, "a.test"), at("c", 443, HTTPS, "c.test")}, []string{host, host, ""}},
		{"one hostname on two ports", []Listener{at("a", 443, HTTPS, "a.test"), at("b", 444, HTTPS, "a.test")}, []string{"", ""}},
		{"two without hostname", []Listener{at("a", 80, HTTP, ""), at("b", 80, HTTP, "")}, []string{host, host}},
		{"HTTP with HTTPS", []Listener{at("a", 80, HTTP, "a.test"), at("b", 80, HTTPS, "b.test")}, []string{proto, proto}},
		{"HTTP with TLS", []Listener{at("a", 80, HTTP, ""), at("b", 80, protocolTLS, "b.test")}, []string{proto, proto}},
		{"A6 TCP with HTTP", []Listener{at("a", 80, protocolTCP, ""), at("b", 80, HTTP, "b.test")}, []string{proto, proto}},
		{"TCP with HTTPS", []Listener{at("a", 80, protocolTCP, ""), at("b", 80, HTTPS, "b.test")}, []string{proto, proto}},
		{"TCP with TCP", []Listener{at("a", 80, protocolTCP, ""), at("b", 80, protocolTCP, "")}, []string{proto, proto}},
		{"protocols come before hostnames", []Listener{at("a", 80, HTTPS, ""), at("b", 80, HTTPS, ""), at("c", 80, HTTP, "")}, []string{proto, proto, proto}},
		{"UDP and unknown protocols are in nobody's way", []Listener{at("a", 80, HTTP, ""), at("b", 80, "UDP", ""), at("c", 80, "x.test/y", "")}, []string{"", "", ""}},
	} {
		for _, reversed := range []bool{false, true} {
			listeners, want := slices.Clone(c.listeners), slices.Clone(c.want)
			if reversed {
				slices.Reverse(listeners)
				slices.Reverse(want)
			}
			for i, got := range conflicts(listeners) {
				if got.reason != want[i] {
					t.Errorf("%s, reversed %t: listener %s has %q, want %q", c.name, reversed, listeners[i].Name, got.reason, want[i])
				}
				if (got.with == "") != (want[i] == "") || got.with == listeners[i].Name {
					t.Errorf("%s: listener %s conflicts with %q", c.name, listeners[i].Name, got.with)
				}
			}
		}
	}
}

func TestListenerKinds(t *testing.T) {
	grpc := Kind{httpRouteKind.Group, "GRPCRoute"}
	other := Kind{"", "HTTPRoute"}
	for _, c := range []struct {
		name     string
		protocol Protocol
		kinds    []Kind
		want     []Kind
		bad      *Kind
	}{
		{"default", HTTP, nil, []Kind{httpRouteKind}, nil},
		{"written", HTTPS, []Kind{httpRouteKind}, []Kind{httpRouteKind}, nil},
		{"impossible", HTTP, []Kind{grpc}, []Kind{}, &grpc},
		{"both", HTTP, []Kind{grpc, httpRouteKind, httpRouteKind}, []Kind{httpRouteKind}, &grpc},
		{"other group", HTTP, []Kind{other, grpc}, []Kind{}, &other},
		{"protocol that is not served", protocolTLS, nil, []Kind{}, nil},
		{"HTTPRoute on such", protocolTCP, []Kind{httpRouteKind}, []Kind{}, nil},
	} {
		l := Listener{Protocol: c.protocol, Kinds: c.kinds}
		got, bad := l.kinds()
		if got == nil || !slices.Equal(got, c.want) || !reflect.DeepEqual(bad, c.bad) {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got, bad, c.want, c.bad)
		}
	}
}
