package admin

import "time"

// TokenVerify is POST /v1/token/verify: tokens of our own issuer, or of a trusted one, judged as
// a proxy of the audience would.
type TokenVerify struct {
	Tokens    []string `json:"tokens"`
	Audience  string   `json:"audience,omitempty"`  // a canonical value, or a name of the registry; empty: any
	Namespace string   `json:"namespace,omitempty"` // of a bare name
}

// TokenVerdicts answers it, one verdict a token.
type TokenVerdicts struct {
	Verdicts []TokenVerdict `json:"verdicts"`
}

// TokenVerdict is what became of one token. Of a refused one only the reason is said.
type TokenVerdict struct {
	Line    int       `json:"line"`
	OK      bool      `json:"ok"`
	Reason  string    `json:"reason,omitempty"` // tokens.md 12.1
	Text    string    `json:"text,omitempty"`
	Subject string    `json:"sub,omitempty"`
	Issuer  string    `json:"iss,omitempty"`
	Typ     string    `json:"typ,omitempty"`
	Alg     string    `json:"alg,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Binding string    `json:"binding,omitempty"` // SPIFFE ID, or certificate hash
	Actors  []string  `json:"act,omitempty"`     // outermost first
	Scopes  []string  `json:"scopes,omitempty"`
}

// TokenRevoke is POST /v1/token/revoke: a token, or a kind of the log with its value.
type TokenRevoke struct {
	Token  string    `json:"token,omitempty"`
	Kind   string    `json:"kind,omitempty"` // jti, rti, sid, sub, client, kid, before
	Val    string    `json:"val,omitempty"`
	Before time.Time `json:"before,omitzero"` // of sub, client and before: issued until then; zero is now
	WaitMS int64     `json:"wait_ms"`
}

// TokenRevoked answers it.
type TokenRevoked struct {
	Kind     string      `json:"kind"`
	Val      string      `json:"val,omitempty"`
	Seq      int64       `json:"seq"`
	Enforced Enforcement `json:"enforced"`
}

// TokenRotate is POST /v1/token/rotate.
type TokenRotate struct {
	Now            bool `json:"now,omitempty"`
	RevokePrevious bool `json:"revoke_previous,omitempty"`
}

// TokenKey is one key that signs tokens.
type TokenKey struct {
	KeyID     string    `json:"key_id"`
	State     string    `json:"state"` // publish, activate, retire
	Created   time.Time `json:"created"`
	Activated time.Time `json:"activated,omitzero"`
	Retired   time.Time `json:"retired,omitzero"`
}

// TokenRotated answers TokenRotate.
type TokenRotated struct {
	New  TokenKey   `json:"new"`
	Keys []TokenKey `json:"keys"`
}

// TokenService answers POST /v1/token/service: where it is.
type TokenService struct {
	Issuer string     `json:"issuer"`
	MTLS   string     `json:"mtls"` // base URL
	Keys   []TokenKey `json:"keys"`
}

// ClientCreate is POST /v1/client/create: an OAuthClient, and its secret if it has one.
type ClientCreate struct {
	Namespace string        `json:"namespace,omitempty"`
	Name      string        `json:"name"`
	Audiences []string      `json:"audiences,omitempty"`
	Scopes    []string      `json:"scopes,omitempty"` // of every audience, also by default
	Auth      string        `json:"auth,omitempty"`   // client_secret unless JWKS or SPIFFEID say otherwise
	JWKS      string        `json:"jwks,omitempty"`
	SPIFFEID  string        `json:"spiffe_id,omitempty"`
	Expires   time.Duration `json:"expires,omitempty"` // of the secret; 0 is a year
}

// ClientRotate is POST /v1/client/rotate.
type ClientRotate struct {
	Namespace string        `json:"namespace,omitempty"`
	Name      string        `json:"name"`
	Expires   time.Duration `json:"expires,omitempty"` // 0 is a year
	Overlap   time.Duration `json:"overlap"`           // the old secret counts so much longer
}

// ClientMade answers both. The secret is told this once.
type ClientMade struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	ClientID  string    `json:"client_id"`
	Secret    string    `json:"client_secret,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	Revision  int64     `json:"revision"`
	Notes     []string  `json:"notes,omitempty"`
}

// ClientQuery is POST /v1/client/list; an empty field selects all.
type ClientQuery struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// ClientList answers it.
type ClientList struct {
	Clients []ClientRow `json:"clients"`
}

// ClientRow is one client.
type ClientRow struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	ClientID  string         `json:"client_id"`
	Auth      string         `json:"auth"`
	SPIFFEID  string         `json:"spiffe_id,omitempty"`
	Disabled  bool           `json:"disabled,omitempty"`
	Targets   []ClientTarget `json:"targets"`
	Secrets   []ClientSecret `json:"secrets"`
	Notes     []string       `json:"notes,omitempty"` // what weakens it
	Created   time.Time      `json:"created"`
}

// ClientTarget is one audience of a client.
type ClientTarget struct {
	Audience string   `json:"audience"`
	Scopes   []string `json:"scopes"`
	Exchange bool     `json:"exchange,omitempty"`
	Attach   bool     `json:"attach,omitempty"`
}

// ClientSecret is one secret, without itself.
type ClientSecret struct {
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}
