package token

import (
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
)

// caller is a client that authenticated itself on this request.
type caller struct {
	client *grant.Client
	method string // of authentication, by its wire name: spiffe_x509, client_secret_basic, …
	source string // who limits count: the proven identity, else the address or, on loopback, its user
	world  *World // what this request is decided by, whole
	now    time.Time

	// What the connection proved, whoever the client is: of a client that authenticated itself
	// otherwise it serves binding alone (RFC 8705, section 4).
	peer     *identity.Peer // nil: no SPIFFE ID was proven
	leaf     [32]byte       // SHA-256 of the leaf shown, if it is in its validity now; else zero
	notAfter time.Time      // of that leaf
}

// presenter is who holds the connection, for the binding of tokens sent on it.
func (c *caller) presenter() jose.Presenter {
	p := jose.Presenter{Fingerprint: c.leaf}
	if c.peer != nil {
		p.ID = c.peer.ID.String()
	}
	return p
}
