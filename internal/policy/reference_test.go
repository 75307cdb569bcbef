package policy

import (
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// naive is the reference evaluator (policy-engine 11): written from istio-semantics 4 and 7,
// it shares no matcher with the engine and is never optimised. With istio set it takes every
// attribute as Istio does, in one reading, and gives what an Istio sidecar would answer.
type naive struct {
	set   Set
	istio bool
}

func (n naive) root() string {
	if n.set.RootNamespace == "" {
		return "istio-system"
	}
	return n.set.RootNamespace
}

func (n naive) domain() string {
	if n.set.TrustDomain == "" {
		return "cluster.local"
	}
	return n.set.TrustDomain
}

type numbered struct {
	p     Policy
	index int
}

func (n naive) decide(d Destination, c Conn, q Request) Verdict {
	var deny, allow []numbered
	hasAllow := false
	policies := slices.Clone(n.set.Policies)
	sort.SliceStable(policies, func(i, j int) bool {
		if policies[i].Namespace != policies[j].Namespace {
			return policies[i].Namespace < policies[j].Namespace
		}
		return policies[i].Name < policies[j].Name
	})
	for _, p := range policies {
		if !n.attached(p, d) {
			continue
		}
		if p.Action == "ALLOW" || p.Action == "" {
			hasAllow = true
		}
		for i := range p.Rules {
			if p.Action == "DENY" {
				if d.Namespace == "countersign" && p.Namespace != d.Namespace && usesIdentity(p.Rules[i]) {
					continue // a root DENY that speaks of the request identity (istio-semantics 4.1)
				}
				deny = append(deny, numbered{p, i})
			} else {
				allow = append(allow, numbered{p, i})
			}
		}
	}
	answer := func(allow bool, reason string, r *numbered) Verdict {
		v := Verdict{Allow: allow, Layer: "authz", Reason: reason, Rule: -1}
		if r != nil {
			v.Policy, v.Rule, v.WrittenBy = r.p.Namespace+"/"+r.p.Name, r.index, r.p.WrittenBy
		}
		return v
	}
	for _, r := range deny {
		if n.rule(r, true, c, q) {
			return answer(false, "deny_rule", &r)
		}
	}
	if !hasAllow {
		return answer(true, "no_allow_policy", nil)
	}
	for _, r := range allow {
		if n.rule(r, false, c, q) {
			return answer(true, "allow_rule", &r)
		}
	}
	return answer(false, "no_allow_rule", nil)
}

func (n naive) attached(p Policy, d Destination) bool {
	if p.Namespace != d.Namespace {
		if p.Namespace != n.root() {
			return false
		}
		if d.Namespace == "countersign" && p.Action != "DENY" && !n.istio {
			return false
		}
	}
	for k, want := range p.Selector {
		if got, ok := d.Labels[k]; !ok || got != want {
			return false
		}
	}
	return true
}

func usesHTTP(o Operation) bool {
	return len(o.Hosts)+len(o.NotHosts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0
}

// rule: OR of from AND OR of to. For TCP by istio-semantics 7.9.1.
func (n naive) rule(r numbered, deny bool, c Conn, q Request) bool {
	from, to := r.p.Rules[r.index].From, r.p.Rules[r.index].To
	when := r.p.Rules[r.index].When
	if !c.HTTP && !deny && (slices.ContainsFunc(to, usesHTTP) || slices.ContainsFunc(from, usesToken) ||
		slices.ContainsFunc(when, func(w Condition) bool { return strings.HasPrefix(w.Key, "request.") })) {
		return false
	}
	for _, w := range when {
		if !n.condition(w, r.p.Namespace, deny, c, q) {
			return false
		}
	}
	source := len(from) == 0
	for _, s := range from {
		source = source || n.source(s, r.p.Namespace, deny, c, q)
	}
	operation := len(to) == 0
	for _, o := range to {
		operation = operation || n.operation(o, deny, c, q)
	}
	return source && operation
}

func usesPeer(s Source) bool {
	return len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces)+len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0
}

func (n naive) source(s Source, ns string, deny bool, c Conn, q Request) bool {
	if !usesPeer(s) && !usesToken(s) {
		return deny
	}
	ok, peer := true, c.Peer
	both := func(values, not []string, match func(v string, wide bool) bool) {
		ok = ok && listed(values, not, deny, match)
	}
	both(s.Principals, s.NotPrincipals, func(v string, wide bool) bool { return n.principal(v, wide, peer) })
	both(s.Namespaces, s.NotNamespaces, func(v string, wide bool) bool { return n.namespace(v, wide, peer) })
	both(s.ServiceAccounts, s.NotServiceAccounts, func(v string, wide bool) bool { return n.account(v, ns, wide, peer) })
	if c.HTTP { // else the field is true in DENY, and the ALLOW rule was dropped
		both(s.RequestPrincipals, s.NotRequestPrincipals, func(v string, wide bool) bool { return n.requestPrincipal(v, wide, q) })
	}
	return ok
}

// listed: values if there are any, and none of not. ALLOW reads values narrow and not wide,
// DENY the other way round (istio-semantics 7.6).
func listed(values, not []string, deny bool, match func(v string, wide bool) bool) bool {
	ok := len(values) == 0
	for _, v := range values {
		ok = ok || match(v, deny)
	}
	for _, v := range not {
		ok = ok && !match(v, !deny)
	}
	return ok
}

func star(v, s string) bool {
	if v == "*" {
		return s != ""
	}
	if v != "" && v[0] == '*' {
		return len(s) >= len(v)-1 && s[len(s)-len(v)+1:] == v[1:]
	}
	if v != "" && v[len(v)-1] == '*' {
		return len(s) >= len(v)-1 && s[:len(v)-1] == v[:len(v)-1]
	}
	return s == v
}

func (n naive) rewritten(v string) string {
	parts := strings.Split(v, "/")
	own := n.domain()
	if len(parts) != 5 || parts[0] == "*" {
		return v
	}
	td := parts[0]
	if len(td) > 0 && td[0] == '*' && strings.HasSuffix(own, td[1:]) {
		return v
	}
	if td == "cluster.local" || td == own || len(td) > 0 && td[len(td)-1] == '*' && strings.HasPrefix(own, td[:len(td)-1]) {
		parts[0] = own
	}
	return strings.Join(parts, "/")
}

func (n naive) principal(v string, wide bool, peer *Peer) bool {
	if peer == nil || peer.Principal == "" {
		return false
	}
	v = n.rewritten(v)
	if !star(v, peer.Principal) {
		return false
	}
	if wide || n.istio {
		return true
	}
	if peer.TrustDomain != n.domain() && (strings.HasPrefix(v, "*") || !strings.HasPrefix(v, peer.TrustDomain+"/")) {
		return false
	}
	return peer.Namespace != "countersign" || strings.Contains(v, "/ns/countersign/")
}

var regexps sync.Map

// full matches s as a whole; bad says that the expression is none.
func full(expr, s string) (ok, bad bool) {
	re, found := regexps.Load(expr)
	if !found {
		if _, err := regexp.Compile(expr); err == nil {
			re, _ = regexp.Compile("^(?:" + expr + ")$")
		} else {
			re = (*regexp.Regexp)(nil)
		}
		regexps.Store(expr, re)
	}
	if re.(*regexp.Regexp) == nil {
		return false, true
	}
	return re.(*regexp.Regexp).MatchString(s), false
}

func (n naive) namespace(v string, wide bool, peer *Peer) bool {
	id := ""
	if peer != nil && peer.Principal != "" {
		id = "spiffe://" + peer.Principal
	}
	istio, bad := full(".*/ns/"+strings.ReplaceAll(v, "*", ".*")+"/.*", id)
	switch {
	case bad:
		return wide
	case id == "":
		return false
	case n.istio:
		return istio
	}
	parsed := peer.Canonical && naiveGlob(v, peer.Namespace)
	if wide {
		return parsed || istio
	}
	return parsed && peer.TrustDomain == n.domain() && (peer.Namespace != "countersign" || v == "countersign")
}

func naiveGlob(v, s string) bool {
	row := make([]bool, len(s)+1)
	row[0] = true
	for i := range len(v) {
		next := make([]bool, len(s)+1)
		for j := range next {
			if v[i] == '*' {
				next[j] = row[j] || j > 0 && next[j-1]
			} else {
				next[j] = j > 0 && row[j-1] && s[j-1] == v[i]
			}
		}
		row = next
	}
	return row[len(s)]
}

func (n naive) account(v, policyNamespace string, wide bool, peer *Peer) bool {
	ns, sa := policyNamespace, v
	if i := strings.Index(v, "/"); i >= 0 {
		ns, sa = v[:i], v[i+1:]
	}
	id := ""
	if peer != nil && peer.Principal != "" {
		id = "spiffe://" + peer.Principal
	}
	istio, bad := full("spiffe://.+/ns/"+ns+"/(.+/|)sa/"+sa+"(/.+)?", id)
	switch {
	case bad || ns == "" || sa == "":
		return wide
	case id == "":
		return false
	case n.istio:
		return istio
	}
	parsed := peer.Canonical && peer.Namespace == ns && peer.ServiceAccount == sa
	if wide {
		return parsed || istio
	}
	return parsed && peer.TrustDomain == n.domain()
}

func (n naive) operation(o Operation, deny bool, c Conn, q Request) bool {
	if !usesHTTP(o) && len(o.Ports)+len(o.NotPorts) == 0 {
		return deny
	}
	ok := listed(o.Ports, o.NotPorts, deny, func(v string, wide bool) bool { return port(v, wide, c) })
	if !c.HTTP {
		return ok
	}
	return ok && listed(o.Methods, o.NotMethods, deny, func(v string, _ bool) bool { return star(v, q.Method) }) &&
		listed(o.Hosts, o.NotHosts, deny, func(v string, wide bool) bool { return n.host(v, wide, q.Host) }) &&
		listed(o.Paths, o.NotPaths, deny, func(v string, wide bool) bool { return n.path(v, wide, q) })
}

func port(v string, wide bool, c Conn) bool {
	i, err := strconv.Atoi(v)
	if err != nil || i < 0 || i > 65535 || v[0] == '+' || v[0] == '-' {
		return wide
	}
	return i == int(c.Port)
}

var (
	asciiUpper = regexp.MustCompile(`[A-Z]+`)
	portAtEnd  = regexp.MustCompile(`:[0-9]*$`)
	dotAtEnd   = regexp.MustCompile(`\.$`)
)

func (n naive) host(v string, wide bool, host string) bool {
	v, host = asciiUpper.ReplaceAllStringFunc(v, strings.ToLower), asciiUpper.ReplaceAllStringFunc(host, strings.ToLower)
	if star(v, host) && host != "" {
		return true
	}
	bare := dotAtEnd.ReplaceAllString(portAtEnd.ReplaceAllString(host, ""), "")
	return wide && !n.istio && host != "" && star(v, bare)
}

var (
	operators = regexp.MustCompile(`\{\*\*?\}`)
	template1 = regexp.MustCompile(`^(/([A-Za-z0-9._~%!$&'()+,;:@=-]+|\{\*\}))*(/\{\*\*\}(/[A-Za-z0-9._~%!$&'()+,;:@=-]+)*)?/?$`)
)

func (n naive) path(v string, wide bool, q Request) bool {
	merged := q.Wide
	if merged == "" {
		merged = q.Path
	}
	one := func(p string) bool { return star(v, p) }
	if operators.MatchString(v) {
		if !template1.MatchString(v) {
			return wide
		}
		segment, rest := `[^/]+`, `(?s:.*)`
		if !wide || n.istio {
			segment, rest = `[A-Za-z0-9._~%!$&'()+,;:@=*-]+`, `[A-Za-z0-9._~%!$&'()+,;:@=*/-]*`
		}
		var expr strings.Builder
		last := 0
		for _, at := range operators.FindAllStringIndex(v, -1) {
			expr.WriteString(regexp.QuoteMeta(v[last:at[0]]))
			if at[1]-at[0] == 3 {
				expr.WriteString(segment)
			} else {
				expr.WriteString(rest)
			}
			last = at[1]
		}
		expr.WriteString(regexp.QuoteMeta(v[last:]))
		one = func(p string) bool { ok, _ := full(expr.String(), p); return ok }
	} else if strings.ContainsAny(v, "{}") {
		return wide
	}
	if q.Path == "" {
		return false
	}
	return one(q.Path) || wide && !n.istio && one(merged)
}
