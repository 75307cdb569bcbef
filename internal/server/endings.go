package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
	"countersign.dev/internal/token"
)

// endings are what a change of objects ends with itself, in its own transaction: the tokens of
// clients and workloads (tokens.md 13), and secrets that nobody may inherit.
type endings struct {
	tokens  map[string]bool // client_id, or SPIFFE ID of an actor
	secrets map[string]bool // client_id
	keys    []revocation.Entry
	beside  []store.Op // what is kept beside API keys
}

// ops is how many operations they take.
func (e endings) ops() int { return len(e.tokens) + len(e.secrets) + len(e.keys) + len(e.beside) }

func (s *Server) endings(ctx context.Context, known map[string]catalog.Record, changes []catalog.Change) (endings, error) {
	e := endings{tokens: map[string]bool{}, secrets: map[string]bool{}}
	for _, ch := range changes {
		was, had := known[catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)]
		var err error
		switch ch.Object.Kind {
		case "OAuthClient":
			err = e.ofClient(was, had, ch)
		case "Workload":
			err = s.ofWorkload(e, was, had, ch)
		case "APIKey":
			err = s.ofKey(&e, was, had, ch, actorOf(ctx))
		}
		if err != nil {
			return endings{}, err
		}
	}
	if s.tokens == nil { // nobody issues any, and nobody holds them against the log
		clear(e.tokens)
		e.keys = nil
	}
	return e, nil
}

// ofClient ends what the client was under the name, identity and method it gives up, and what
// may have been left under the name it takes.
func (e endings) ofClient(was catalog.Record, had bool, ch catalog.Change) error {
	var before, after grant.Client // zero: none
	var err error
	if had {
		if before, err = resource.Client(was.Object); err != nil {
			return err
		}
	}
	if !ch.Remove {
		if after, err = resource.Client(ch.Object); err != nil {
			return err
		}
	}
	other := before.ClientID != after.ClientID || before.SPIFFEID != after.SPIFFEID || before.Auth != after.Auth
	if had && (other || after.Disabled && !before.Disabled) {
		e.ofName(before)
	}
	if !had && after.Disabled { // the workload was a client without a record until now
		e.ofName(after)
	}
	if !other {
		return nil
	}
	for _, c := range []grant.Client{before, after} {
		if c.Auth == grant.AuthSecret {
			e.secrets[c.ClientID] = true
		}
	}
	return nil
}

func (e endings) ofName(c grant.Client) {
	e.tokens[c.ClientID] = true
	if c.SPIFFEID != "" && !strings.HasSuffix(c.SPIFFEID, "*") {
		e.tokens[c.SPIFFEID] = true
	}
}

// ofWorkload ends the tokens of an identity that a Workload gives up.
func (s *Server) ofWorkload(e endings, was catalog.Record, had bool, ch catalog.Change) error {
	if !had {
		return nil
	}
	before, err := resource.Entry(was.Object, 0, 0)
	if err != nil {
		return err
	}
	id := workloadID(s.td, before)
	if !ch.Remove {
		after, err := resource.Entry(ch.Object, 0, 0)
		if err != nil {
			return err
		}
		if workloadID(s.td, after) == id {
			return nil
		}
	}
	if id != "" {
		e.tokens[id] = true
	}
	return nil
}

// ofKey ends what was issued for an API key that goes, or for one of its secrets, and notes beside the key what
// becomes of them.
func (s *Server) ofKey(e *endings, was catalog.Record, had bool, ch catalog.Change, by string) error {
	if !had && ch.Remove || had && !ch.Remove && string(was.JSON) == string(ch.Object.JSON) {
		return nil
	}
	var before, after *apikey.Record
	if had {
		key, err := s.apiKeys.of(was)
		if err != nil {
			return err
		}
		before = &key
	}
	if !ch.Remove {
		key, err := apikey.Read(ch.Object, 0)
		if err != nil {
			return err
		}
		after = &key
	}
	ended := apikey.Difference(before, after)
	for _, id := range ended.RTI {
		e.keys = append(e.keys, revocation.Entry{Kind: revocation.ByRTI, Val: id})
	}
	for _, sub := range ended.Sub {
		e.keys = append(e.keys, revocation.Entry{Kind: revocation.BySub, Val: sub})
	}
	op, err := s.keyNotes.noteOp(before, after, by, time.Now())
	e.beside = append(e.beside, op)
	return err
}

// end records the revocations, and gives the operations that end it all.
func (s *Server) end(ctx context.Context, e endings) ([]store.Op, error) {
	ops := e.beside
	for _, k := range e.keys {
		if err := s.recordRevocation(ctx, k); err != nil {
			return nil, err
		}
	}
	for _, k := range e.keys {
		op, err := s.tokens.service.RevokeOp(k)
		if err != nil {
			return nil, fmt.Errorf("revoking what API key %q is good for: %w", k.Val, err)
		}
		ops = append(ops, op)
	}
	tokens := slices.Sorted(maps.Keys(e.tokens))
	for _, id := range tokens {
		if err := s.recordRevocation(ctx, revocation.Entry{Kind: revocation.ByClient, Val: id}); err != nil {
			return nil, err
		}
	}
	for _, id := range tokens { // after the records, which take their time: an entry ends with the second it is made in
		op, err := s.tokens.service.RevokeOp(revocation.Entry{Kind: revocation.ByClient, Val: id})
		if err != nil {
			return nil, fmt.Errorf("revoking the tokens of %q: %w", id, err)
		}
		ops = append(ops, op)
	}
	for _, id := range slices.Sorted(maps.Keys(e.secrets)) {
		ops = append(ops, token.DropOp(id))
	}
	return ops, nil
}
