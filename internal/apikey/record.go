package apikey

import (
	"net/netip"
	"time"
)

// Limits of a record.
const (
	MaxSecrets   = 2
	MaxAudiences = 64
	MaxAudience  = 2048 // bytes of one
	MaxRoutes    = 64
	MaxCIDRs     = 64
	MaxOwner     = 2048                 // bytes, as long as a sub may be
	MaxLife      = 365 * 24 * time.Hour // from now to expires
)

// Record is one APIKey (tokens.md 14.2), its defaults filled in. Whoever is given one by a Set
// leaves it as it is.
type Record struct {
	Namespace    string         `json:"namespace"`
	Name         string         `json:"name"`
	Env          Env            `json:"env"`
	Secrets      []Secret       `json:"secrets"`
	Owner        string         `json:"owner"` // a SPIFFE ID of its namespace, or a user, alias:id
	Scopes       []string       `json:"scopes,omitempty"`
	Audiences    []string       `json:"audiences,omitempty"` // as written
	Routes       []string       `json:"routes,omitempty"`    // namespace/name
	CIDRs        []netip.Prefix `json:"cidrs,omitempty"`     // none: any source
	Expires      time.Time      `json:"expires"`
	LimitClass   string         `json:"limitClass,omitempty"`
	RevokeOnLeak bool           `json:"revokeOnLeak"`
	Disabled     bool           `json:"disabled,omitempty"`
	Since        int64          `json:"since,omitempty"` // revision at which it was first applied
}

// Secret is what is kept of one secret.
type Secret struct {
	ID     string    `json:"id"`
	SHA256 string    `json:"sha256"` // of its 43 digits, in hexadecimal; with a pepper its HMAC
	Until  time.Time `json:"until,omitzero"`
}

// Principal is the name of the key, which outlives its secrets: the sub of what is issued for
// it, the object of policies, the bucket of limits.
func (r *Record) Principal() string { return "key:" + r.Namespace + ":" + r.Name }

// Admits reports whether the key may be used from that address.
func (r *Record) Admits(source netip.Addr) bool {
	if len(r.CIDRs) == 0 {
		return true
	}
	source = source.Unmap().WithZone("")
	for _, p := range r.CIDRs {
		if p.Contains(source) {
			return true
		}
	}
	return false
}

// State is what a secret of a record is good for.
type State string

// The states of a secret.
const (
	StateActive   State = "active"
	StateDisabled State = "disabled"
	StateExpired  State = "expired"
	StateRotated  State = "rotated_out"
)

// State is that of secret i.
func (r *Record) State(i int, now time.Time) State {
	e := entry{record: r, until: r.Secrets[i].Until}
	switch e.ended(now) {
	case "":
		return StateActive
	case Disabled:
		return StateDisabled
	case Expired:
		return StateExpired
	}
	return StateRotated
}
