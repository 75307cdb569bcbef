// Package ca is the certificate authority of a trust domain: a root, which signs one issuing
// authority per server, which signs the leaves of workloads, nodes and servers.
//
// Its words: a root lives 365 days, sealed in the store, and is opened only to sign an issuing
// authority; an issuing authority lives 7 days, is renewed at half of that, and its key never
// leaves its server; a Token is a certificate that was checked and linted but not signed; an
// intent is the record of it.
//
// Its promise: no signature without a record of it on the disk, no token spent twice, the bytes
// signed are the bytes linted, and a key that does not open is an error, never a new key.
package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// Refusals that callers tell apart. Every other error means that the authority, its store or
// its record is at fault, and the same request may succeed later.
var (
	ErrRequest  = errors.New("request refused")                 // asks for what its profile does not give
	ErrCSR      = errors.New("certificate request refused")     // RFC 2986, or the wrong kind of key
	ErrTooShort = errors.New("too_short")                       // what could be issued would end at once
	ErrLint     = errors.New("certificate would be wrong")      // a fault of ours, found before it was signed
	ErrSpent    = errors.New("token is spent")                  // signed before
	ErrStale    = errors.New("token is stale")                  // too old, or its authority was replaced
	ErrKey      = errors.New("key of an authority is unusable") // sealed with another key, changed, or another's
)

// Recorder keeps a record durably before it returns. Safe for concurrent use.
type Recorder interface {
	Record(ctx context.Context, r *audit.Record) error
}

// Adder is a Recorder that also takes records whose loss in a crash is borne: outcomes, for
// an intent without outcome reads "prepared, not signed". Add never blocks.
type Adder interface {
	Add(r *audit.Record)
}

// Options say where an authority keeps its keys. All but Log must be set.
type Options struct {
	Store       store.Store
	Sealer      keyring.Sealer
	Dir         *os.Root // state directory of this server, where the issuing key lies; stays the caller's
	TrustDomain spiffeid.TrustDomain
	ServerName  string
	Recorder    Recorder
	Log         *slog.Logger
}

// Authority issues certificates. Its methods are safe for concurrent use; Run renews its
// issuing authority and is started once.
type Authority struct {
	opt       Options
	throwaway *ecdsa.PrivateKey // signs what is linted; chained to nothing
	root      *root             // of Open; never changes
	madeRoot  bool
	bundle    identity.Bundle
	issuer    atomic.Pointer[issuer]

	renewing sync.Mutex // held for a whole renewal, I/O included: there is one at a time
}

// Open loads the authority of a server, and on first use of the store makes the root, on
// first use of the server its issuing authority. Whatever exists and does not open is an error.
func Open(ctx context.Context, opt Options) (*Authority, error) {
	if err := identity.CheckTrustDomain(opt.TrustDomain.Name()); err != nil {
		return nil, fmt.Errorf("opening the certificate authority: %w", err)
	}
	if _, err := identity.ForServer(opt.TrustDomain, opt.ServerName); err != nil {
		return nil, fmt.Errorf("opening the certificate authority: server %q: %w", opt.ServerName, err)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	throwaway, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("making the throw-away key: %w", err)
	}
	a := &Authority{opt: opt, throwaway: throwaway}
	if err := a.openRoot(ctx); err != nil {
		return nil, fmt.Errorf("opening the root of %q: %w", opt.TrustDomain, err)
	}
	if err := a.openIssuer(ctx); err != nil {
		return nil, fmt.Errorf("opening the issuing authority of server %q: %w", opt.ServerName, err)
	}
	return a, nil
}

// Issue takes a request through its three steps in their order: prepare, record, sign.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) {
	issued, err := a.issue(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("issuing for %q: %w", r.ID, err)
	}
	return issued, nil
}

func (a *Authority) issue(ctx context.Context, r Request) (*Issued, error) {
	token, err := a.Prepare(r, time.Now())
	if err != nil {
		a.recordRefusal(ctx, r, err)
		return nil, err
	}
	recorded, err := a.Record(ctx, token)
	if err != nil {
		return nil, err
	}
	issued, err := a.Sign(recorded)
	a.recordOutcome(ctx, token, issued, err)
	return issued, err
}

// Bundle is what proves the certificates of this trust domain: the root.
func (a *Authority) Bundle() identity.Bundle {
	b := a.bundle
	b.Roots = slices.Clone(b.Roots)
	return b
}

// AuthorityStatus is one authority as an operator sees it.
type AuthorityStatus struct {
	Kind                string // root or issuer
	KeyID               string // first 8 hex digits of the key id
	State               string
	NotBefore, NotAfter time.Time
	Server              string    // of an issuing authority
	RenewAt             time.Time // of an issuing authority
	Made                bool      // since Open, not loaded by it
}

// The states of an authority that are stored.
const (
	StateActive  = "active"  // signs
	StateRetired = "retired" // signs nothing, still vouches for what it signed
)

// Status lists the root and the issuing authority of this server.
func (a *Authority) Status() []AuthorityStatus {
	iss := a.issuer.Load()
	return []AuthorityStatus{
		{
			Kind: "root", KeyID: shortID(a.root.cert.SubjectKeyId), State: StateActive,
			NotBefore: a.root.cert.NotBefore, NotAfter: a.root.cert.NotAfter, Made: a.madeRoot,
		},
		{
			Kind: "issuing", KeyID: shortID(iss.cert.SubjectKeyId), State: StateActive,
			NotBefore: iss.cert.NotBefore, NotAfter: iss.cert.NotAfter,
			Server: a.opt.ServerName, RenewAt: iss.renewAt(), Made: iss.made,
		},
	}
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// shortID is how an authority is named to people.
func shortID(ski []byte) string {
	id := hex.EncodeToString(ski)
	return id[:min(8, len(id))]
}
