// Package token is the OAuth 2.0 token service: it proves clients, decides what they may have,
// writes that down, and signs.
//
// Its words: a caller is a client that authenticated itself on this request; a request is one
// form that came in; a fault is an answer in OAuth's own error form; an issue is one access
// token on its way through decision, record and signature.
//
// Its promise: nothing is signed that was not written down first, nothing is stored per access
// token, every failure of authentication is one answer, and no answer holds what was sent.
// Files are named for their specification.
package token

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Options are what a Service is made of.
type Options struct {
	Issuer      string // https URL, no trailing slash
	MTLS        string // base URL of the mTLS port, for mtls_endpoint_aliases
	TrustDomain spiffeid.TrustDomain
	World       func() *World // what is in force now; never nil
	Signer      func() *jose.Signer
	Keys        func() *jose.Set // own public keys: next, active, previous
	Revoked     *revocation.Log  // this server's own copy of the log
	Store       store.Store
	Records     Recorder // the file of issued tokens
	// Pseudonyms is the key under which people stand in records (audit.Pseudonym); nil: as p1: alone.
	Pseudonyms func() []byte
	// Missed hears that a token names a key which the set it is verified by does not hold: a set of
	// that trusted issuer, or the one a client's record points to, where issuer is empty. It never
	// blocks; nil: nobody retrieves.
	Missed func(issuer, uri string)
	// PeerOf names who holds the other end of a loopback connection, such as "uid 1000", so that
	// the users of one machine do not share the limits of its address; "" or nil: the address counts.
	PeerOf func(*http.Request) string
	Now    func() time.Time
	Log    *slog.Logger
}

// Recorder writes records; *audit.Recorder is one.
type Recorder interface {
	Next() uint64
	ID(seq uint64) string
	Add(*audit.Record)                          // refusals: never waits
	Write(context.Context, *audit.Record) error // returns once it is in the file
}

// World is what the service decides by, at one revision. It never changes.
type World struct {
	Directory *grant.Directory
	Trust     *identity.Trust
	// Foreign are the keys of trusted issuers by iss; nil: none to be had, so all are refused.
	Foreign map[string]*jose.Set
	// ClientKeys are the keys of private_key_jwt clients by client_id.
	ClientKeys map[string]*jose.Set
	// Services are the services ("ns/name") that a workload may serve, by its SPIFFE ID: those it is
	// an owner of, the first or not, and those its entry names. It receives the tokens for them
	// (tokens.md 6), so it may present and introspect these. One left out knows its own ID alone.
	Services map[string][]string
	// Gateway is what the routes of the Gateway with that SPIFFE ID lead to; nil: it is none. A nil func knows none.
	Gateway func(id string) Gateway
	// APIKeys are the keys that Gateways take; nil: none.
	APIKeys *apikey.Set
	// Allow asks the policies of namespace countersign about a request of a proven peer.
	Allow func(peer identity.Peer, r *http.Request) policy.Verdict
}

// Service answers the endpoints. New makes it; it has no goroutine but those of requests.
type Service struct {
	o         Options
	path      string // of the issuer, before every /oauth2 path
	routes    map[string]*endpoint
	limits    limits
	signing   chan struct{} // a place for every token between its record and its signature
	recording atomic.Int32  // of those with a place, how many wait for the file of records
	unknown   stranger
	leases    leases
	documents atomic.Pointer[documents]
	keys      atomic.Pointer[keyDocument]
}

// New prepares the service.
func New(o Options) (*Service, error) {
	path, err := checkIssuer(o.Issuer)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer %q: %w", o.Issuer, err)
	}
	if o.World == nil || o.Signer == nil || o.Keys == nil || o.Revoked == nil || o.Store == nil || o.Records == nil || o.Now == nil {
		return nil, errors.New("the token service lacks one of its parts")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	unknown, err := newStranger()
	if err != nil {
		return nil, fmt.Errorf("preparing the record of unknown clients: %w", err)
	}
	s := &Service{
		o: o, path: path, unknown: unknown, limits: newLimits(maphash.MakeSeed()),
		signing: make(chan struct{}, signaturesPerCore*runtime.GOMAXPROCS(0)),
		leases:  leases{ids: map[int64]int64{}},
	}
	s.routes = s.endpoints()
	return s, nil
}

// checkIssuer refuses what is no issuer (tokens.md 4; RFC 8414, section 2) and returns its path.
func checkIssuer(issuer string) (path string, err error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil:
		return "", errors.New("it is no URL")
	case u.Scheme != "https" || u.Host == "" || u.User != nil:
		return "", errors.New("it must be https://host, with a port or a path at most")
	case strings.ContainsAny(issuer, "?#") || strings.HasSuffix(issuer, "/"):
		return "", errors.New("it must end without a slash, a query and a fragment")
	}
	return u.Path, nil
}

// Handler serves all endpoints, on every port: what a connection proved stands in r.TLS.
func (s *Service) Handler() http.Handler { return http.HandlerFunc(s.serve) }
