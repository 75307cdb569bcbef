// Package workloadapi is the SPIFFE Workload API on a Unix socket: programs ask for their
// identity and are told by what the kernel says of them, never by what they say.
//
// Its words: the caller is the process that connected, held by package attest; the state is
// all that one caller has at one moment; a refusal says why it has nothing. Its promise: every
// message is the whole state, made for a process that was looked at just before (security.md
// S1); what strangers can fill is bounded apart from what workloads need (S20). The node is
// behind the interface Source and keeps the truth.
package workloadapi

import (
	"context"

	"countersign.dev/internal/attest"
)

// SVID is one X.509-SVID as it is delivered.
type SVID struct {
	ID    string   // SPIFFE ID
	Chain [][]byte // DER: leaf, then intermediates
	Key   []byte   // PKCS#8
	Hint  string
}

// State is what one process has now: identities, or a refusal, or nothing yet.
type State struct {
	SVIDs       []SVID // default first (identity.md 12.4)
	TrustDomain string // its name, without scheme
	Bundle      [][]byte
	Refusal     *Refusal // set when there is no identity
	Starting    bool     // the node has no snapshot yet
}

// Refusal says why a process has no identity (identity.md 13).
type Refusal struct {
	Reason    string   // no_entry, node_not_admitted …
	Text      string   // the first line, about the caller alone
	Selectors []string // all that were found; nil: those of the facts
	Detail    []string // further lines for the log: what was nearest, what would help
}

// Source is the node. It is safe for concurrent use.
type Source interface {
	// State is what the process has now. It makes SVIDs on first demand, which takes at most
	// five seconds; the context ends then. An error means that no SVID can be made now.
	State(ctx context.Context, f attest.Facts, p *attest.Process) (State, error)
	// Changed is closed, and replaced by another channel, whenever an answer of State may
	// have changed.
	Changed() <-chan struct{}
}
