package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// onEdge is a Gateway edge with listeners a and b, and a route web of namespace shop with rules first and second.
func onEdge(limits ...RateLimit) Objects {
	gateway := Gateway{Meta: Meta{Name: Name{"infra", "edge"}}, Class: builtInClass, Listeners: []Listener{
		{Name: "a", Port: 80, Protocol: HTTP, From: "All"}, {Name: "b", Port: 81, Protocol: HTTP, From: "All"},
	}}
	rule := func(name, path string) Rule {
		return Rule{Name: name, Matches: []Match{{PathType: Exact, Path: path}}}
	}
	web := HTTPRoute{
		Meta: Meta{Name: Name{"shop", "web"}}, Parents: []Parent{{Ref: Ref{gatewayKind, Name{"infra", "edge"}}}},
		Rules: []Rule{rule("first", "/1"), rule("second", "/2"), rule("", "/3")},
	}
	web.Rules[2].Filters = []Filter{{Extension: &Ref{rateLimitKind, Name{"shop", "class"}}}}
	return Objects{Gateways: []Gateway{gateway}, Routes: []HTTPRoute{web}, Limits: limits}
}

func limitOf(namespace, name string, targets ...LimitTarget) RateLimit {
	return RateLimit{Meta: Meta{Name: Name{namespace, name}}, Targets: targets, Rules: []LimitRule{{Name: "r", Concurrent: 1}}}
}

func target(kind Kind, namespace, name, section string) LimitTarget {
	return LimitTarget{Ref{kind, Name{namespace, name}}, section}
}

// All limits of all levels hold together, each once; classes hold where they are named alone.
func TestCompileLimits(t *testing.T) {
	gateway, route := target(gatewayKind, "infra", "edge", ""), target(httpRouteKind, "shop", "web", "")
	for _, tt := range []struct {
		limits []RateLimit
		want   string // of listener a: /1, /2, /3; of b
	}{
		{nil, "a:  |  | bad; b:  |  | bad"},
		{[]RateLimit{limitOf("shop", "class")}, "a:  |  | shop/class; b:  |  | shop/class"},
		{[]RateLimit{limitOf("shop", "class"), limitOf("infra", "g", gateway, gateway)}, "a: infra/g | infra/g | infra/g shop/class; b: infra/g | infra/g | infra/g shop/class"},
		{[]RateLimit{limitOf("shop", "class", route), limitOf("infra", "b", target(gatewayKind, "infra", "edge", "b"))},
			"a: shop/class | shop/class | shop/class; b: infra/b shop/class | infra/b shop/class | infra/b shop/class"},
		{[]RateLimit{limitOf("shop", "class"), limitOf("shop", "s", target(httpRouteKind, "shop", "web", "second"))}, "a:  | shop/s | shop/class; b:  | shop/s | shop/class"},
		{[]RateLimit{limitOf("other", "class", target(gatewayKind, "other", "edge", ""), target(httpRouteKind, "other", "web", ""))}, "a:  |  | bad; b:  |  | bad"},
	} {
		o := onEdge(tt.limits...)
		table, _ := Compile(Attach(o))
		l := CompileLimits(o, table)
		var got []string
		for at := range table.Routers() {
			var rules []string
			for row := range at.Rows() {
				set := l.Of(at, row.Action)
				switch {
				case set == nil:
					rules = append(rules, "")
				case set.Bad != "":
					rules = append(rules, "bad")
				default:
					var names []string
					for _, u := range set.Uses {
						names = append(names, u.Limit.String())
					}
					rules = append(rules, strings.Join(names, " "))
				}
			}
			got = append(got, at.Listener+": "+strings.Join(rules, " | "))
		}
		if s := strings.Join(got, "; "); s != tt.want {
			t.Errorf("got  %s\nwant %s", s, tt.want)
		}
	}
}

// One rule more than are counted: its route says so, and is served with 500.
func TestTooManyLimits(t *testing.T) {
	many := limitOf("infra", "g", target(gatewayKind, "infra", "edge", "b"))
	for i := range MaxLimitRules - 1 {
		many.Rules = append(many.Rules, LimitRule{Name: fmt.Sprint("r", i), Concurrent: 1})
	}
	o := onEdge(many, limitOf("shop", "class"))
	table, _ := Compile(Attach(o))
	l := CompileLimits(o, table)
	want := []Fault{{Name{"shop", "web"}, 2, "65 rules of RateLimits hold for its requests, 64 are most"}}
	if got := l.Faults(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	status := Status(o, Facts{RateLimit: l.Known, Invalid: l.Faults()}).Routes[Name{"shop", "web"}]
	i := slices.IndexFunc(status.Parents[0].Conditions, func(c Condition) bool { return c.Type == "PartiallyInvalid" })
	if i < 0 || !strings.HasPrefix(status.Parents[0].Conditions[i].Message, "Dropped Rule 2: 65 rules of RateLimits") {
		t.Errorf("%+v", status.Parents[0].Conditions)
	}
}

func TestLimitStatus(t *testing.T) {
	for to, want := range map[LimitTarget]string{
		target(gatewayKind, "infra", "edge", ""):         "Accepted",
		target(gatewayKind, "infra", "edge", "a"):        "Accepted",
		target(gatewayKind, "infra", "edge", "c"):        "TargetNotFound",
		target(gatewayKind, "infra", "nosuch", ""):       "TargetNotFound",
		target(httpRouteKind, "shop", "web", "second"):   "Accepted",
		target(httpRouteKind, "shop", "web", "third"):    "TargetNotFound",
		target(httpRouteKind, "shop", "nosuch", "first"): "TargetNotFound",
		target(httpRouteKind, "infra", "edge", ""):       "TargetNotFound",
	} {
		l := limitOf(to.Namespace, "l", to)
		l.Generation = 4
		got := Status(onEdge(l), Facts{}).Limits[l.Name].Ancestors
		if len(got) != 1 || got[0].Target != to || got[0].Controller != Controller {
			t.Fatalf("%v: %+v", to, got)
		}
		if c := got[0].Conditions[0]; c.Type != "Accepted" || c.Reason != want || (c.Status == "True") != (want == "Accepted") || c.ObservedGeneration != 4 {
			t.Errorf("%v: %+v", to, c)
		}
	}
}

func TestLimitRuleText(t *testing.T) {
	for want, r := range map[string]LimitRule{
		"100 a minute, burst 20, by principal and route": {Requests: 100, Per: time.Minute, Burst: 20, Key: []KeyPart{{Text: "principal"}, {Text: "route"}}},
		"1 in 1m30s, each counts 3, by ip":               {Requests: 1, Per: 90 * time.Second, Burst: 1, Cost: 3, Key: []KeyPart{{Text: "ip"}}},
		"5 in 2h, for all together":                      {Requests: 5, Per: 2 * time.Hour},
		"7 at a time, by apiKey":                         {Concurrent: 7, Key: []KeyPart{{Text: "apiKey"}}},
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
