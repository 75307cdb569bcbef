package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/route"
)

// Bounds of one question about a request, and of its answer.
const (
	maxTestHeaders = 96
	maxShownMisses = 10 // better placed than the rule that takes a request
	maxNearest     = 3  // where none takes it
)

// outside is a request from outside the mesh, cleaned as a door cleans it.
type outside struct {
	route.Request
	header    http.Header
	https     bool
	port      uint16 // 0: the URL names none
	authority string
	host      string // in look-up form
	hasQuery  bool
	target    string // as sent
	sni       string // in look-up form; empty: the client names none
	websocket bool
	caller
}

// testRoute says which rule takes a request. It sends nothing.
func (s *Server) testRoute(_ context.Context, t admin.RouteTest) (admin.RouteVerdict, error) {
	if v := s.world.load(); strings.HasPrefix(t.As, "key:") && v.Tokens != nil {
		t.As = v.Tokens.Issuer + "/" + t.As
	}
	q, fault, err := readOutside(t)
	if err != nil {
		return admin.RouteVerdict{}, err
	}
	if fault != nil {
		return refusedVerdict(fault.Status, fault.Reason, "a Gateway refuses it before any route: "+fault.Text), nil
	}
	r := s.world.load().routing()
	candidates := r.candidates(q)
	if len(candidates) == 0 {
		return refusedVerdict(0, "no_listener", "no Gateway has a listener for "+q.where()), nil
	}
	var best admin.RouteVerdict
	var known []string // Gateways that have a listener for the host
	for _, at := range candidates {
		v := r.judge(at, q)
		if v.Listener != "" {
			known = append(known, fmt.Sprintf("%s:%d", v.Gateway, v.Port))
		}
		if best.Backends == nil || better(v, best) {
			best = v
		}
	}
	if len(known) > 1 {
		best.Notes = append(best.Notes, "more than one Gateway has a listener for it: "+strings.Join(known, ", "))
	}
	return best, nil
}

// better prefers what takes a request, then what knows its host.
func better(a, b admin.RouteVerdict) bool {
	if a.Taken != b.Taken {
		return a.Taken
	}
	return a.Listener != "" && b.Listener == ""
}

func refusedVerdict(status int, reason, text string) admin.RouteVerdict {
	return admin.RouteVerdict{
		Status: status, Reason: reason, Text: text,
		Backends: []admin.RouteBackend{}, Filters: []string{}, Nearest: []admin.RouteMiss{},
	}
}

// readOutside reads a request as a door does: err is of the one who asks, fault what a Gateway would refuse.
func readOutside(t admin.RouteTest) (q outside, fault *h1.Fault, err error) {
	bad := func(text, hint string) error {
		return &admin.Problem{Code: "bad_request", Exit: 2, Message: text, Hints: []string{hint}}
	}
	const example = "countersign route test GET https://shop.test/orders/17"
	scheme, rest, ok := strings.Cut(t.URL, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return q, nil, bad(fmt.Sprintf("URL %q starts with neither http:// nor https://", t.URL), example)
	}
	if strings.ContainsAny(rest, "*{}") {
		return q, nil, bad(fmt.Sprintf("URL %q is a pattern", t.URL), "put a real path there, such as /orders/17")
	}
	q.https = scheme == "https"
	if t.SNI != "" && !q.https {
		return q, nil, bad("--sni belongs to an https URL", example+" --sni shop.test")
	}
	if q.header, err = readHeader(t.Header); err != nil {
		return q, nil, bad(err.Error(), "countersign route test -H 'X-Version: 2' GET https://shop.test/")
	}
	authority, target, fault := h1.Absolute(scheme+"://"+rest, q.https)
	if fault == nil {
		fault = h1.Edge.CheckHost(authority)
	}
	if fault != nil || authority == "" {
		return q, nil, bad("the URL names no host, or more than a host", example) // it may hold a password
	}
	q.Method, q.authority = strings.ToUpper(t.Method), authority
	if fault = h1.Edge.CheckMessage(q.Method, target, authority, q.header, false); fault != nil {
		return q, fault, nil
	}
	if q.Path, q.Query, q.hasQuery, fault = h1.Edge.Normalize(target); fault != nil {
		return q, fault, nil
	}
	q.target = target
	if q.websocket, fault = h1.WebSocket(q.Method, 1, 1, q.header); fault != nil {
		return q, fault, nil
	}
	q.chain, q.before = q.header["X-Forwarded-For"], q.header.Clone()
	if _, fault = h1.Edge.Strip(q.header); fault != nil {
		return q, fault, nil
	}
	q.Header = q.header
	if err = q.who(t); err != nil {
		return q, nil, err
	}
	var digits string
	q.host, digits = h1.LookupHost(authority)
	port, _ := strconv.ParseUint(digits, 10, 16)
	q.port = uint16(port)
	q.sni = strings.TrimSuffix(strings.ToLower(t.SNI), ".")
	if _, err := netip.ParseAddr(q.host); q.sni == "" && err != nil { // clients send no address as a server name
		q.sni = q.host
	}
	return q, nil, nil
}

func readHeader(lines []string) (http.Header, error) {
	if len(lines) > maxTestHeaders {
		return nil, fmt.Errorf("%d header fields, %d are most", len(lines), maxTestHeaders)
	}
	h := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.TrimSpace(name) != name {
			return nil, errors.New("a header field is no 'Name: value'")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		h[name] = append(h[name], strings.Trim(value, " \t"))
	}
	return h, nil
}

func (q *outside) scheme() string {
	if q.https {
		return "https"
	}
	return "http"
}

func (q *outside) where() string {
	if q.port == 0 {
		return q.scheme()
	}
	return fmt.Sprintf("%s on port %d", q.scheme(), q.port)
}

// door is one port of a Gateway.
type door struct {
	gateway route.Name
	port    uint16
}

// candidates are the ports that a URL may mean: the one that it names, else the one of its scheme, else, where no
// Gateway has that, every one that speaks its scheme.
func (r *routing) candidates(q outside) []door {
	var all, usual []door
	for at := range r.table.Routers() {
		d := door{at.Gateway, at.Port}
		if (at.Protocol == route.HTTPS) != q.https || q.port != 0 && at.Port != q.port || slices.Contains(all, d) {
			continue
		}
		all = append(all, d)
		if at.Port == defaultPort(q.scheme()) {
			usual = append(usual, d)
		}
	}
	if len(usual) > 0 {
		return usual
	}
	return all
}

// judge is steps 1, 3, 6, 8, 15 and 17 of gateway.md 15.
func (r *routing) judge(d door, q outside) admin.RouteVerdict {
	port := r.table.Port(d.gateway, d.port)
	if q.https {
		chosen := port.Router(q.sni)
		if chosen == nil {
			return refusedVerdict(0, "unrecognized_name", fmt.Sprintf("no listener of Gateway %s on port %d is for server name %q: the handshake fails", d.gateway, d.port, q.sni))
		}
		if why := r.idle[listenerKey{chosen.Gateway, chosen.Listener}]; why != "" {
			return on(chosen, refusedVerdict(0, "not_serving", "the listener does not serve: "+why))
		}
		if port.Serves(chosen, q.host) == http.StatusMisdirectedRequest {
			return on(chosen, refusedVerdict(http.StatusMisdirectedRequest, h1.AuthorityMismatch, fmt.Sprintf("server name %q chose listener %s, and host %q is another listener's", q.sni, chosen.Listener, q.host)))
		}
	}
	at := port.Router(q.host)
	if at == nil {
		return refusedVerdict(http.StatusNotFound, "no_route", fmt.Sprintf("no listener of Gateway %s on port %d is for host %q", d.gateway, d.port, q.host))
	}
	if why := r.idle[listenerKey{at.Gateway, at.Listener}]; why != "" {
		return on(at, refusedVerdict(0, "not_serving", "the listener does not serve: "+why))
	}
	v := on(at, refusedVerdict(0, "", ""))
	if r.keptOut(&v, at.Entrance().Guard, at, &q) || ownPaths(&v, &q) || r.preflight(&v, at, &q) {
		return v
	}
	e := at.Explain(q.host, &q.Request)
	if e.Taken == nil {
		if r.settle(&v, at, nil, &q) {
			return v
		}
		v.Status, v.Reason, v.Text = http.StatusNotFound, "no_route", "no rule of the listener fits"
		if len(e.Hostnames) == 0 {
			v.Text = fmt.Sprintf("no route of the listener has host %q", q.host)
		}
		v.Nearest, v.More = r.misses(e.Missed, furthestFirst, maxNearest)
		return v
	}
	r.taken(&v, at, *e.Taken)
	v.Nearest, v.More = r.misses(e.Missed, pathsLast, maxShownMisses)
	if r.settle(&v, at, e.Taken.Action, &q) {
		return v
	}
	r.effects(&v, at, *e.Taken, q)
	r.decide(&v, at, e.Taken.Action, &q)
	return v
}

func on(at *route.Router, v admin.RouteVerdict) admin.RouteVerdict {
	v.Gateway, v.Listener, v.Port = at.Gateway.String(), at.Listener, at.Port
	return v
}

func (r *routing) taken(v *admin.RouteVerdict, at *route.Router, hit route.Hit) {
	rule := hit.Index
	v.Taken, v.Route, v.Rule, v.RuleName, v.Place = true, hit.Route.String(), &rule, hit.Rule.Name, r.placeOf(hit.Action)
	v.Host, v.Match = hit.Hostname, r.form(at, hit)
}

// preflight is a CORS preflight, which the Gateway answers before policy (gateway.md 7.6).
func (r *routing) preflight(v *admin.RouteVerdict, at *route.Router, q *outside) bool {
	origin, method := q.header["Origin"], q.header["Access-Control-Request-Method"]
	if len(origin) != 1 || len(method) != 1 || !route.IsPreflight(q.Method, origin[0], method[0]) {
		return false
	}
	hit, ok := at.Preflight(q.host, &q.Request, method[0])
	if !ok {
		return false
	}
	r.taken(v, at, hit)
	if v.Preflight = true; r.settle(v, at, hit.Action, q) {
		return true
	}
	v.Status, _ = hit.CORS.Preflight(origin[0], method[0], strings.Join(q.header["Access-Control-Request-Headers"], ","))
	if v.Text = "the Gateway answers the CORS preflight"; v.Status >= 400 {
		v.Reason, v.Text = "cors", "the origin is none that the rule shares its answers with"
	}
	return true
}

// effects says what the rule makes of a request: an answer, or what its backends see.
func (r *routing) effects(v *admin.RouteVerdict, at *route.Router, hit route.Hit, q outside) {
	v.Filters, v.Backends, v.Limits = filterTexts(hit.Rule.Filters), r.backends(hit.Action), r.limitTexts(at, hit.Action)
	fails := func(err error) {
		v.Status, v.Reason, v.Text = http.StatusBadRequest, h1.BadPath, err.Error()
	}
	if why := r.answers500(at, hit.Action); why != "" {
		v.Status, v.Reason, v.Text = http.StatusInternalServerError, "bad_backend", why
		return
	}
	if hit.Redirect != nil {
		to, err := hit.Redirect.Location(route.URL{
			Scheme: q.scheme(), Port: at.Port, Authority: q.authority, Path: q.Path, Query: q.Query, HasQuery: q.hasQuery,
		}, hit.Prefix)
		if v.Location, v.Status = to, hit.Redirect.Status; err != nil {
			fails(err)
		}
		return
	}
	if own, err := hit.Effects(-1).Path(q.Path, hit.Prefix); err == nil && own != q.Path {
		v.RewrittenPath = own
	}
	var err error
	served := false
	for i := range v.Backends {
		b := &v.Backends[i]
		if b.Weight == 0 {
			continue
		}
		e := hit.Effects(i)
		path, failed := e.Path(q.Path, hit.Prefix)
		switch {
		case b.Fault != "":
		case failed != nil:
			b.Status, b.Reason, b.Fault, err = http.StatusBadRequest, h1.BadPath, failed.Error(), failed
		default:
			served = true
			b.Path, b.Host = path, cmp.Or(e.Host, q.authority)
		}
	}
	switch {
	case served:
	case err != nil:
		fails(err)
	default:
		v.Status, v.Reason, v.Text = http.StatusInternalServerError, "bad_backend", "none of its backends can be served"
	}
}

// misses are the first by rank of those that do not take a request, and how many more there are. What has one rank
// stays in order of precedence.
func (r *routing) misses(list []route.Miss, rank func(route.Miss) int, most int) ([]admin.RouteMiss, int) {
	list, out := slices.Clone(list), []admin.RouteMiss{}
	slices.SortStableFunc(list, func(a, b route.Miss) int { return cmp.Compare(rank(a), rank(b)) })
	for _, m := range list[:min(most, len(list))] {
		out = append(out, admin.RouteMiss{
			Route: m.Route.String(), Rule: m.Index, RuleName: m.Rule.Name, Place: r.placeOf(m.Action),
			Host: m.Hostname, Match: m.Form, Field: missedField(m), Why: m.Why,
		})
	}
	return out, len(list) - len(out)
}

// missedField is the part of a request that a match does not fit: the first word of why.
func missedField(m route.Miss) string {
	field, _, _ := strings.Cut(m.Why, " ")
	return field
}

// pathsLast puts behind the others those that are for other paths: a host may have hundreds.
func pathsLast(m route.Miss) int {
	if missedField(m) == "path" {
		return 1
	}
	return 0
}

// furthestFirst is the order in which a match is compared, backwards.
func furthestFirst(m route.Miss) int {
	return slices.Index([]string{"query", "header", "method", "path"}, missedField(m))
}
