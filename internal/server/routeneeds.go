package server

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// decide says what policy at the Gateway makes of a request: which rule decides, or what the caller has to show. Who is
// named with --as is refused in earnest.
func (r *routing) decide(v *admin.RouteVerdict, at *route.Router, a *route.Action, q *outside) {
	conn := r.conn(at, q)
	e := r.explain(at, conn, q)
	v.Needs = r.needs(at.Gateway, &e)
	switch gw := r.edgeGateway(at.Gateway); {
	case q.as == "":
		if at.Protocol == route.HTTPS && gw.Validation(at.Port) != nil && !gw.Validation(at.Port).Insecure {
			v.Needs = strings.TrimSuffix("an SVID (spec.tls.frontend); "+v.Needs, "; ")
		}
	case q.peer != nil && conn.Peer == nil:
		v.Notes = append(v.Notes, "the Gateway takes no SVID of "+q.as+" there (spec.tls.frontend): it is nobody")
	}
	named := e.Verdict.Rule >= 0 && e.Verdict.Policy != ""
	switch {
	case e.Verdict.Allow && named:
		v.Decides = policyRule(e.Verdict.Policy, e.Verdict.Rule) + " allows it"
	case e.Verdict.Allow:
		v.Decides = "no ALLOW policy selects the Gateway: everybody may"
	case named:
		v.Decides = policyRule(e.Verdict.Policy, e.Verdict.Rule) + " refuses it"
	}
	if !e.Verdict.Allow && q.as != "" {
		v.Status, v.Reason, v.Text, v.Location = http.StatusForbidden, e.Verdict.Reason, "policy refuses it", ""
	}
}

func (r *routing) explain(at *route.Router, conn policy.Conn, q *outside) policy.Explanation {
	return r.program(at.Gateway).Explain(conn, &policy.Request{
		Method: q.Method, Host: q.authority, Path: q.Path, Wide: h1.Wide(q.Path), Header: q.header, Token: q.token,
		Query: q.Query, HasQuery: q.hasQuery, Scheme: q.scheme(), WebSocket: q.websocket,
	})
}

// program is the policy of a Gateway.
func (r *routing) program(g route.Name) *policy.Program {
	if r.programs[g] == nil {
		r.programs[g] = r.compiled.For(r.gatewayDestination(g))
	}
	return r.programs[g]
}

// needs is what a caller has to show for policy to let the request in; "" for nothing.
func (r *routing) needs(gateway route.Name, e *policy.Explanation) string {
	switch v := e.Verdict; {
	case v.Allow:
		return ""
	case r.wantsPrincipal(v):
		return "a token: " + policyRule(v.Policy, v.Rule) + " refuses whoever has none that it names"
	case v.Rule >= 0 && v.Policy != "":
		return fmt.Sprintf("policy to change: %s refuses it (%s)", policyRule(v.Policy, v.Rule), v.Reason)
	case len(e.Nearest) == 0:
		return fmt.Sprintf("an AuthorizationPolicy that allows it at Gateway %s: none does", gateway)
	}
	nearest, what := e.Nearest[0], "what the nearest rule asks for"
	if wantsToken(nearest.Fields) {
		what = "a token"
	}
	var misses []string
	for _, m := range nearest.Fields {
		misses = append(misses, fmt.Sprintf("%s allows %s", m.Field, strings.Join(m.Allows, ", ")))
	}
	return fmt.Sprintf("%s: %s: %s", what, policyRule(nearest.Policy, nearest.Rule), strings.Join(misses, "; "))
}

// wantsPrincipal reports a DENY rule that is about all but some principals of tokens.
func (r *routing) wantsPrincipal(v policy.Verdict) bool {
	for _, p := range r.Policies {
		if p.Namespace+"/"+p.Name == v.Policy && v.Rule >= 0 && v.Rule < len(p.Rules) {
			return slices.ContainsFunc(p.Rules[v.Rule].From, func(s policy.Source) bool { return len(s.NotRequestPrincipals) > 0 })
		}
	}
	return false
}

// gatewayDestination is a Gateway as policies select it.
func (v *view) gatewayDestination(g route.Name) policy.Destination {
	dest := policy.Destination{Namespace: g.Namespace, ServiceAccount: g.Name, Labels: map[string]string{"app": g.Name, policy.GatewayLabel: g.Name}, Gateway: true}
	for _, e := range v.Entries {
		if e.Namespace == dest.Namespace && e.ServiceAccount == dest.ServiceAccount {
			dest.Labels = e.Labels
		}
	}
	return dest
}

func policyRule(name string, rule int) string {
	return fmt.Sprintf("AuthorizationPolicy/%s#%d", name, rule)
}

// wantsToken reports that nothing is missing but what a token says.
func wantsToken(misses []policy.FieldMiss) bool {
	for _, m := range misses {
		if !strings.HasPrefix(m.Field, "claim ") && !strings.HasPrefix(m.Field, "request ") && m.Field != "actor" && m.Field != "audience" {
			return false
		}
	}
	return len(misses) > 0
}

// rowNeeds is needs for the plainest request that a match takes; "" too where a regular expression has none.
func (r *routing) rowNeeds(at *route.Router, row route.Row) string {
	q := outside{host: row.Hostname, authority: row.Hostname, https: at.Protocol == route.HTTPS, header: http.Header{}}
	q.Method, q.Path = http.MethodGet, "/"
	if row.Match < len(row.Rule.Matches) {
		m := &row.Rule.Matches[row.Match]
		if q.Method = cmp.Or(m.Method, q.Method); m.PathType == route.Regex {
			return ""
		}
		q.Path = m.Path
	}
	e := r.explain(at, policy.Conn{Port: at.Port, HTTP: true}, &q)
	return r.needs(at.Gateway, &e)
}
