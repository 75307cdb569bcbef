package server

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
)

// whyIssue explains a request to the token service by its id, which every answer carries as
// X-Request-Id. Callers are told one text for many reasons; the record has the true one.
func (s *Server) whyIssue(id string) (admin.Why, error) {
	unknown := &admin.Problem{Code: "no_decision", Message: fmt.Sprintf("no decision %q is known here", id), Hints: []string{"countersign tap --refused"}}
	if s.tokens == nil {
		return admin.Why{}, unknown
	}
	rec, err := s.tokens.recorder.Find(strings.ToLower(id))
	if err != nil {
		return admin.Why{}, unknown
	}
	w := admin.Why{
		ID: rec.ID, Time: rec.Time, Decision: rec.Decision, Layer: rec.Layer, Reason: rec.Reason, Nearest: []admin.Miss{},
		Call:     admin.Call{From: rec.PeerID, To: "tokens.countersign", Method: rec.Method, Path: rec.Path, Host: rec.Host},
		Revision: s.Revision(),
	}
	if rec.PeerID != "" {
		w.Peer = &admin.PeerFacts{SPIFFEID: rec.PeerID, Serial: hex.EncodeToString(rec.PeerSerial)}
	} else if rec.ClaimedID != "" {
		w.Peer = &admin.PeerFacts{ClaimedID: rec.ClaimedID}
	}
	if rec.Policy != "" {
		rule := rec.Rule - 1
		w.Policy, w.Rule = rec.Policy, &rule
		w.Lines = append(w.Lines, fmt.Sprintf("%s#%d decided", rec.Policy, rule))
	}
	if rec.Subject != nil && rec.ClientID != "" {
		w.Lines = append(w.Lines, "client: "+rec.ClientID)
	}
	if rec.Audience != "" {
		w.Lines = append(w.Lines, "audience: "+rec.Audience)
	}
	if rec.Decision != audit.Allow && rec.Layer != audit.LayerAuthz {
		w.Lines = append(w.Lines, issueWords(rec))
	}
	return w, nil
}

// issueReasons say in words why a token was not issued (tokens.md 18.1).
var issueReasons = map[string]string{
	"may_act": "the subject token names somebody else as its actor (may_act)", "actor_cycle": "the actor is in the chain already",
	"chain_depth": "the chain of tokens is too long", "delegation": "no DelegationPolicy of the audience's namespace allows it",
	"presenter": "the subject token is neither for this client nor held by it", "rate": "too many requests", "concurrency": "too many signatures at once",
}

// issueDetails are the reasons of a credential that failed, beside those of tokens.
var issueDetails = map[string]string{
	"client_unknown": "no such client, or it is not who the certificate names", "client_disabled": "the client is disabled", "method": "not the method of this client",
	"secret": "a wrong secret, or one that has ended", "assertion_replay": "the assertion was used before", "binding": "the connection proves nothing to bind the token to",
}

func issueWords(rec *audit.Record) string {
	what := cmp.Or(issueReasons[rec.Reason], strings.ReplaceAll(rec.Reason, "_", " "))
	if rec.Detail == "" {
		return what
	}
	return what + ": " + cmp.Or(issueDetails[rec.Detail], strings.ReplaceAll(rec.Detail, "_", " "))
}
