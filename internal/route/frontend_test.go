package route

import (
	"encoding/json"
	"reflect"
	"testing"
)

func trustDomain(name string) Ref { return Ref{trustDomainKind, Name{"infra", name}} }

// Of what callers' certificates are verified by one good reference is enough; without one the listener serves nobody.
func TestFrontendStatus(t *testing.T) {
	known, unknown, other := trustDomain("cluster.local"), trustDomain("else.test"), Ref{Kind{"", "ConfigMap"}, Name{"infra", "ca"}}
	const (
		closed   = "Accepted=False/NoValidCACertificate Programmed=False/Invalid ResolvedRefs=False/"
		insecure = " InsecureFrontendValidationMode=True/ConfigurationChanged"
		quiet    = " Conflicted=False/NoConflicts"
	)
	for name, c := range map[string]struct {
		frontend Frontend
		gateway  string
		want     string // of the HTTPS listener; the HTTP listener is good always
	}{
		"not asked": {Frontend{}, gatewayGood, listenerGood},
		"known":     {Frontend{Default: &Validation{Authorities: []Ref{known}}}, gatewayGood, listenerGood},
		"insecure":  {Frontend{Default: &Validation{Insecure: true, Authorities: []Ref{known}}}, gatewayGood + insecure, listenerGood},
		"not for this port": {
			Frontend{Default: &Validation{Insecure: true, Authorities: []Ref{unknown}}, Ports: map[uint16]*Validation{443: nil}}, gatewayGood, listenerGood,
		},
		"unknown": {
			Frontend{Ports: map[uint16]*Validation{443: {Authorities: []Ref{unknown}}}},
			"Accepted=True/ListenersNotValid Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved", closed + "InvalidCACertificateRef" + quiet,
		},
		"another kind": {
			Frontend{Default: &Validation{Authorities: []Ref{other}}},
			"Accepted=True/ListenersNotValid Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved", closed + "InvalidCACertificateKind" + quiet,
		},
		"one good of two": {
			Frontend{Default: &Validation{Authorities: []Ref{unknown, known}}},
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved",
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidCACertificateRef" + quiet,
		},
	} {
		f := running(80, 443)
		f.TrustDomain = func(name string) bool { return name == "cluster.local" }
		g := Gateway{
			Meta: Meta{Name: Name{"infra", "edge"}, Generation: 7}, Class: "countersign", Frontend: c.frontend,
			Listeners: []Listener{open("web", 80, HTTP, ""), open("https", 443, HTTPS, "a.x.test")},
		}
		s := Status(Objects{Gateways: []Gateway{g}}, f).Gateways[g.Name]
		if got := say(t, 7, s.Conditions); got != c.gateway {
			t.Errorf("%s: Gateway\n%s, want\n%s", name, got, c.gateway)
		}
		if got := say(t, 7, s.Listeners[0].Conditions); got != listenerGood {
			t.Errorf("%s: HTTP\n%s", name, got)
		}
		if got := say(t, 7, s.Listeners[1].Conditions); got != c.want {
			t.Errorf("%s: HTTPS\n%s, want\n%s", name, got, c.want)
		}
		// As it travels to nodes.
		text, err := json.Marshal(g)
		var back Gateway
		if err != nil || json.Unmarshal(text, &back) != nil || !reflect.DeepEqual(back, g) {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
}

// Leads are the backends that a request may be sent to: of weight, granted, there; of whatever attaches.
func TestLeads(t *testing.T) {
	backend := func(ns, name string, weight int, port uint16) Backend {
		return Backend{Ref: Ref{serviceKind, Name{ns, name}}, Port: port, Weight: weight}
	}
	edge := Name{"infra", "edge"}
	at := func(name string, parent Name, backends ...Backend) HTTPRoute {
		return HTTPRoute{Meta: Meta{Name: Name{"infra", name}}, Parents: []Parent{{Ref: Ref{gatewayKind, parent}}}, Rules: []Rule{{Backends: backends}, {Backends: backends}}}
	}
	o := Objects{
		Gateways: []Gateway{
			{Meta: Meta{Name: edge}, Class: "countersign", Listeners: []Listener{open("a", 80, HTTP, ""), open("b", 81, HTTP, "")}},
			{Meta: Meta{Name: Name{"infra", "foreign"}}, Class: "theirs", Listeners: []Listener{open("a", 80, HTTP, "")}},
		},
		Routes: []HTTPRoute{
			at("one", edge, backend("infra", "good", 1, 80), backend("infra", "idle", 0, 80), backend("infra", "gone", 1, 80)),
			at("two", edge, backend("infra", "good", 3, 80), backend("b", "good", 1, 80), backend("c", "good", 1, 80)),
			at("three", Name{"infra", "foreign"}, backend("infra", "good", 1, 80)),
		},
		Grants: []Grant{grantIn("b", GrantFrom{httpRouteKind, "infra"}, GrantTo{serviceKind, "good"})},
	}
	got := Leads(o, running())
	want := map[Name]map[Name][]Name{edge: {{"infra", "good"}: {{"infra", "one"}, {"infra", "two"}}, {"b", "good"}: {{"infra", "two"}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
