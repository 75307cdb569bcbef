package proxy

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// entry is what an exchange at a door has of the options of its listener and its rule (gateway.md 11.2).
type entry struct {
	entrance *route.Entrance // of the listener; nil: none was found yet
	settings *route.Settings // of the rule, or of what no rule takes
	aside    http.Header     // fields that were stripped and that some rule lets through
	chain    []string        // X-Forwarded-For as it came
	believed int             // how much of it is believed, from the right
	client   netip.Addr      // see clientAddr
}

// clientAddr is the address of who began the request, as far as it is known (gateway.md section 20): that of the
// direct peer, or what a trusted proxy says.
func (x *exchange) clientAddr() netip.Addr {
	if x.entry.client.IsValid() {
		return x.entry.client
	}
	return x.link.src.Addr()
}

// putAside keeps of the header what is stripped next and a door may need.
func (x *exchange) putAside() {
	if x.link.door == nil {
		return
	}
	h := x.r.Header
	x.entry.chain = h["X-Forwarded-For"]
	port := x.v.port(x.link.door)
	if port == nil {
		return
	}
	for _, name := range port.ClientHeaders {
		if values, ok := h[name]; ok {
			if x.entry.aside == nil {
				x.entry.aside = http.Header{}
			}
			x.entry.aside[name] = values
		}
	}
}

// enter is step 4 of gateway.md 15 behind the choice of the listener: who calls, and whether he may.
func (x *exchange) enter(router *route.Router) *refused {
	e := &x.entry
	e.entrance, e.settings = router.Entrance(), router.Settings(nil)
	peer := x.link.src.Addr()
	e.client, e.believed = e.entrance.Proxies.Client(peer, e.chain)
	if e.client != peer {
		x.note("client " + e.client.String())
	}
	return x.admit(e.entrance.Guard)
}

// admit asks the lists of addresses of a Gateway or a route.
func (x *exchange) admit(g *route.Guard) *refused {
	if g.Admits(x.clientAddr()) {
		return nil
	}
	x.rec.Policy = g.Object
	return refuseAddress
}

var (
	refuseAddress   = &refused{status: 403, layer: audit.LayerAuthz, reason: policy.ReasonDenyRule, text: "RBAC: access denied", keep: true}
	refuseWebSocket = &refused{status: 403, layer: audit.LayerHTTP, reason: h1.UpgradeRefused, text: "no WebSocket here", keep: true}
	refuseOwnPath   = &refused{status: 404, layer: audit.LayerRoute, reason: "no_route", text: "nothing here", keep: true}
	refuseEscape    = refuseFault(h1.CheckStrict("/%2F"))
)

// ownPaths are never routed (step 5): what is ours there answers, and for the rest nobody does.
func (x *exchange) ownPaths() *refused {
	if below, ok := strings.CutPrefix(x.path, ownPath); ok && (below == "" || below[0] == '/') {
		return refuseOwnPath
	}
	return nil
}

const ownPath = "/.well-known/countersign"

// settle puts the options of the rule in force, or those of the listener where no rule takes the request, and asks
// what depends on them: rule 6 of http-strictness 5.3, the lists of the route, WebSocket.
func (x *exchange) settle(router *route.Router, host string, a *route.Action) *refused {
	s := router.Settings(a)
	x.entry.settings = s
	if a != nil {
		x.rec.RouteRule = a.Text
		x.seen.route = a.Of
	}
	if strict := x.strict(router, host); strict && !s.KeepEscapes && h1.CheckStrict(x.path) != nil {
		return refuseEscape
	} else if !strict && s.KeepSlashes {
		if no := x.keepSlashes(); no != nil {
			return no
		}
	}
	if no := x.admit(s.Guard); no != nil {
		return no
	}
	if x.websocket && s.NoWebSocket {
		return refuseWebSocket
	}
	x.letThrough(s)
	return nil
}

// strict reports whether a rule for paths is in force on the host: of a route, or of policy at this Gateway.
func (x *exchange) strict(router *route.Router, host string) bool {
	if _, strict := router.Strict(host); strict {
		return true
	}
	b, ok := x.link.bind(x.v, x.now)
	return !ok || b.bound.ReadsPath()
}

// keepSlashes gives the path its empty segments back: no rule looked at it.
func (x *exchange) keepSlashes() *refused {
	sent, f := x.origin()
	if f != nil {
		return refuseFault(f)
	}
	path, _, _, f := h1.Base.Normalize(sent) // what else the edge asks of it was asked before
	if f != nil {
		return refuseFault(f)
	}
	x.target, x.path = path+x.target[len(x.path):], path
	x.ask.Path, x.ask.Wide = path, h1.Wide(path)
	return nil
}

// letThrough gives back the fields that the rule lets strangers say; those that applications take for a proxy's word
// only a trusted one may.
func (x *exchange) letThrough(s *route.Settings) {
	h := x.r.Header
	for _, name := range s.ClientHeaders {
		values, ok := x.entry.aside[name]
		if ok && (h1.Lets(name) == h1.Anybody || h1.Lets(name) == h1.Proxies && x.proxied()) {
			h[name] = values
		}
	}
	if s.DropUnderscores {
		for name := range h {
			if strings.Contains(name, "_") {
				delete(h, name)
			}
		}
	}
}

// proxied reports that the direct peer is a proxy that is trusted by its address.
func (x *exchange) proxied() bool {
	return x.entry.entrance != nil && x.entry.entrance.Proxies.From.Contains(x.link.src.Addr())
}

// exposed reports that what the request carries was shown to everybody on its way: clear text from another machine
// that is no trusted proxy (gateway.md 27.4, T9a).
func (x *exchange) exposed() bool {
	return x.link.front == nil && !x.link.src.Addr().IsLoopback() && !x.proxied()
}

// maxBody is the most a request may carry; 0: there is no bound.
func (x *exchange) maxBody() int64 {
	if s := x.entry.settings; s != nil && s.Body != 0 {
		return max(s.Body, 0)
	}
	return x.link.edge.maxBody()
}

// tellAddresses are the fields of http-strictness 7.4 that say who called, and by which way.
func (x *exchange) tellAddresses(h http.Header, scheme string) {
	e := &x.entry
	chain := e.entrance.Proxies.Chain(x.link.src.Addr(), e.chain, e.believed)
	h["X-Forwarded-For"] = []string{chain}
	h["X-Forwarded-Proto"] = []string{scheme}
	h["X-Forwarded-Host"] = []string{x.host}
	if e.entrance.Forwarded {
		h["Forwarded"] = []string{forwardedBy(chain, x.host, scheme)}
	}
}

// forwardedBy is the same in the form of RFC 7239: the last element is what we saw ourselves.
func forwardedBy(chain, host, scheme string) string {
	var b strings.Builder
	for address := range strings.SplitSeq(chain, ", ") {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		if strings.Contains(address, ":") { // section 6
			address = strconv.Quote("[" + address + "]")
		}
		b.WriteString("for=" + address)
	}
	return b.String() + ";host=" + strconv.Quote(host) + ";proto=" + scheme
}

// secure has browsers come back by TLS alone (RFC 6797 section 7.2: never said over clear text).
func (x *exchange) secure(h http.Header) {
	if e := x.entry.entrance; e != nil && e.HSTS != "" && x.link.front != nil {
		h["Strict-Transport-Security"] = []string{e.HSTS}
	}
}

// judgeEntry decides a running exchange at a door anew by the lists of addresses (gateway.md section 22). That its
// route or its listener went does not end it.
func (x *exchange) judgeEntry(v *view) *cut {
	if x.entry.entrance == nil {
		return nil
	}
	port := v.port(x.link.door)
	if port == nil {
		return nil
	}
	host, _ := h1.LookupHost(x.r.Host)
	router := port.Router(host)
	if router == nil {
		return nil
	}
	guards := []*route.Guard{router.Entrance().Guard}
	if s := router.Successor(x.hit.Action); s != nil {
		guards = append(guards, s.Guard)
	}
	for _, g := range guards {
		if !g.Admits(x.clientAddr()) {
			return &cut{why: cutPolicy, verdict: policy.Verdict{Policy: g.Object, Rule: -1}, rev: v.PolicyRevision}
		}
	}
	return nil
}
