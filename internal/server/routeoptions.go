package server

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// strict says which rule for paths is in force on a host for a caller (http-strictness 5.3); "" is none.
func (r *routing) strict(at *route.Router, host string, conn policy.Conn) string {
	if hit, ok := at.Strict(host); ok {
		return fmt.Sprintf("HTTPRoute/%s matches %s", hit.Text, r.form(at, hit))
	}
	if bound := r.program(at.Gateway).Bind(conn); bound.ReadsPath() {
		return fmt.Sprintf("an AuthorizationPolicy at Gateway/%s asks for paths", at.Gateway)
	}
	return ""
}

// keptOut asks a list of addresses, of a Gateway or of a route. Without --source-ip it says that there is one.
func (r *routing) keptOut(v *admin.RouteVerdict, g *route.Guard, at *route.Router, q *outside) bool {
	switch {
	case g == nil:
	case !q.source.IsValid():
		v.Notes = append(v.Notes, fmt.Sprintf("ip-deny or ip-allow of %s was not asked: say --source-ip", g.Object))
	default:
		client, _ := at.Entrance().Proxies.Client(q.source, q.chain)
		if !g.Admits(client) {
			v.Status, v.Reason = http.StatusForbidden, policy.ReasonDenyRule
			v.Text = fmt.Sprintf("%s is kept out by countersign.dev/ip-deny or ip-allow of %s", client, g.Object)
			return true
		}
	}
	return false
}

// ownPaths are never routed.
func ownPaths(v *admin.RouteVerdict, q *outside) bool {
	if q.Path != ownPath && !strings.HasPrefix(q.Path, ownPath+"/") {
		return false
	}
	v.Status, v.Reason, v.Text = http.StatusNotFound, "no_route", ownPath+" is ours: it is never routed"
	return true
}

// settle is what a door makes of a request by the options of the rule, or of the listener where none takes it; true: it
// refuses it.
func (r *routing) settle(v *admin.RouteVerdict, at *route.Router, a *route.Action, q *outside) bool {
	s, because := at.Settings(a), r.strict(at, q.host, r.conn(at, q))
	switch {
	case because != "" && !s.KeepEscapes && h1.CheckStrict(q.Path) != nil:
		v.Status, v.Reason = http.StatusBadRequest, h1.BadPath
		v.Text = "%2F %5C %25 %3B %23 and %3F in paths are refused because " + because + "; allow them with countersign.dev/escaped-reserved: keep"
		return true
	case because == "" && s.KeepSlashes:
		q.Path, _, _, _ = h1.Base.Normalize(q.target) // what else is asked of it was asked before
	}
	if r.keptOut(v, s.Guard, at, q) {
		return true
	}
	if q.websocket && s.NoWebSocket {
		v.Status, v.Reason, v.Text = http.StatusForbidden, h1.UpgradeRefused, "WebSocket is kept out by countersign.dev/websocket: deny"
		return true
	}
	q.letThrough(at, s)
	return false
}

// ownPath is what Gateways never route.
const ownPath = "/.well-known/countersign"

// optionTexts are the options of ours on a Gateway or a route that hold for one part of it.
func optionTexts(o route.Options, part string) []string {
	out := []string{}
	for _, key := range slices.Sorted(maps.Keys(o)) {
		name, of, _ := strings.Cut(key, ".")
		_, own := o[name+"."+part]
		if of == part && of != "" || of == "" && (part == "" || !own) {
			out = append(out, name+": "+o[key])
		}
	}
	return out
}
