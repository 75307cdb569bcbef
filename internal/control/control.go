// Package control is the stream between a server and its nodes, both halves of it.
//
// Its words: a House is the server behind the protocol; a Frame travels in parts, each part
// one DeltaResponse; an acknowledgement of the last part means enforced. Joining a node,
// issuing SVIDs and reporting what runs go beside the stream on the same connection.
//
// Its promise: both sides are proven by SVIDs of the own trust domain alone (only Roots and
// Join are answered without); what a node enforces is always one whole revision; a refusal
// carries a code, a sentence and a way out.
package control

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/snapshot"
	"google.golang.org/grpc/credentials"
)

const (
	typeURL      = "type.googleapis.com/countersign.v1.Resource"
	maxMessage   = 4 << 20       // bytes that a node may send at once
	maxFrame     = 64 << 20      // bytes of one part: a resource is not cut, and a namespace's policies are one
	maxPart      = 1 << 20       // bytes of content in one part of a frame, beyond which the next begins
	maxWants     = 64            // certificate requests in one message
	maxReason    = 1024          // bytes of why a node refuses a revision
	maxAge       = 6 * time.Hour // of a connection: under half the life of the SVID that it was proven by
	exporterName = "EXPORTER-countersign-register"
)

// Joining is what a machine brings to be let in.
type Joining struct {
	Name, Secret, Inbound, Version string
	CSR                            []byte // DER
}

// Joined is what it gets.
type Joined struct {
	Name   string
	Chain  [][]byte // DER, leaf first
	Bundle []byte   // SPIFFE bundle, JSON
}

// House is the server behind the protocol. It is safe for concurrent use; errors that are
// a *Refused reach the node with their words, any other as "internal error".
type House interface {
	// Roots gives the SPIFFE bundle of the trust domain.
	Roots() ([]byte, error)
	// Join proves a machine and names it.
	Join(ctx context.Context, j Joining) (Joined, error)
	// World gives the newest revision and a channel that closes when there is a newer one.
	World() (*snapshot.World, <-chan struct{})
	// Issue grants one certificate request of an attached node.
	Issue(ctx context.Context, node string, w *Want) (chain [][]byte, err error)
	// Report takes one report of an attached node and returns the revision that holds it.
	Report(ctx context.Context, node string, r *ReportRequest, exporter []byte) (int64, error)
	// Watch hears that a node came, enforced a revision, refused one, or went.
	Watch(node string, e Event)
	// Revoked begins to follow the log of revoked tokens until ctx ends; nil: there is no whole
	// log to begin with.
	Revoked(ctx context.Context) *Revoked
	// Heard hears up to which revision a node enforces the log.
	Heard(node string, epoch int64)
}

// Event is a change in what the server knows of a node's stream.
type Event struct {
	Attached bool
	Enforced int64  // 0: none yet
	Refused  string // why it does not enforce a later revision
}

// Refused is an answer of no.
type Refused struct{ Code, Text, Hint string }

func (r *Refused) Error() string { return r.Text }

func (r *Refusal) err() error {
	return &Refused{Code: r.GetCode(), Text: r.GetText(), Hint: r.GetHint()}
}

// Registration is what an owner signs to register an instance: it ties the instance to this
// connection, so that neither a certificate shown to peers nor a recorded report proves
// anything (registry.md 10).
func Registration(instance string, exporter []byte) []byte {
	h := sha256.New()
	h.Write([]byte("countersign/register/v1\n"))
	h.Write([]byte(instance))
	h.Write(exporter)
	return h.Sum(nil)
}

func exporterOf(cs tls.ConnectionState) ([]byte, error) {
	b, err := cs.ExportKeyingMaterial(exporterName, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("exporting keying material of the control connection: %w", err)
	}
	return b, nil
}

// roleOf reads the name of a node or server from its identity: only the own trust domain's
// reserved namespace counts (sec-federated-control).
func roleOf(p identity.Peer, own, prefix string) (string, error) {
	if p.ID.TrustDomain().Name() != own || p.Namespace != identity.ReservedNamespace || !p.Canonical {
		return "", &identity.Error{Reason: "unexpected_peer", Text: fmt.Sprintf("%q is no %s of %s", p.ID, strings.TrimSuffix(prefix, "-"), own)}
	}
	name, ok := strings.CutPrefix(p.ServiceAccount, prefix)
	if !ok || name == "" {
		return "", &identity.Error{Reason: "unexpected_peer", Text: fmt.Sprintf("%q is no %s", p.ID, strings.TrimSuffix(prefix, "-"))}
	}
	return name, nil
}

// CheckServer says whether a peer is a server of the own trust domain.
func CheckServer(own string) func(identity.Peer) error {
	return func(p identity.Peer) error {
		_, err := roleOf(p, own, "server-")
		return err
	}
}

// stateCredentials remembers the TLS state of the newest connection made, for the exporter
// that registrations are signed over.
type stateCredentials struct {
	credentials.TransportCredentials
	made func(tls.ConnectionState)
}
