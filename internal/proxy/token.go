package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/jose"
)

// Attach is a token that a run's calls to a service carry without its program's doing
// (tokens.md 15.4).
type Attach struct {
	Audience string
	Scopes   []string
}

// requestIdentity is step 2 inbound: the token of the request, if there is one. What it leaves
// of the request is what policy sees.
func (x *exchange) requestIdentity() *refused {
	if x.rules = x.run.rules(x.v); x.rules == nil {
		return nil
	}
	r := x.r
	q := bearer.Request{
		Now: x.now, Method: r.Method, Path: x.path, Host: x.host, Scheme: x.ask.Scheme,
		Query: x.ask.Query, HasQuery: x.ask.HasQuery,
		Header: r.Header, Presenter: x.link.presenter(), Cache: x.p.tokens, Revoked: x.p.revoked,
	}
	if x.hit.Action != nil {
		q.Reached = x.reached(x.hit.Rule)
	}
	x.epoch = x.p.revoked.Epoch() // before the log is asked: see register
	out := x.rules.Authenticate(&q)
	if x.key != nil && (out.Token != nil || out.Refused != nil) {
		return x.withoutToken()
	}
	if out.Missed != nil && x.p.missed != nil {
		x.p.missed(*out.Missed)
	}
	if out.Own {
		x.rec.Stale = x.p.revoked.Stale(x.now)
	}
	if no := out.Refused; no != nil {
		if no.Token != nil {
			x.rec.Subject = x.p.subject(no.Token, out.Own)
		}
		return refusedToken(no)
	}
	x.note(out.Detail)
	if out.Token != nil {
		x.ask.Token = out.Token
		x.rec.Subject = x.p.subject(out.Token, out.Own)
		if out.Own {
			x.token = out.Token
		}
		x.show(&out)
	}
	x.rest = out.Rest
	if out.QueryCut {
		x.ask.Query, x.ask.HasQuery, x.ask.QueryCut = out.Query, out.HasQuery, true
		x.setQuery(out.Query, out.HasQuery)
	}
	return nil
}

// refusedToken is the answer of the token step.
func refusedToken(no *bearer.Refusal) *refused {
	return &refused{
		status: no.Status, layer: audit.LayerToken, reason: no.Reason, detail: no.Detail, text: no.Text, challenge: no.Challenge, keep: true,
	}
}

// note adds to what the record tells the operator.
func (x *exchange) note(detail string) {
	switch {
	case detail == "":
	case x.rec.Detail == "":
		x.rec.Detail = detail
	default:
		x.rec.Detail += "; " + detail
	}
}

func (x *exchange) setQuery(query string, has bool) {
	x.target = x.path
	if has {
		x.target += "?" + query
	}
}

// leave takes out what stands between policy and program.
func (x *exchange) leave() {
	rest := x.rest
	if rest == nil {
		return
	}
	h := x.r.Header
	for _, name := range rest.Drop {
		delete(h, name)
	}
	if rest.Cookie {
		if len(rest.Cookies) == 0 {
			delete(h, "Cookie")
		} else {
			h["Cookie"] = rest.Cookies
		}
	}
	if rest.Query != x.ask.Query || rest.HasQuery != x.ask.HasQuery {
		x.setQuery(rest.Query, rest.HasQuery)
	}
}

// presenter is who shows a token, as the handshake proved it.
func (l *link) presenter() jose.Presenter {
	if l.state == nil {
		return jose.Presenter{}
	}
	return jose.Presenter{ID: l.peerID, Fingerprint: l.peer.Fingerprint}
}

// rules are what counts of tokens at the run under v, worked out once per view.
func (r *run) rules(v *view) *bearer.Rules {
	if v.Tokens == nil {
		return nil
	}
	if at := r.tokens.Load(); at != nil && at.v == v {
		return at.rules
	}
	w := bearer.Workload{ID: r.text, Service: r.label, Rules: v.Compiled.Tokens(r.dst), Gateway: len(r.doors) > 0}
	for key, svc := range v.Services {
		if r.serves(svc, key) {
			w.Services = append(w.Services, key.String())
		}
	}
	if _, ok := v.Services[r.key]; !ok {
		w.Services = append(w.Services, r.label)
	}
	slices.Sort(w.Services)
	at := &tokenRules{v, v.Tokens.For(w)}
	r.tokens.Store(at)
	return at.rules
}

type tokenRules struct {
	v     *view
	rules *bearer.Rules
}

// subject is a token as records tell it.
func (p *Proxy) subject(t *jose.Token, own bool) *audit.Subject {
	s := &audit.Subject{
		Iss: t.Issuer(), JTI: t.ID(), ClientID: t.ClientID(), Scopes: strings.Join(slices.Sorted(slices.Values(t.Scopes())), " "),
		TokenType: "external", Auth: "bearer", Binding: "none", TokenIat: seconds(t.Issued()), TokenExp: seconds(t.Expires()),
		RTI: t.Root(), SID: t.SessionID(),
	}
	iss, sub := t.Issuer(), t.Subject()
	person := true
	if own {
		s.TokenType = t.Typ()
		if kind, _ := t.Binding(); kind != "" {
			s.Binding = strings.TrimSuffix(kind, "#S256")
		}
		person = isPerson(sub, t.ClientID())
		if upIss, upSub := t.Upstream(); upSub != "" {
			iss, sub, person = upIss, upSub, true // the same person in front of the exchange and behind it
		}
		s.Act = t.Actors()
	}
	s.Sub = audit.Pseudonym(p.pseudonymKey(), iss, sub, person)
	return s
}

// isPerson: of our own tokens machines have their client id, an API key or a certificate as sub.
func isPerson(sub, clientID string) bool {
	return sub != clientID && !strings.HasPrefix(sub, "spiffe://") && !strings.HasPrefix(sub, "key:") && !strings.HasPrefix(sub, "cert:")
}

func seconds(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(t, 0)
}

// judgeToken asks once more whether the token of an exchange is revoked: nil, or its end.
func (x *exchange) judgeToken() *cut {
	if x.token == nil {
		return nil
	}
	if _, revoked := x.p.revoked.Revoked(x.token); !revoked {
		return nil
	}
	return &cut{why: cutToken, rev: x.v.PolicyRevision}
}

// Revoked says that the log of revoked tokens has grown. When it returns, what is under way with
// one of them is being cut.
func (p *Proxy) Revoked() {
	for _, r := range p.all() {
		r.live.sweep((*exchange).judgeToken)
	}
}

// clearTrailer takes out of a trailer what only token rules may say: a program may read it as
// it reads the header.
func (x *exchange) clearTrailer(t http.Header) {
	if x.rules != nil && len(t) > 0 {
		x.rules.ClearOutputs(t)
	}
}

// attachToken is step 5b outbound: the access token that the destination wants of this
// workload. Whoever brings an Authorization of his own keeps it.
func (x *exchange) attachToken() *refused {
	if x.place == nil || x.r.Method == http.MethodConnect || len(x.v.Attach) == 0 || len(x.r.Header["Authorization"]) > 0 {
		return nil
	}
	a, ok := x.attach()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), attachTime)
	defer cancel()
	token, err := x.p.attach(ctx, &x.run.Run, a)
	if err != nil {
		x.p.log.Debug("no token to attach", "workload", x.run.label, "audience", a.Audience, "error", err)
		no := *refuseNoToken
		if why, ok := errors.AsType[*NoToken](err); ok {
			no.detail = why.detail()
		}
		no.note = no.detail
		return &no
	}
	x.r.Header["Authorization"] = []string{"Bearer " + token}
	x.attached = token
	return nil
}

func (x *exchange) attach() (Attach, bool) {
	a, ok := x.v.Attach[AttachKey{x.run.text, x.place.key}]
	return a, ok
}

// tellRejected passes on that the destination did not take the token that was attached.
func (x *exchange) tellRejected(answered *answer) {
	if x.attached == "" || x.p.rejected == nil {
		return
	}
	grpc := answered.header["Grpc-Status"]
	if answered.status == http.StatusUnauthorized || len(grpc) == 1 && grpc[0] == "16" {
		a, _ := x.attach()
		x.p.rejected(&x.run.Run, a, x.attached)
	}
}

// NoToken is why there is no token to attach.
type NoToken struct {
	Detail  string // for the record: fixed words, nothing of a token
	Err     error  // may be nil
	Refused bool   // the token service was asked and will not give one for this credential
}

func (e *NoToken) detail() string {
	return strings.ToValidUTF8(e.Detail[:min(len(e.Detail), maxDetail)], "")
}

func (e *NoToken) Error() string {
	if e.Err == nil {
		return e.Detail
	}
	return e.Detail + ": " + e.Err.Error()
}

func (e *NoToken) Unwrap() error { return e.Err }

// maxDetail bounds what a record says of it, in bytes.
const maxDetail = 200

// attachTime is the longest wait for a token that is not at hand.
const attachTime = 5 * time.Second

var refuseNoToken = &refused{status: 503, layer: audit.LayerToken, reason: "missing", text: "no access token", decision: audit.Failed, keep: true, retry: "5", event: "no_token"}
