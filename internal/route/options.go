package route

import (
	"cmp"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are the annotations of ours on a Gateway or a route, by name without prefix; those for one listener or rule
// have its name behind a dot. Package resource has checked their values: one that cannot be read counts as absent, but
// for lists of addresses, which then let nobody in.
type Options map[string]string

// of is the value for a part; without one, that for the whole.
func (o Options) of(name, part string) (string, bool) {
	if part != "" {
		if v, ok := o[name+"."+part]; ok {
			return v, true
		}
	}
	v, ok := o[name]
	return v, ok
}

// Settings are the options that hold for a rule behind a listener: those of the nearest holder, rule, route, listener,
// Gateway (gateway.md 11.2).
type Settings struct {
	NoWebSocket     bool
	Body            int64         // bytes a request may have; 0: no one said, below 0: no bound
	Idle            time.Duration // of streams; 0: no one said
	KeepEscapes     bool          // escaped reserved characters stay
	KeepSlashes     bool          // empty segments stay, where no rule looks at paths
	DropUnderscores bool
	ClientHeaders   []string // canonical names that strangers may say
	Guard           *Guard   // of the route; that of the listener was asked before
}

// Entrance are the options of a listener for all who come in by it.
type Entrance struct {
	Proxies        Proxies
	Guard          *Guard
	HSTS           string // Strict-Transport-Security; empty: none
	NoVia          bool
	Forwarded      bool
	MaxConnections int // of the port; 0: no one said
	MaxPerSource   int
}

// holders are who may hold an option, the nearest first.
type holders []struct {
	Options
	part string
}

func (hs holders) value(name string) string {
	for _, h := range hs {
		if v, ok := h.of(name, h.part); ok {
			return v
		}
	}
	return ""
}

func (hs holders) number(name string) int {
	n, err := strconv.Atoi(hs.value(name))
	if err != nil {
		return 0
	}
	return n
}

func settingsOf(hs holders) *Settings {
	s := &Settings{
		NoWebSocket: hs.value("websocket") == "deny", KeepEscapes: hs.value("escaped-reserved") == "keep",
		KeepSlashes: hs.value("merge-slashes") == "false", DropUnderscores: hs.value("underscores") == "drop",
	}
	if n, ok := ParseSize(hs.value("request-body")); ok {
		s.Body = cmp.Or(n, -1)
	}
	if d, err := time.ParseDuration(hs.value("stream-idle")); err == nil {
		s.Idle = d
	}
	for name := range strings.SplitSeq(hs.value("allow-client-headers"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			s.ClientHeaders = append(s.ClientHeaders, textproto.CanonicalMIMEHeaderKey(name))
		}
	}
	return s
}

func guardOf(object string, hs holders) *Guard {
	deny, allow := hs.value("ip-deny"), hs.value("ip-allow")
	if deny == "" && allow == "" {
		return nil
	}
	g := &Guard{Object: object, only: allow != ""}
	var err error
	if allow != "" {
		g.allow, _ = ParseNetworks(allow)
	}
	if deny != "" {
		if g.deny, err = ParseNetworks(deny); err != nil {
			g.only, g.allow = true, Networks{}
		}
	}
	return g
}

func entranceOf(g Name, hs holders) *Entrance {
	e := &Entrance{
		Guard: guardOf("Gateway/"+g.String(), hs), HSTS: hs.value("hsts"), NoVia: hs.value("via") == "false",
		Forwarded: hs.value("forwarded") == "true", MaxConnections: hs.number("max-connections"), MaxPerSource: hs.number("max-connections-per-source"),
	}
	e.Proxies.Count = hs.number("trusted-proxies")
	if from := hs.value("trusted-proxy-addresses"); from != "" {
		var err error
		if e.Proxies.From, err = ParseNetworks(from); err != nil {
			e.Proxies.Count = 0
		}
	}
	return e
}

// choose works out the options of a listener and of the rules behind it.
func (r *Router) choose(o Options, routes []Effective, all map[*HTTPRoute]*compiled) {
	listener := holders{{o, r.Listener}}
	r.entrance, r.settings = entranceOf(r.Gateway, listener), settingsOf(listener)
	for _, e := range routes {
		if len(e.Route.Options) == 0 {
			continue
		}
		for i := range all[e.Route].actions {
			a := &all[e.Route].actions[i]
			own := holders{{e.Route.Options, a.Rule.Name}}
			s := settingsOf(append(own, listener...))
			s.Guard = guardOf("HTTPRoute/"+e.Route.String(), own)
			if r.own == nil {
				r.own = map[*Action]*Settings{}
			}
			r.own[a] = s
		}
	}
}

// Settings are those of a rule; nil means what no rule takes.
func (r *Router) Settings(a *Action) *Settings {
	if s := r.own[a]; s != nil {
		return s
	}
	return r.settings
}

// Entrance is that of the listener.
func (r *Router) Entrance() *Entrance { return r.entrance }

// join takes the options of one more listener of the port: of two bounds the smaller counts, because a connection is
// counted before its listener is known.
func (p *Port) join(r *Router) {
	e := r.entrance
	p.MaxConnections = least(p.MaxConnections, e.MaxConnections)
	p.MaxPerSource = least(p.MaxPerSource, e.MaxPerSource)
	p.proxies = append(p.proxies, &e.Proxies.From)
	for _, s := range r.own {
		p.lets(s)
	}
	p.lets(r.settings)
}

func (p *Port) lets(s *Settings) {
	for _, name := range s.ClientHeaders {
		if !slices.Contains(p.ClientHeaders, name) {
			p.ClientHeaders = append(p.ClientHeaders, name)
		}
	}
}

func least(a, b int) int {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// ParseSize reads a size as Kubernetes writes it: bytes, or with Ki, Mi, Gi.
func ParseSize(s string) (int64, bool) {
	shift := 0
	for i, unit := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			s, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return int64(n) << shift, true
}

// Proxied reports whether a direct peer is a proxy that is named as one: it brings the connections of many.
func (p *Port) Proxied(peer netip.Addr) bool {
	return slices.ContainsFunc(p.proxies, func(n *Networks) bool { return n.Contains(peer) })
}

// Successor is the settings of the rule that stands in the place of one of another table, by its name or number; nil if
// none does, or it has none of its own.
func (r *Router) Successor(was *Action) *Settings {
	for a := range r.own {
		if a.Route.Name == was.Route.Name && a.Rule.Name == was.Rule.Name && (was.Rule.Name != "" || a.Index == was.Index) {
			return r.own[a]
		}
	}
	return nil
}

// BelievesAnybody reports a listener at which trusted proxies are counted, and not named.
func (g *Gateway) BelievesAnybody() bool {
	return slices.ContainsFunc(g.Listeners, func(l Listener) bool {
		p := entranceOf(g.Name, holders{{g.Options, l.Name}}).Proxies
		return p.Count > 0 && p.From.Empty()
	})
}
