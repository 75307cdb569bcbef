package admin

import "time"

// KeyCreate is POST /v1/key/create: an APIKey with its first secret.
type KeyCreate struct {
	Namespace  string        `json:"namespace,omitempty"`
	Name       string        `json:"name"`
	Owner      string        `json:"owner,omitempty"` // a service account, a SPIFFE ID, or a user; empty: who asks
	Env        string        `json:"env,omitempty"`   // live unless said
	Audiences  []string      `json:"audiences,omitempty"`
	Routes     []string      `json:"routes,omitempty"`
	Scopes     []string      `json:"scopes,omitempty"`
	CIDRs      []string      `json:"cidrs,omitempty"`
	LimitClass string        `json:"limit_class,omitempty"`
	Expires    time.Duration `json:"expires,omitempty"` // 0 is 90 days
}

// KeyRotate is POST /v1/key/rotate.
type KeyRotate struct {
	Namespace string        `json:"namespace,omitempty"`
	Name      string        `json:"name"`
	Overlap   time.Duration `json:"overlap"` // the secret before counts so much longer
}

// KeyMade answers both. The secret, which is the whole key, is told this once.
type KeyMade struct {
	ID        string    `json:"id"`
	Secret    string    `json:"secret"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Env       string    `json:"env"`
	Owner     string    `json:"owner"`
	Expires   time.Time `json:"expires"`
	Before    string    `json:"before,omitempty"` // id of the secret before, while it counts
	Until     time.Time `json:"until,omitzero"`   // and until when it does
	Revision  int64     `json:"revision"`
	Notes     []string  `json:"notes,omitempty"`
}

// KeyRevoke is POST /v1/key/revoke: one secret, or with the last the key.
type KeyRevoke struct {
	ID        string `json:"id"`
	Confirmed bool   `json:"confirmed,omitempty"`
}

// KeyQuery is POST /v1/key/list; an empty field selects all.
type KeyQuery struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// KeyList answers it, a row for each secret.
type KeyList struct {
	Keys []KeyRow `json:"keys"`
}

// KeyRow is one secret of a key.
type KeyRow struct {
	ID         string    `json:"id"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	Env        string    `json:"env"`
	Owner      string    `json:"owner"`
	Scopes     []string  `json:"scopes"`
	Audiences  []string  `json:"audiences,omitempty"`
	Routes     []string  `json:"routes,omitempty"`
	CIDRs      []string  `json:"cidrs,omitempty"`
	LimitClass string    `json:"limit_class,omitempty"`
	Expires    time.Time `json:"expires"`
	Until      time.Time `json:"until,omitzero"` // of a secret that is rotated out
	Created    time.Time `json:"created"`
	CreatedBy  string    `json:"created_by,omitempty"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	Exposed    time.Time `json:"exposed,omitzero"`
	Where      string    `json:"where,omitempty"`
	State      string    `json:"state"` // active, rotated_out, expired, disabled
	Notes      []string  `json:"notes,omitempty"`
}

// KeyFind is POST /v1/key/find: what became of the secrets with these ids.
type KeyFind struct {
	IDs []string `json:"ids"`
}

// KeyStates answers it: active, revoked (also what ended), or unknown.
type KeyStates struct {
	States map[string]string `json:"states"`
}
