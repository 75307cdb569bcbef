package route

import (
	"cmp"
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/h1"
)

// Action is what a rule does with the requests that it takes.
type Action struct {
	Route *HTTPRoute
	Index int // of the rule in the route
	Rule  *Rule

	// How records, metrics and people name the route, ns/name, and the rule, ns/name#rule.
	Of, Text string

	// Bad says why the rule answers 500, whatever else is written in it; empty: it is sound.
	Bad string

	// In the order of their effects: CORS preflight; policy and limits; the redirect, or the changes of the rule and
	// of the chosen backend; those of the answer; CORS fields.
	CORS       *Sharing
	Redirect   *Redirect
	Extensions []Ref
	backends   []Effects
	own        Effects
	weights    uint64
	invalid    bool // Bad is a fault of the rule itself
}

// Effects are the changes of a rule and of one of its backends, each list in the order it is to be applied in.
type Effects struct {
	Request  []*HeaderChange
	Response []*HeaderChange
	Host     string // empty: as it is
	path     *PathReplace
}

// Effects of the request's backend, an index of Rule.Backends; -1 where the rule answers by itself.
func (a *Action) Effects(backend int) *Effects {
	if backend < 0 {
		return &a.own
	}
	return &a.backends[backend]
}

func (a *Action) fault(format string, args ...any) {
	if !a.invalid {
		a.Bad, a.invalid = fmt.Sprintf(format, args...), true
	}
}

// compiled is one route, ready for every listener it is attached to.
type compiled struct {
	actions []Action
	matches []*match
	place   int64
	regex   bool // one of its paths is an expression
}

func (c *compiled) faults() (out []Fault) {
	for i := range c.actions {
		if a := &c.actions[i]; a.invalid {
			out = append(out, Fault{Route: a.Route.Name, Rule: a.Index, Text: a.Bad})
		}
	}
	return out
}

// compileRoute compiles a route that stands at a place by age.
func (c *compiler) compileRoute(r *HTTPRoute, place int64) *compiled {
	out := &compiled{actions: make([]Action, len(r.Rules)), place: place}
	n, conditions, of := 0, 0, r.Name.String()
	for i := range r.Rules {
		n += max(len(r.Rules[i].Matches), 1)
		for j := range r.Rules[i].Matches {
			conditions += len(r.Rules[i].Matches[j].Headers) + len(r.Rules[i].Matches[j].Query)
		}
	}
	slab := make([]match, n)
	out.matches, c.slab = make([]*match, 0, n), make([]condition, 0, conditions)
	for i := range r.Rules {
		a := &out.actions[i]
		*a = Action{Route: r, Index: i, Rule: &r.Rules[i], Of: of}
		a.Text = of + "#" + cmp.Or(a.Rule.Name, strconv.Itoa(i))
		a.compileFilters()
		matches := a.Rule.Matches
		if len(matches) == 0 {
			matches = []Match{{PathType: Prefix, Path: "/"}}
		}
		for j := range matches {
			m := &slab[len(out.matches)]
			m.index, m.place = int32(j), place
			if c.compileMatch(a, m, &matches[j]) {
				out.matches = append(out.matches, m)
				out.regex = out.regex || m.rank() == 1
			}
		}
	}
	return out
}

func (a *Action) compileFilters() {
	seen := map[string]bool{}
	for i := range a.Rule.Filters {
		f := &a.Rule.Filters[i]
		a.once(seen, f)
		switch {
		case f.Redirect != nil:
			a.Redirect = f.Redirect
			a.checkRedirect(f.Redirect)
		case f.CORS != nil:
			a.CORS = a.compileCORS(f.CORS)
		case f.Extension != nil:
			a.Extensions = append(a.Extensions, *f.Extension)
			if f.Extension.Kind != rateLimitKind || f.Extension.Namespace != a.Route.Namespace {
				a.Bad = cmp.Or(a.Bad, "an extension is a countersign.dev RateLimit of the route's namespace") // ResolvedRefs, not a fault
			}
		default:
			a.compileEffect(&a.own, f)
		}
	}
	if a.Redirect != nil && (len(a.Rule.Backends) > 0 || seen["URLRewrite"]) {
		a.fault("a redirect stands beside neither backendRefs nor a rewrite")
	}
	a.backends = make([]Effects, len(a.Rule.Backends))
	for i := range a.Rule.Backends {
		a.compileBackend(&a.backends[i], &a.Rule.Backends[i])
	}
}

// compileBackend puts the filters of a backend around those of its rule: its request changes come after them, its
// response changes before.
func (a *Action) compileBackend(e *Effects, b *Backend) {
	a.weights += uint64(max(b.Weight, 0))
	seen := map[string]bool{}
	for i := range b.Filters {
		a.once(seen, &b.Filters[i])
		a.compileEffect(e, &b.Filters[i])
	}
	e.Request = append(slices.Clip(a.own.Request), e.Request...)
	e.Response = append(e.Response, a.own.Response...)
	if e.Host == "" {
		e.Host = a.own.Host
	}
	if e.path == nil {
		e.path = a.own.path
	}
}

// compileEffect takes the filters that rule and backend have in common.
func (a *Action) compileEffect(e *Effects, f *Filter) {
	switch {
	case f.RequestHeaders != nil:
		e.Request = append(e.Request, a.compileHeaders(f.RequestHeaders, false))
	case f.ResponseHeaders != nil:
		e.Response = append(e.Response, a.compileHeaders(f.ResponseHeaders, true))
	case f.Rewrite != nil:
		e.Host, e.path = f.Rewrite.Hostname, f.Rewrite.Path
		a.checkHost(f.Rewrite.Hostname)
		a.checkReplace(f.Rewrite.Path)
	default:
		a.fault("filter %q is not supported here", filterType(f))
	}
}

// once refuses a second filter of one type; only extensions may be several.
func (a *Action) once(seen map[string]bool, f *Filter) {
	kind := filterType(f)
	if seen[kind] && f.Extension == nil {
		a.fault("filter %q stands there twice", kind)
	}
	seen[kind] = true
}

func filterType(f *Filter) string {
	switch {
	case f.RequestHeaders != nil:
		return "RequestHeaderModifier"
	case f.ResponseHeaders != nil:
		return "ResponseHeaderModifier"
	case f.Redirect != nil:
		return "RequestRedirect"
	case f.Rewrite != nil:
		return "URLRewrite"
	case f.CORS != nil:
		return "CORS"
	case f.Extension != nil:
		return "ExtensionRef"
	}
	return f.Unknown
}

func (a *Action) checkHost(hostname string) {
	if hostname != "" && h1.CheckHost(hostname) != nil {
		a.fault("hostname %q is none", hostname)
	}
}

// Fields is a header that can be changed; net/http.Header is one.
type Fields interface {
	Del(name string)
	Set(name, value string)
	Add(name, value string)
}

// HeaderChange is a header filter with canonical names, each once.
type HeaderChange struct {
	remove   []string
	set, add []Pair
}

// Apply removes, then sets, then adds. What is added stays a line of its own: Set-Cookie cannot be joined.
func (c *HeaderChange) Apply(to Fields) {
	for _, name := range c.remove {
		to.Del(name)
	}
	for _, p := range c.set {
		to.Set(p.Name, p.Value)
	}
	for _, p := range c.add {
		to.Add(p.Name, p.Value)
	}
}

// compileHeaders is gateway.md 7.1: a name twice in one list counts once, a name in two lists is a fault, and so is
// one that is not the route's to change.
func (a *Action) compileHeaders(f *HeaderFilter, response bool) *HeaderChange {
	c := &HeaderChange{}
	seen := map[string]byte{}
	take := func(list byte, p Pair) bool {
		switch {
		case !isToken(p.Name):
			a.fault("header name %q is none", p.Name)
		case strings.ContainsFunc(p.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }):
			a.fault("the value for header %q has a control character", p.Name)
		case reserved(p.Name, response):
			a.fault("header %q is not a filter's to change", p.Name)
		case seen[p.Name] != 0 && seen[p.Name] != list:
			a.fault("header %q stands in two lists of one filter", p.Name)
		case seen[p.Name] == 0:
			seen[p.Name] = list
			return true
		}
		return false
	}
	for _, name := range f.Remove {
		if name = textproto.CanonicalMIMEHeaderKey(name); take('r', Pair{Name: name}) {
			c.remove = append(c.remove, name)
		}
	}
	for _, p := range f.Set {
		if p.Name = textproto.CanonicalMIMEHeaderKey(p.Name); take('s', p) {
			c.set = append(c.set, p)
		}
	}
	for _, p := range f.Add {
		if p.Name = textproto.CanonicalMIMEHeaderKey(p.Name); take('a', p) {
			c.add = append(c.add, p)
		}
	}
	return c
}

// reserved are the fields that no filter changes: Host, framing, those of the hop, Date and Via, the classes
// identity and forwarding of http-strictness 7.1, the fields that carry our tokens; of an answer also those that
// only we say. An application that reads _ or . as - must not be fooled either.
func reserved(name string, response bool) bool {
	name = strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
	for _, prefix := range [...]string{
		"x-countersign-", "x-client-cert", "x-ssl-", "ssl-client-",
		"x-forwarded-", "x-original-",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "host", "date", "via",
		"content-length", "transfer-encoding",
		"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "upgrade", "http2-settings",
		"proxy", "client-cert", "client-cert-chain",
		"forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-cluster-client-ip",
		"x-rewrite-url", "x-host", "x-http-method-override", "x-http-method", "x-method-override",
		"txn-token", "workload-identity-token", "workload-proof-token", "authorization", "dpop":
		return true
	case "x-decision-id", "www-authenticate", "ratelimit", "ratelimit-policy",
		"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset":
		return response
	}
	return false
}

// isToken is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
