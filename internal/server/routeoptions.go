package server

import (
	"fmt"
	"net/http"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// strict says which rule for paths is in force on a host (http-strictness 5.3); "" is none.
func (r *routing) strict(at *route.Router, host string) string {
	if hit, ok := at.Strict(host); ok {
		return fmt.Sprintf("HTTPRoute/%s#%s matches %s", hit.Route, ruleName(hit.Action), r.form(at, hit))
	}
	if bound := r.compiled.For(r.gatewayDestination(at.Gateway)).Bind(policy.Conn{Port: at.Port, HTTP: true}); bound.ReadsPath() {
		return fmt.Sprintf("an AuthorizationPolicy at Gateway/%s asks for paths", at.Gateway)
	}
	return ""
}

// settle is what a door does with a path by the options of the rule: steps 5 and 6 of gateway.md 15.
func (r *routing) settle(at *route.Router, q *outside) (admin.RouteVerdict, bool) {
	if q.Path == ownPath || strings.HasPrefix(q.Path, ownPath+"/") {
		return refusedVerdict(http.StatusNotFound, "no_route", ownPath+" is ours: it is never routed"), true
	}
	hit, _ := at.Lookup(q.host, &q.Request)
	s, because := at.Settings(hit.Action), r.strict(at, q.host)
	switch {
	case because != "" && !s.KeepEscapes && h1.CheckStrict(q.Path) != nil:
		return refusedVerdict(http.StatusBadRequest, h1.BadPath,
			"%2F %5C %25 %3B %23 and %3F in paths are refused because "+because+"; allow them with countersign.dev/escaped-reserved: keep"), true
	case because == "" && s.KeepSlashes:
		q.Path, _, _, _ = h1.Base.Normalize(q.target) // what else is asked of it was asked before
	}
	return admin.RouteVerdict{}, false
}

// ownPath is what Gateways never route.
const ownPath = "/.well-known/countersign"
