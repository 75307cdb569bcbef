package server

import (
	"fmt"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// needs is what a caller has to show, over whom nothing is known, for policy at the Gateway to let the request in;
// "" for nothing.
func (r *routing) needs(at *route.Router, q outside) string {
	var w admin.Why
	admin.Explain(&w, admin.Asked{
		Set: r.set(), Compiled: r.compiled, Dest: r.gatewayDestination(at.Gateway), To: at.Gateway.String(),
		Conn: policy.Conn{Port: at.Port, HTTP: true},
		Request: policy.Request{
			Method: q.Method, Host: q.authority, Path: q.Path, Wide: h1.Wide(q.Path), Header: q.header,
			Query: q.Query, HasQuery: q.hasQuery, Scheme: q.scheme(),
		},
	})
	switch {
	case w.Decision == audit.Allow:
		return ""
	case w.Rule != nil:
		return fmt.Sprintf("policy to change: %s refuses it (%s)", policyRule(w.Policy, *w.Rule), w.Reason)
	case len(w.Nearest) == 0:
		return fmt.Sprintf("an AuthorizationPolicy that allows it at Gateway %s: none does", at.Gateway)
	}
	nearest, what := w.Nearest[0], "what the nearest rule asks for"
	if wantsToken(nearest.Misses) {
		what = "a token"
	}
	var misses []string
	for _, m := range nearest.Misses {
		misses = append(misses, fmt.Sprintf("%s allows %s", m.Field, strings.Join(m.Allows, ", ")))
	}
	return fmt.Sprintf("%s: %s: %s", what, policyRule(nearest.Policy, nearest.Rule), strings.Join(misses, "; "))
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
func wantsToken(misses []admin.FieldMiss) bool {
	for _, m := range misses {
		if !strings.HasPrefix(m.Field, "claim ") && !strings.HasPrefix(m.Field, "request ") && m.Field != "actor" && m.Field != "audience" {
			return false
		}
	}
	return len(misses) > 0
}
