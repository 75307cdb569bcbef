package route

import (
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/policy"
)

// RateLimit is a RateLimit of countersign.dev (gateway.md 16). Without targets it is a class: something else names it.
type RateLimit struct {
	Meta
	Targets []LimitTarget `json:",omitempty"` // at most 16
	Shadow  bool          `json:",omitempty"` // counts, never refuses
	Rules   []LimitRule   // 1–16
}

// LimitTarget is one of targetRefs: a Gateway or an HTTPRoute of the limit's namespace. Section is the name of a
// listener, or of a rule; empty: all of it.
type LimitTarget struct {
	Ref
	Section string `json:",omitempty"`
}

// LimitRule is one rule: of Requests and Concurrent one is set.
type LimitRule struct {
	Name string
	When policy.Rule // which requests; the zero Rule: all
	Key  []KeyPart   `json:",omitempty"` // at most 4; none: one bucket for all

	Requests   int64         `json:",omitempty"` // a Per
	Per        time.Duration `json:",omitempty"`
	Burst      int64         `json:",omitempty"` // 0: as Requests
	Cost       int64         `json:",omitempty"` // of a request; 0: one
	Concurrent int64         `json:",omitempty"`

	Refuse bool `json:",omitempty"` // new keys where there is no room for more; else they share a bucket
	Early  bool `json:",omitempty"` // counted before identity
	Hidden bool `json:",omitempty"` // not in the fields of answers
}

// KeyKind says what a part of a key is of.
type KeyKind uint8

// The parts of keys.
const (
	KeyPrincipal KeyKind = iota + 1
	KeyPeer
	KeyAPIKey
	KeyClient
	KeyClaim
	KeyIP
	KeyHeader
	KeyHost
	KeyMethod
	KeyRoute
	KeyPath
	KeyService
)

var keyKinds = map[string]KeyKind{
	"principal": KeyPrincipal, "peer": KeyPeer, "apiKey": KeyAPIKey, "client": KeyClient, "ip": KeyIP,
	"host": KeyHost, "method": KeyMethod, "route": KeyRoute, "path": KeyPath, "service": KeyService,
}

// KeyPart is one part of a key, parsed.
type KeyPart struct {
	Text   string // as written
	Kind   KeyKind
	Header string   `json:",omitempty"` // of KeyHeader, canonical
	Claim  []string `json:",omitempty"` // of KeyClaim: names, outermost first
	V4, V6 int      `json:",omitempty"` // of KeyIP: bits of an address
}

// The longest part of a key, in bytes.
const maxKeyPart = 256

// ParseKeyPart reads one part of a key as it is written.
func ParseKeyPart(s string) (KeyPart, error) {
	p := KeyPart{Text: s, Kind: keyKinds[s]}
	switch name, rest, dotted := strings.Cut(s, "."); {
	case len(s) > maxKeyPart:
		return KeyPart{}, fmt.Errorf("longer than %d bytes", maxKeyPart)
	case p.Kind == KeyIP:
		p.V4, p.V6 = 32, 64
	case p.Kind != 0:
	case dotted && name == "claim":
		p.Kind, p.Claim = KeyClaim, strings.Split(rest, ".")
		if slices.Contains(p.Claim, "") {
			return KeyPart{}, fmt.Errorf("a claim without a name")
		}
	case dotted && name == "header":
		p.Kind, p.Header = KeyHeader, textproto.CanonicalMIMEHeaderKey(rest)
		if err := policy.CheckKey("request.headers[" + rest + "]"); err != nil {
			return KeyPart{}, err
		}
	case strings.HasPrefix(s, "ip/"):
		v4, v6, _ := strings.Cut(strings.TrimPrefix(s, "ip/"), "/")
		var ok4, ok6 bool
		p.Kind = KeyIP
		if p.V4, ok4 = prefixLength(v4, 32); !ok4 {
			return KeyPart{}, fmt.Errorf("%q is no number of bits from 1 to 32", v4)
		}
		if p.V6, ok6 = prefixLength(v6, 128); !ok6 {
			return KeyPart{}, fmt.Errorf("%q is no number of bits from 1 to 128", v6)
		}
	default:
		return KeyPart{}, fmt.Errorf("not a part of a key")
	}
	return p, nil
}

func prefixLength(s string, most int) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && strconv.Itoa(n) == s && n >= 1 && n <= most
}

// Early reports whether the part is known before identity.
func (p KeyPart) Early() bool {
	switch p.Kind {
	case KeyPeer, KeyIP, KeyHost, KeyMethod, KeyPath, KeyRoute:
		return true
	}
	return false
}

// Chosen reports whether a stranger chooses the part at will, and with it his own bucket.
func (p KeyPart) Chosen() bool { return p.Kind == KeyHeader || p.Kind == KeyPath || p.Kind == KeyHost }

// Given reports whether the part says who calls, which a stranger does not choose.
func (p KeyPart) Given() bool { return !p.Chosen() && p.Kind < KeyHost }

// String is the rule for people: 100 in 1m, burst 20, by principal and route.
func (r *LimitRule) String() string {
	var b strings.Builder
	if r.Concurrent > 0 {
		fmt.Fprintf(&b, "%d at a time", r.Concurrent)
	} else {
		fmt.Fprintf(&b, "%d %s", r.Requests, perText(r.Per))
		if r.Burst != 0 && r.Burst != r.Requests {
			fmt.Fprintf(&b, ", burst %d", r.Burst)
		}
		if r.Cost > 1 {
			fmt.Fprintf(&b, ", each counts %d", r.Cost)
		}
	}
	var parts []string
	for _, p := range r.Key {
		parts = append(parts, p.Text)
	}
	if len(parts) == 0 {
		return b.String() + ", for all together"
	}
	return b.String() + ", by " + strings.Join(parts, " and ")
}

func perText(d time.Duration) string {
	switch d {
	case time.Second:
		return "a second"
	case time.Minute:
		return "a minute"
	case time.Hour:
		return "an hour"
	case 24 * time.Hour:
		return "a day"
	}
	return "in " + DurationText(d)
}

// DurationText is a duration without its zeros: 1h, 1m30s.
func DurationText(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if cut, ok := strings.CutSuffix(s, zero); ok {
			s = cut + zero[:1]
		}
	}
	return s
}
