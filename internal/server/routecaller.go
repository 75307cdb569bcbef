package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// caller is who would make a request, as far as it is said.
type caller struct {
	source netip.Addr   // the zero one: not said
	chain  []string     // X-Forwarded-For as it came
	before http.Header  // before hygiene
	as     string       // as it was said
	peer   *policy.Peer // by an SVID
	token  policy.Token // nil: none
	id     spiffeid.ID  // of peer
}

// who reads --source-ip and --as.
func (c *caller) who(t admin.RouteTest) error {
	bad := func(flag, value, want, hint string) error {
		return &admin.Problem{Code: "bad_request", Exit: 2, Message: fmt.Sprintf("%s %q is no %s", flag, value, want), Hints: []string{"countersign route test GET https://shop.test/ " + flag + " " + hint}}
	}
	if t.SourceIP != "" {
		ip, err := netip.ParseAddr(t.SourceIP)
		if err != nil || ip.Zone() != "" {
			return bad("--source-ip", t.SourceIP, "IP address", "203.0.113.7")
		}
		c.source = ip.Unmap()
	}
	if c.as = t.As; t.As == "" {
		return nil
	}
	if text, ok := spiffe(t.As); ok {
		id, err := spiffeid.FromString(text)
		if err != nil {
			return bad("--as", t.As, "principal", "spiffe://cluster.local/ns/default/sa/web")
		}
		peer := policy.ParsePeer(id.String(), "")
		c.id, c.peer = id, &peer
		return nil
	}
	at := strings.LastIndexByte(t.As, '/')
	if at <= 0 || at == len(t.As)-1 {
		return bad("--as", t.As, "principal", "https://login.example/alice")
	}
	c.token = shown{t.As[:at], t.As[at+1:]}
	return nil
}

// spiffe reads a SPIFFE ID, or one as policies write it: cluster.local/ns/default/sa/web.
func spiffe(s string) (string, bool) {
	switch {
	case strings.HasPrefix(s, "spiffe://"):
		return s, true
	case !strings.Contains(s, "://") && strings.Contains(s, "/ns/") && strings.Contains(s, "/sa/"):
		return "spiffe://" + s, true
	}
	return "", false
}

// shown is a token that was verified, of which nothing is known but whom it names.
type shown struct{ iss, sub string }

func (s shown) Issuer() string            { return s.iss }
func (s shown) Subject() string           { return s.sub }
func (shown) Upstream() (iss, sub string) { return "", "" }
func (shown) Audience() []string          { return nil }
func (shown) Presenter() string           { return "" }
func (shown) Actors() []string            { return nil }
func (s shown) Claim(path []string) []string {
	switch {
	case slices.Equal(path, []string{"iss"}):
		return []string{s.iss}
	case slices.Equal(path, []string{"sub"}):
		return []string{s.sub}
	}
	return nil
}

func (v *view) edgeGateway(name route.Name) *route.Gateway {
	for _, g := range v.Edge.Ours() {
		if g.Name == name {
			return g
		}
	}
	return &route.Gateway{}
}

// conn is what a connection of the caller proves at a listener: an SVID only where the Gateway asks for one of its
// trust domain.
func (r *routing) conn(at *route.Router, q *outside) policy.Conn {
	c := policy.Conn{Port: at.Port, HTTP: true}
	if q.peer == nil || at.Protocol != route.HTTPS {
		return c
	}
	want := r.edgeGateway(at.Gateway).Validation(at.Port)
	if want != nil && slices.Contains(want.TrustDomains(), q.id.TrustDomain().Name()) {
		peer := policy.ParsePeer(q.id.String(), r.Mesh.TrustDomain)
		c.Peer = &peer
	}
	return c
}

// letThrough gives back the fields that the rule lets this caller say.
func (q *outside) letThrough(at *route.Router, s *route.Settings) {
	proxied := q.source.IsValid() && at.Entrance().Proxies.From.Contains(q.source)
	for _, name := range s.ClientHeaders {
		values, ok := q.before[name]
		if ok && (h1.Lets(name) == h1.Anybody || h1.Lets(name) == h1.Proxies && proxied) {
			q.header[name] = values
		}
	}
	if s.DropUnderscores {
		for name := range q.header {
			if strings.Contains(name, "_") {
				delete(q.header, name)
			}
		}
	}
}
