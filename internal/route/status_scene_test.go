package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// statusScene is a scene of attachment with all that a status depends on besides, the facts among it.
func statusScene(rng *rand.Rand) (Objects, Facts) {
	one := func(n int) bool { return rng.IntN(n) == 0 }
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	space := func() string { return pick("n0", "n0", "n1", "n2") }
	generation := func() int64 { return int64(1 + rng.IntN(9)) }
	o := scene(rng)

	for _, name := range []string{"own", "odd", "foreign", "countersign"} {
		if one(2) && (name != "countersign" || one(4)) {
			c := Class{Meta: Meta{Name: Name{Name: name}, Generation: generation()}, Controller: Controller, HasParametersRef: name == "odd" || one(9)}
			if name == "foreign" || name == "countersign" && one(2) {
				c.Controller = "example.com/gateway"
			}
			o.Classes = append(o.Classes, c)
		}
	}
	for range rng.IntN(3) {
		kind := Kind{httpRouteKind.Group, pick("Gateway", "HTTPRoute", "GRPCRoute")}
		o.Grants = append(o.Grants, grantIn(space(), GrantFrom{kind, space()}, GrantTo{Kind{"", pick("Secret", "Service", "ConfigMap")}, pick("", "good", "bad")}))
	}
	for _, name := range []string{"open", "shy"} {
		for _, namespace := range []string{"n0", "n1"} {
			o.Services = append(o.Services, Service{Name{namespace, name}, []ServicePort{{Port: 80}, {Port: 81, AppProtocol: pick("https", "kubernetes.io/wss", "kubernetes.io/h2c")}}, name == "open"})
		}
	}
	for i := range rng.IntN(3) {
		l := RateLimit{Meta: Meta{Name: Name{pick("n0", "n1"), "limit" + number(uint16(i))}, Generation: generation()}}
		for range rng.IntN(4) {
			kind, name := gatewayKind, pick("g0", "g1", "r0")
			if one(2) {
				kind, name = httpRouteKind, pick("r0", "r1", "g0")
			}
			l.Targets = append(l.Targets, LimitTarget{Ref{kind, Name{l.Namespace, name}}, pick("", "l0", "l2", "first")})
		}
		o.Limits = append(o.Limits, l)
	}

	f := Facts{
		Backend: func(to Ref, port uint16) Backing {
			if known, ok := map[string]Backing{"good": Usable, "narrow": NoPort, "tcp": NotHTTP}[to.Name.Name]; ok {
				return known
			}
			return ForeignBacking(o.Foreign(), to, port)
		},
		Secret: func(n Name) Certificate {
			return map[string]Certificate{
				"good": {Names: []string{"*.x.test"}}, "exact": {Names: []string{"a.x.test", "y.test"}}, "local": {Names: []string{"localhost"}},
				"deep": {Names: []string{"a.b.x.test"}}, "kept": {Fault: "is bad; mend it", Kept: true, Names: []string{"*.test"}}, "bad": {Fault: "is bad; mend it"},
			}[n.Name]
		},
		RateLimit:   func(n Name) bool { return slices.ContainsFunc(o.Limits, func(l RateLimit) bool { return l.Name == n }) },
		TrustDomain: func(name string) bool { return name == "known.test" },
		Gateways:    map[Name]GatewayFacts{},
	}
	for range rng.IntN(4) {
		f.Features = append(f.Features, pick("Gateway", "HTTPRoute", "ReferenceGrant"))
	}
	if one(20) {
		f.Secret, f.TrustDomain = nil, nil
	}
	if one(10) {
		f.Routes = func(n Name) bool { return n.Name != "r0" }
	}

	validation := func() *Validation {
		v := &Validation{Insecure: one(3)}
		for range 1 + rng.IntN(2) {
			kind := trustDomainKind
			if one(4) {
				kind = Kind{pick("", "countersign.dev"), "ConfigMap"}
			}
			v.Authorities = append(v.Authorities, Ref{kind, Name{"n0", pick("known.test", "known.test", "stranger.test")}})
		}
		return v
	}
	for i := range o.Gateways {
		g := &o.Gateways[i]
		g.Generation, g.HasParametersRef = generation(), one(15)
		g.Class = pick(builtInClass, builtInClass, builtInClass, builtInClass, "own", "odd", "foreign", "nobody")
		for range rng.IntN(2) {
			g.Addresses = append(g.Addresses, Address{pick("IPAddress", "IPAddress", "IPAddress", "Hostname"), "x"})
		}
		if one(6) {
			g.Frontend.Default = validation()
		}
		if one(6) {
			g.Frontend.Ports = map[uint16]*Validation{80: nil}
			if one(2) {
				g.Frontend.Ports[80] = validation()
			}
		}
		own := GatewayFacts{Live: !one(6), Ports: map[uint16]string{}, Files: map[string]Certificate{}}
		for _, port := range []uint16{80, 81} {
			if !one(6) {
				own.Ports[port] = pick("", "", "", "", "is taken; choose another")
			}
		}
		for range rng.IntN(3) {
			own.Addresses = append(own.Addresses, Address{"IPAddress", pick("192.0.2.1", "192.0.2.2")})
		}
		if one(8) {
			own.AddressRefusal = Refusal{pick("AddressNotAssigned", "AddressNotUsable"), "is not here; write another"}
		}
		secure, kinds := one(2), one(2)
		for j := range g.Listeners {
			l := &g.Listeners[j]
			if secure { // else protocols are in each other's way too often for certificates to overlap
				l.Protocol = Protocol(pick("HTTPS", "HTTPS", "HTTPS", "TLS", "UDP"))
			}
			if l.Protocol == HTTPS || l.Protocol == protocolTLS {
				l.Certificates = nil
				for range rng.IntN(3) {
					kind := secretKind
					if one(8) {
						kind = Kind{pick("", "x.test"), pick("ConfigMap", "Secret")}
					}
					l.Certificates = append(l.Certificates, Ref{kind, Name{pick("n0", "n0", "n0", "n1"), pick("good", "exact", "deep", "local", "kept", "bad")}})
				}
			}
			if l.Protocol == HTTPS && one(5) {
				l.Certificates, l.Files = nil, &Files{"/chain.pem", "/key.pem"}
				if !one(4) {
					own.Files[l.Name] = f.secretNamed(pick("good", "exact", "kept", "bad"))
				}
			}
			if kinds && one(4) {
				l.Kinds = []Kind{{pick(httpRouteKind.Group, "x.test"), "HTTPRoute"}, httpRouteKind, {httpRouteKind.Group, "TLSRoute"}}[rng.IntN(2):]
			}
			if l.Selector != nil && one(3) {
				l.Selector.Terms = []Term{{pick("edge", nameLabel), pick("In", "NotIn", "Exists", "DoesNotExist"), []string{pick("yes", "n1")}}}
				if one(2) {
					l.Selector.Labels = nil
				}
			}
		}
		if !one(10) {
			f.Gateways[g.Name] = own
		}
	}

	filters := func(namespace string) (out []Filter) {
		if one(6) {
			kind := rateLimitKind
			if one(4) {
				kind = Kind{pick("", "countersign.dev"), "Magic"}
			}
			out = append(out, Filter{Extension: &Ref{kind, Name{pick(namespace, namespace, "n0"), pick("limit0", "limit0", "limit1")}}})
		}
		return out
	}
	for i := range o.Routes {
		r := &o.Routes[i]
		r.Generation, r.Rules = generation(), make([]Rule, 1+rng.IntN(3))
		if one(6) {
			r.Parents = append(r.Parents, Parent{Ref: Ref{Kind{pick("", gatewayKind.Group), pick("Service", "ListenerSet")}, Name{"n0", "g0"}}})
		}
		for j := range r.Rules {
			rule := &r.Rules[j]
			rule.Name, rule.Filters = pick("", "first"), filters(r.Namespace)
			for range rng.IntN(3) {
				b := Backend{Ref: Ref{serviceKind, Name{pick(r.Namespace, r.Namespace, r.Namespace, "n0", "n1"), pick("good", "good", "good", "open", "open", "shy", "narrow", "tcp", "bad")}}, Port: uint16(79 + rng.IntN(3)), Weight: rng.IntN(2), Filters: filters(r.Namespace)}
				if one(10) {
					b.Kind = Kind{pick("", "networking.istio.io"), pick("Hostname", "Pod")}
				}
				if one(20) {
					b.Port = 0
				}
				rule.Backends = append(rule.Backends, b)
			}
			for range rng.IntN(3) {
				if one(2) {
					f.Invalid = append(f.Invalid, Fault{r.Name, j, pick("bad; mend it", "worse; mend it")})
				}
			}
		}
	}
	rng.Shuffle(len(f.Invalid), func(i, j int) { f.Invalid[i], f.Invalid[j] = f.Invalid[j], f.Invalid[i] })
	return o, f
}

// secretNamed is a certificate of the scene, also where there are no Secrets.
func (f Facts) secretNamed(name string) Certificate {
	if f.Secret == nil {
		return Certificate{}
	}
	return f.Secret(Name{"n0", name})
}

// flatten writes a Status as its naive twin does.
func flatten(t *testing.T, s Statuses) map[string]string {
	say := func(conditions []Condition) string {
		var out []string
		for _, c := range conditions {
			out = append(out, c.Type+"="+c.Status+"/"+c.Reason)
			if c.ObservedGeneration != conditions[0].ObservedGeneration {
				t.Errorf("generations differ: %+v", conditions)
			}
		}
		return told(conditions[0].ObservedGeneration, out...)
	}
	out := map[string]string{}
	for name, c := range s.Classes {
		out["class "+name] = fmt.Sprintln(say(c.Conditions), c.SupportedFeatures)
	}
	for name, g := range s.Gateways {
		out["gateway "+name.String()] = fmt.Sprintln(len(g.Listeners), g.Addresses, say(g.Conditions))
		for i, l := range g.Listeners {
			if l.SupportedKinds == nil || g.Addresses == nil {
				t.Errorf("gateway %s, listener %s: absent where it must be empty", name, l.Name)
			}
			out[fmt.Sprintf("gateway %s listener %d", name, i)] = fmt.Sprintln(l.Name, l.SupportedKinds, l.AttachedRoutes, say(l.Conditions))
		}
	}
	for name, r := range s.Routes {
		out["route "+name.String()] = fmt.Sprint(len(r.Parents))
		for i, p := range r.Parents {
			out[fmt.Sprintf("route %s parent %d", name, i)] = fmt.Sprintln(p.Parent, p.Controller, say(p.Conditions))
		}
	}
	for name, l := range s.Limits {
		out["limit "+name.String()] = fmt.Sprint(len(l.Ancestors))
		for i, a := range l.Ancestors {
			out[fmt.Sprintf("limit %s target %d", name, i)] = fmt.Sprintln(a.Target, say(a.Conditions))
		}
	}
	return out
}

// statusMet is every condition of gateway.md 10 that is built.
var statusMet = map[string]string{
	"class": "Accepted=True/Accepted Accepted=False/InvalidParameters SupportedVersion=True/SupportedVersion",
	"gateway": "Accepted=True/Accepted Accepted=True/ListenersNotValid Accepted=False/ListenersNotValid Accepted=False/UnsupportedAddress Accepted=False/InvalidParameters " +
		"Programmed=True/Programmed Programmed=False/Invalid Programmed=False/AddressNotAssigned Programmed=False/AddressNotUsable Programmed=False/Pending " +
		"ResolvedRefs=True/ResolvedRefs ResolvedRefs=False/ListenersNotResolved InsecureFrontendValidationMode=True/ConfigurationChanged",
	"listener": "Accepted=True/Accepted Accepted=False/PortUnavailable Accepted=False/UnsupportedProtocol Accepted=False/NoValidCACertificate " +
		"Accepted=False/HostnameConflict Accepted=False/ProtocolConflict Conflicted=False/NoConflicts Conflicted=True/HostnameConflict Conflicted=True/ProtocolConflict " +
		"ResolvedRefs=True/ResolvedRefs ResolvedRefs=False/InvalidCertificateRef ResolvedRefs=False/InvalidRouteKinds ResolvedRefs=False/RefNotPermitted " +
		"ResolvedRefs=False/InvalidCACertificateRef ResolvedRefs=False/InvalidCACertificateKind " +
		"Programmed=True/Programmed Programmed=False/Invalid Programmed=False/Pending Programmed=False/HostnameConflict Programmed=False/ProtocolConflict " +
		"OverlappingTLSConfig=True/OverlappingHostnames OverlappingTLSConfig=True/OverlappingCertificates",
	"parent": "Accepted=True/Accepted Accepted=False/NoMatchingParent Accepted=False/NotAllowedByListeners Accepted=False/NoMatchingListenerHostname Accepted=False/UnsupportedValue " +
		"ResolvedRefs=True/ResolvedRefs ResolvedRefs=False/InvalidKind ResolvedRefs=False/BackendNotFound ResolvedRefs=False/RefNotPermitted ResolvedRefs=False/UnsupportedProtocol " +
		"PartiallyInvalid=True/UnsupportedValue",
	"target": "Accepted=True/Accepted Accepted=False/TargetNotFound",
}

func TestStatusAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 5))
	seen := map[string]int{}
	for round := range 12_000 {
		o, f := statusScene(rng)
		got, want := flatten(t, Status(o, f)), naiveWorld{o, f}.status()
		for key, text := range want {
			kind := strings.Fields(key)
			for field := range strings.FieldsSeq(text) {
				seen[kind[max(0, len(kind)-2)]+" "+field]++
			}
		}
		if maps.Equal(got, want) {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if got[key] != want[key] {
				t.Errorf("round %d: %s\ngot  %s\nwant %s", round, key, got[key], want[key])
			}
		}
		t.Fatalf("round %d: %d entries, want %d\n%+v\n%+v", round, len(got), len(want), o, f.Gateways)
	}
	for kind, met := range statusMet {
		for condition := range strings.FieldsSeq(met) {
			if n := seen[kind+" "+condition]; n < 100 {
				t.Errorf("%s %s was met %d times only", kind, condition, n)
			}
		}
	}
}
