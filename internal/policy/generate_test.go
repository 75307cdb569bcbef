package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
)

// maker draws sets and requests from small pools, so that they collide often (policy-engine 11).
type maker struct {
	*rand.Rand
	clean bool // leave out what package resource refuses
}

func newMaker(seed uint64) maker {
	return maker{Rand: rand.New(rand.NewPCG(seed, 0x636f756e746572))}
}

// poolBad are the values that package resource refuses, and what Istio refuses: policies with
// them have a conservative form, but no literal answer.
var poolBad = []string{
	"", "x)|(y", "[", "shop/", "we(b", "99999", "http", "/{x}", "/v1/{**}/{*}", "/v1{*}", "/v1//{*}", "/v1/{*}*",
}

var (
	poolIDs = []string{
		"", "prod.example/ns/shop/sa/web", "prod.example/ns/shop/sa/web2", "prod.example/ns/crm/sa/api",
		"prod.example/ns/shop-dev/sa/web", "partner.example/ns/shop/sa/web", "partner.example/workload/7",
		"prod.example/region/eu/ns/shop/sa/web", "prod.example/ns/sa/sa/ns", "prod.example/ns/ns/sa/shop",
		"prod.example/ns/countersign/sa/node-a", "partner.example/ns/countersign/sa/node-a", "prod.example/ns/shop",
		"prod.example/ns/shop/x/y/sa/web", "cluster.local/ns/shop/sa/web", "old.prod.example/ns/shop/sa/web",
		"prod.example/ns/shop/sa/web/extra", "ns/shop/sa/web",
	}
	poolPrincipals = []string{
		"*", "prod.example/ns/shop/sa/web", "prod.example/ns/shop/sa/web*", "*/sa/web", "cluster.local/ns/shop/sa/web",
		"cluster.local/ns/shop/*", "partner.example/*", "partner.example/ns/shop/sa/web", "*/ns/shop/sa/web",
		"*.example/ns/shop/sa/web", "prod*/ns/shop/sa/web", "*/ns/countersign/sa/node-a", "prod.example/ns/countersign/*",
		"partner*", "spiffe://prod.example/ns/shop/sa/web", "**", "*web*", "prod.example/ns/*/sa/web",
		"**/ns/shop/sa/web", "cluster.local/ns/shop/sa/*",
	}
	poolNamespaces = []string{"shop", "crm", "shop*", "*-dev", "*a", "*", "s*p", "sh.p", "countersign", "count*", "/sa", "ns", "sa", "a|b", "x)|(y", "["}
	poolAccounts   = []string{"web", "crm/api", "shop/web", "shop/we.", "countersign/node-a", "shop-dev/web", "ns/shop", "shop/", "we(b", "sa/ns"}
	poolMethods    = []string{"GET", "HEAD", "POST", "DELETE", "PURGE", "get", "CONNECT", ""}
	poolMethodPats = []string{"GET", "POST", "*", "P*", "*E", "get", "HEAD", "DELETE"}
	poolHosts      = []string{"api", "API", "api:8443", "api.", "api.:80", "api.example.com", "Evil.API.example.com", "[::1]:80", "[::1]", "", "x", "api:", "ap\u212ai", "APi.Example.com:443"}
	poolHostPats   = []string{"api", "api:*", "*.example.com", "*", "API", "api.", "x", "[::1]", "*i", "api*", "*:8443", "ap\u212ai", "api.example.com"}
	poolPorts      = []uint16{8080, 8080, 9090, 5432, 0}
	poolPortPats   = []string{"8080", "9090", "5432", "80", "0", "99999", "http"}
	poolPaths      = []string{
		"", "/", "//a", "/v1", "/v1/", "/v1/secret", "/v1//secret", "/v1%2fsecret", "/v1/secret;a=1", "/v1/7/items", "/v1//items",
		"/v1/7/8/items", "/v1/a[b]", "/v1/a*b", "/v1/a/b/end", "/v1/end", "/v1//end", "//", "*", "/v1/..;x", "/deep/er/and/deeper/still",
		"/admin", "/Admin", "/admin/users", "/admin%5Cusers", "/info", "/information", "/a/end/a/a", "/a/a/a", "/v1/;/b",
	}
	poolPathPats = []string{
		"/", "*", "/v1/secret", "/v1/secret*", "/v1/*", "/v1*", "*/items", "/v1/{*}", "/v1/{*}/items", "/v1/{**}", "/v1/{**}/end",
		"/{*}", "/{**}", "/a/{**}/a/a", "/v1/{*}/", "/admin*", "/admin", "/info*", "/**", "/a/*/c", "*admin*", "info*",
		"/{x}", "/v1/{**}/{*}", "/v1{*}", "/v1//{*}", "/{*}/{*}/{**}/", "/v1/{*}*", "//",
	}
)

func pick[T any](m maker, pool []T) T { return pool[m.IntN(len(pool))] }

// some draws a list: mostly none, then of one to three values.
func (m maker) some(pool []string, oneIn int) []string {
	if m.IntN(oneIn) > 0 {
		return nil
	}
	var out []string
	for range 1 + m.IntN(3) {
		if v := pick(m, pool); !m.clean || !slices.Contains(poolBad, v) {
			out = append(out, v)
		}
	}
	return out
}

func (m maker) source() Source {
	return Source{
		Principals: m.some(poolPrincipals, 2), NotPrincipals: m.some(poolPrincipals, 6),
		Namespaces: m.some(poolNamespaces, 4), NotNamespaces: m.some(poolNamespaces, 6),
		ServiceAccounts: m.some(poolAccounts, 6), NotServiceAccounts: m.some(poolAccounts, 8),
		RequestPrincipals: m.some(poolPairPats, 5), NotRequestPrincipals: m.some(poolPairPats, 8),
	}
}

func (m maker) operation() Operation {
	return Operation{
		Hosts: m.some(poolHostPats, 5), NotHosts: m.some(poolHostPats, 8),
		Ports: m.some(poolPortPats, 5), NotPorts: m.some(poolPortPats, 8),
		Methods: m.some(poolMethodPats, 3), NotMethods: m.some(poolMethodPats, 8),
		Paths: m.some(poolPathPats, 2), NotPaths: m.some(poolPathPats, 6),
	}
}

func (m maker) rule() Rule {
	var r Rule
	sources, operations, conditions := m.IntN(3), m.IntN(3), max(0, m.IntN(5)-2)
	if m.IntN(4) == 0 { // so that much hangs on one condition
		sources, operations, conditions = 0, 0, 1
	}
	for range sources {
		if s := m.source(); !m.clean || !reflect.DeepEqual(s, Source{}) {
			r.From = append(r.From, s)
		}
	}
	for range operations {
		if o := m.operation(); !m.clean || !reflect.DeepEqual(o, Operation{}) {
			r.To = append(r.To, o)
		}
	}
	for range conditions {
		if w := m.condition(); !m.clean || len(w.Values)+len(w.NotValues) > 0 {
			r.When = append(r.When, w)
		}
	}
	return r
}

func (m maker) policy(name string) Policy {
	p := Policy{Name: name, Namespace: pick(m, []string{"shop", "shop", "crm", "istio-system", "countersign"}), Action: Allow}
	if m.IntN(3) == 0 {
		p.Action = Deny
	}
	if m.IntN(4) == 0 {
		p.Selector = map[string]string{"app": pick(m, []string{"web", "api"})}
	}
	for range m.IntN(4) {
		p.Rules = append(p.Rules, m.rule())
	}
	return p
}

func (m maker) set() Set {
	s := Set{TrustDomain: "prod.example", RootNamespace: "istio-system"}
	for i := range m.IntN(5) {
		s.Policies = append(s.Policies, m.policy(fmt.Sprint("p", m.IntN(10), i)))
	}
	return s
}

func (m maker) destination() Destination {
	return Destination{
		Namespace: pick(m, []string{"shop", "shop", "shop", "crm", "countersign", "istio-system"}),
		Labels:    map[string]string{"app": pick(m, []string{"web", "api"})},
	}
}

func (m maker) conn() Conn {
	c := Conn{Port: pick(m, poolPorts), HTTP: m.IntN(6) > 0}
	if id := pick(m, poolIDs); id != "" {
		p := ParsePeer(id, "prod.example")
		c.Peer = &p
	}
	return c
}

func (m maker) request() Request {
	r := Request{Method: pick(m, poolMethods), Host: pick(m, poolHosts), Path: pick(m, poolPaths)}
	m.describe(&r)
	if w := wideOf(r.Path); w != r.Path {
		r.Wide = w
	}
	return r
}

// wideOf is W(P) of istio-semantics 7.8.2, as slowly as it is written there.
func wideOf(p string) string {
	if p == "" || p == "*" {
		return p
	}
	for _, esc := range []string{"%2F", "%2f", "%5C", "%5c"} {
		p = strings.ReplaceAll(p, esc, "/")
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	p = strings.Join(segments, "/")
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}
