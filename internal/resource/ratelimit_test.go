package resource

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

const limits = "apiVersion: countersign.dev/v1\nkind: RateLimit\nmetadata: {name: api, namespace: shop}\n"

// The sample of gateway.md 16, as far as it is built.
func TestRateLimit(t *testing.T) {
	o := one(t, limits+`spec:
  targetRefs:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, name: api, sectionName: orders}
  mode: shadow
  rules:
  - name: burst
    from: []
    to: [{operation: {methods: [POST]}}]
    when: []
    key: [principal, route, claim.a.b, ip/24/48]
    limit: {requests: 100, per: 1m, burst: 20}
    cost: {fixed: 2}
    share: local
    onStoreAway: local
    whenFull: refuse
    stage: late
    expose: false
  - name: parallel
    key: [apiKey, header.x-id]
    concurrent: 10
  - {name: early, stage: early, key: [ip, method], limit: {requests: 1, per: 24h}}
`)
	got, err := RateLimit(o, time.Time{}, 7)
	if err != nil {
		t.Fatal(err)
	}
	want := route.RateLimit{
		Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: "api"}, Generation: 7},
		Targets: []route.LimitTarget{{
			Ref: route.Ref{Kind: route.Kind{Group: gatewayGroup, Kind: "HTTPRoute"}, Name: route.Name{Namespace: "shop", Name: "api"}}, Section: "orders",
		}},
		Shadow: true,
		Rules: []route.LimitRule{
			{
				Name: "burst", When: policy.Rule{To: []policy.Operation{{Methods: []string{"POST"}}}},
				Key: []route.KeyPart{
					{Text: "principal", Kind: route.KeyPrincipal}, {Text: "route", Kind: route.KeyRoute},
					{Text: "claim.a.b", Kind: route.KeyClaim, Claim: []string{"a", "b"}}, {Text: "ip/24/48", Kind: route.KeyIP, V4: 24, V6: 48},
				},
				Requests: 100, Per: time.Minute, Burst: 20, Cost: 2, Refuse: true, Hidden: true,
			},
			{Name: "parallel", Key: []route.KeyPart{{Text: "apiKey", Kind: route.KeyAPIKey}, {Text: "header.x-id", Kind: route.KeyHeader, Header: "X-Id"}}, Concurrent: 10},
			{
				Name: "early", Key: []route.KeyPart{{Text: "ip", Kind: route.KeyIP, V4: 32, V6: 64}, {Text: "method", Kind: route.KeyMethod}},
				Requests: 1, Per: 24 * time.Hour, Early: true,
			},
		},
	}
	for i := range got.Rules {
		if got.Rules[i].When.Pos.Line == 0 {
			t.Errorf("rule %d has no place", i)
		}
		got.Rules[i].When.Pos = policy.Pos{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRateLimitFaults(t *testing.T) {
	for _, tt := range []struct{ rule, want string }{
		{"{name: a, limit: {requests: 1, per: 1s}}", ""},
		{"{name: a, concurrent: 1}", ""},
		{"{name: a, key: [], concurrent: 1}", ""},
		{"{name: a, key: [header.x-id, ip], concurrent: 1}", ""},
		{"{name: a, key: [header.x-id], concurrent: 1}", "E403"}, // L7
		{"{name: a, key: [path], concurrent: 1}", "E403"},
		{"{name: a, key: [host], concurrent: 1}", "E403"},
		{"{name: a, key: [path, method, route], concurrent: 1}", "E403"},
		{"{name: a, key: [ip, ip], concurrent: 1}", "E403"},
		{"{name: a, key: [tenant], concurrent: 1}", "E403"},
		{"{name: a, key: [ip, header.x-forwarded-client-cert], concurrent: 1}", "E403"},
		{"{name: a, key: [ip/33/48], concurrent: 1}", "E403"},
		{"{name: a, key: [ip/24], concurrent: 1}", "E403"},
		{"{name: a, key: [claim.], concurrent: 1}", "E403"},
		{"{name: a, key: [ip, host, method, path, route], concurrent: 1}", "E102"},
		{"{name: a}", "E403"},
		{"{name: a, concurrent: 1, limit: {requests: 1, per: 1s}}", "E403"},
		{"{name: a, concurrent: 1, cost: {fixed: 2}}", "E403"},
		{"{name: a, concurrent: 0}", "E403"},
		{"{name: a, concurrent: 1000001}", "E403"},
		{"{name: a, limit: {requests: 1}}", "E403"},
		{"{name: a, limit: {requests: 1, per: 500ms}}", "E111"},
		{"{name: a, limit: {requests: 1, per: 25h}}", "E111"},
		{"{name: a, limit: {requests: 1000000001, per: 1s}}", "E403"},
		{"{name: a, limit: {requests: 1, per: 24h, burst: 1000000000}}", "E403"},
		{"{name: a, quota: {requests: 1, per: day}}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, share: leased}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, share: exact}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, onStoreAway: open}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, cost: {requestBytes: 64Ki}}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, cost: {responseHeader: X-Cost}}", "E301"},
		{"{name: a, limit: {requests: 1, per: 1s}, whenFull: drop}", "E110"},
		{"{name: a, limit: {requests: 1, per: 1s}, rate: 3}", "E106"},
		{"{name: A_b, concurrent: 1}", "E103"},
		{"{concurrent: 1}", "E403"},
		{"{name: a, concurrent: 1, when: [{key: request.auth.claims, values: [a]}]}", "E212"},
		{"{name: a, concurrent: 1, from: [{}]}", "E205"},
		{"{name: a, concurrent: 1, from: [{source: {namespaces: ['(']}}]}", "E109"},
		{"{name: a, concurrent: 1, stage: early, key: [ip]}", ""},
		{"{name: a, concurrent: 1, stage: early, when: [{key: source.namespace, values: [a]}]}", ""},
		{"{name: a, concurrent: 1, stage: early, key: [principal]}", "E403"},
		{"{name: a, concurrent: 1, stage: early, from: [{source: {requestPrincipals: ['*']}}]}", "E403"},
		{"{name: a, concurrent: 1, stage: early, when: [{key: 'request.auth.claims[a]', values: [b]}]}", "E403"},
		{"{name: a, concurrent: 1, stage: early, when: [{key: 'request.headers[x-a]', values: [b]}]}", "E403"},
	} {
		_, faults := decode(t, limits+"spec: {rules: ["+tt.rule+"]}")
		var got []string
		for _, f := range faults {
			got = append(got, f.Code)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s", tt.rule, faults, tt.want)
		}
	}
	const rule = "rules: [{name: a, concurrent: 1}]"
	for spec, want := range map[string]string{
		rule + ", targetRefs: []": "",
		rule + ", targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]":               "",
		rule + ", targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a, namespace: b}]": "E301",
		rule + ", targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway}]":                        "E103",
		rule + ", targetRefs: [{group: '', kind: Service, name: a}]":                                      "E301",
		rule + ", targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a}]":             "E301",
		rule + ", targetRefs: [{group: apps, kind: Deployment, name: a}]":                                 "E403",
		"rules: [{name: a, concurrent: 1}, {name: a, concurrent: 2}]":                                     "E403",
		"rules: []":              "E108",
		"mode: enforce":          "E403",
		rule + ", mode: audit":   "E110",
		rule + ", mode: enforce": "",
		"rules: [" + strings.Repeat("{name: a, concurrent: 1},", 17) + "]": "E102",
	} {
		_, faults := decode(t, limits+"spec: {"+spec+"}")
		got := ""
		if len(faults) > 0 {
			got = faults[len(faults)-1].Code
			for _, f := range faults {
				if f.Code == want {
					got = want
				}
			}
		}
		if got != want {
			t.Errorf("%s: %v, want %s", spec, faults, want)
		}
	}
}

// FuzzKeyPart: what is a part of a key says what it seems to say.
func FuzzKeyPart(f *testing.F) {
	for _, s := range []string{"", "principal", "claim.a.b", "claim.", "header.x-id", "header.", "ip/24/48", "ip/024/48", "ip/24/48/1", "ip/", "Path", "claim..a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := route.ParseKeyPart(s)
		if err != nil {
			return
		}
		if p.Text != s || p.Kind == 0 || (p.Kind == route.KeyClaim) != (len(p.Claim) > 0) || (p.Kind == route.KeyHeader) != (p.Header != "") ||
			(p.Kind == route.KeyIP) != (p.V4 > 0 && p.V6 > 0) || p.Chosen() && p.Given() {
			t.Errorf("%q: %+v", s, p)
		}
	})
}
