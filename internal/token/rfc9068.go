package token

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/revocation"
)

// The lifetimes of tokens (tokens.md 7).
const (
	defaultTTL = 300 * time.Second
	maxTTL     = time.Hour
	leastTTL   = 5  // seconds: a shorter one is refused
	iatAhead   = 10 // seconds that verifiers take
	jtiDigits  = 22 // of base 62: 128 bits
)

// issue is one access token on its way: what a grant decided, before the common tail of
// tokens.md 7 adds lifetime, binding, record and signature.
type issue struct {
	grant   string         // of the record: client_credentials, token_exchange
	subject string         // sub
	target  grant.Resolved // its Canonical is aud
	scopes  []string
	until   time.Time // the token may not outlive this (exp of the subject token); zero: nothing
	issued  int64     // iat of the subject token: the token is no older
	typ     string    // issued_token_type of the answer; "" leaves it out

	actors []string       // act, outermost first; nil: nobody acts for another
	mayAct map[string]any // may_act
	claims map[string]any // carried claims, at the top level; they win over the client's static ones

	// Of exchanges; empty members are left out.
	rti, sid, oat, ocid, oiss, osub string
	anc                             []string // nearest first
	own                             string   // of an API key: whose it is
	parent                          string   // jti of the subject token, for the record
	// rootSelf makes the token its own root: rti is its jti (an external subject without jti).
	rootSelf bool
	edge     bool // for a Gateway: a short life, bound to its identity whatever its record says
}

// answer is a token response (RFC 6749, section 5.1; RFC 8693, section 2.2.1).
type answer struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	Scope           string `json:"scope,omitempty"`
}

// claims are those of tokens.md 8.1, in its order.
type claims struct {
	Iss    string         `json:"iss"`
	Sub    string         `json:"sub"`
	Aud    string         `json:"aud"`
	Exp    int64          `json:"exp"`
	Iat    int64          `json:"iat"`
	JTI    string         `json:"jti"`
	Client string         `json:"client_id"`
	Scope  string         `json:"scope,omitempty"`
	Cnf    *confirmation  `json:"cnf,omitempty"`
	Act    *actor         `json:"act,omitempty"`
	MayAct map[string]any `json:"may_act,omitempty"`
	SID    string         `json:"sid,omitempty"`
	RTI    string         `json:"rti,omitempty"`
	Anc    []string       `json:"anc,omitempty"`
	Oat    string         `json:"oat,omitempty"`
	OCID   string         `json:"ocid,omitempty"`
	Oiss   string         `json:"oiss,omitempty"`
	Osub   string         `json:"osub,omitempty"`
	Own    string         `json:"own,omitempty"`

	kid    string   // of the key that will sign
	actors []string // act as a list
}

// confirmation holds exactly one of them.
type confirmation struct {
	X5T    string `json:"x5t#S256,omitempty"`
	SPIFFE string `json:"spiffe,omitempty"`
}

type actor struct {
	Sub string `json:"sub"`
	Act *actor `json:"act,omitempty"`
}

// carried are claims with others beside them, which never take the place of one of 8.1.
type carried struct {
	claims *claims
	others map[string]any
}

// MarshalJSON sets the others behind the claims.
func (c carried) MarshalJSON() ([]byte, error) {
	own, err := json.Marshal(c.claims)
	if err != nil {
		return nil, err
	}
	others, err := json.Marshal(c.others)
	if err != nil || len(c.others) == 0 {
		return own, err
	}
	return append(append(own[:len(own)-1], ','), others[1:]...), nil
}

// mint is the common tail of every grant (tokens.md 7): lifetime, binding, record, signature.
// rec already says who asked; mint completes and writes it. Of a fault it writes nothing: the
// endpoint adds that record.
func (s *Service) mint(ctx context.Context, c *caller, i *issue, rec *audit.Record) (*answer, *fault) {
	signer := s.o.Signer()
	if signer == nil {
		return nil, unstored().because("", "no active key")
	}
	bound, until, f := bind(c, i)
	if f != nil {
		return nil, f
	}
	now := c.now.Unix()
	exp := expiry(c, i, until)
	if least := i.least(); exp-now < least {
		if i.until.IsZero() {
			return nil, refuse(codeRequest, textProof).because("", "lifetime")
		}
		return nil, refuse(codeRequest, textSubject).because("", "lifetime")
	}
	own := &claims{
		Iss: s.o.Issuer, Sub: i.subject, Aud: i.target.Canonical, Exp: exp, Iat: max(now, i.issued), JTI: newJTI(),
		Client: c.client.ClientID, Scope: strings.Join(i.scopes, " "), Cnf: bound, MayAct: i.mayAct,
		SID: i.sid, RTI: i.rti, Anc: i.anc, Oat: i.oat, OCID: i.ocid, Oiss: i.oiss, Osub: i.osub, Own: i.own,
		kid: signer.Key().ID(), actors: i.actors,
	}
	if i.rootSelf {
		own.RTI = own.JTI
	}
	for _, sub := range slices.Backward(i.actors) {
		own.Act = &actor{Sub: sub, Act: own.Act}
	}
	if f := s.clearIat(own, i); f != nil {
		return nil, f
	}
	others, f := othersOf(c.client, i)
	if f != nil {
		return nil, f
	}
	if f := s.place(ctx); f != nil {
		return nil, f
	}
	defer s.leave()

	s.complete(rec, own, i)
	if err := s.record(ctx, rec); err != nil { // nothing is signed that was not written down
		s.o.Log.ErrorContext(ctx, "recording a token", slog.Any("error", err))
		s.unissued(ctx, rec, i)
		return nil, unstored().because("", detailRecord)
	}
	typ := "at+jwt"
	if i.target.Record != nil && i.target.Record.TypJWT {
		typ = "JWT"
	}
	var body any = own
	if len(others) > 0 {
		body = carried{own, others}
	}
	raw, err := signer.Sign(typ, body)
	if err != nil {
		s.o.Log.ErrorContext(ctx, "signing a token", slog.String("kid", own.kid), slog.Any("error", err))
		rec.Seq, rec.ID = s.o.Records.Next(), "" // what was written down stays; this is another event
		return nil, refuse(codeServer, "")
	}
	return &answer{AccessToken: raw, IssuedTokenType: i.typ, TokenType: "Bearer", ExpiresIn: exp - now, Scope: own.Scope}, nil
}

func (s *Service) record(ctx context.Context, rec *audit.Record) error {
	s.recording.Add(1)
	defer s.recording.Add(-1)
	return s.o.Records.Write(ctx, rec)
}

// unissued takes back what complete said of a token, for the record of its refusal. The recorder
// may still hold the subject, so this is another; and of a request that ended the first may yet
// be written, so then it is another event.
func (s *Service) unissued(ctx context.Context, rec *audit.Record, i *issue) {
	rec.IssuedKind, rec.KID = "", ""
	rec.Subject = &audit.Subject{ClientID: rec.ClientID, Auth: rec.Auth, RTI: i.rti}
	if ctx.Err() != nil {
		rec.Seq, rec.ID = s.o.Records.Next(), ""
	}
}

// bind is what the token is bound to (tokens.md 9.1), and when that ends.
func bind(c *caller, i *issue) (*confirmation, time.Time, *fault) {
	if i.edge && c.peer != nil {
		return &confirmation{SPIFFE: c.peer.ID.String()}, time.Time{}, nil
	}
	b, err := c.world.Directory.Binding(c.client, i.target)
	if err != nil {
		return nil, time.Time{}, refused(err)
	}
	switch {
	case b == grant.BindNone:
		return nil, time.Time{}, nil
	case b == grant.BindIdentity && c.peer != nil:
		return &confirmation{SPIFFE: c.peer.ID.String()}, time.Time{}, nil
	case b == grant.BindCertificate && c.leaf != [32]byte{}:
		return &confirmation{X5T: base64.RawURLEncoding.EncodeToString(c.leaf[:])}, c.notAfter, nil
	}
	return nil, time.Time{}, refuse(codeRequest, textProof).because("", detailBinding)
}

// expiry is the smallest of all that bounds a token.
func expiry(c *caller, i *issue, bound time.Time) int64 {
	ttl := c.client.TTL
	if ttl <= 0 {
		ttl = defaultTTL
	}
	if r := i.target.Record; r != nil && r.TTLCap > 0 {
		ttl = min(ttl, r.TTLCap)
	}
	if i.edge {
		ttl = min(ttl, edgeTTL)
	}
	exp := c.now.Unix() + int64(min(ttl, maxTTL)/time.Second)
	for _, end := range [...]time.Time{i.until, bound} {
		if !end.IsZero() {
			exp = min(exp, end.Unix())
		}
	}
	return exp
}

// least is the shortest life in seconds that is worth a token.
func (i *issue) least() int64 {
	if i.edge {
		return edgeLeast
	}
	return leastTTL
}

// othersOf are the claims beside those of 8.1: the static ones of the client, and what the
// subject brought along, which is about the subject and so counts more. Package resource
// refuses the reserved names; should one come through, no token is better than two meanings.
func othersOf(c *grant.Client, i *issue) (map[string]any, *fault) {
	if len(c.Claims) == 0 && len(i.claims) == 0 {
		return nil, nil
	}
	out := make(map[string]any, len(c.Claims)+len(i.claims))
	for _, from := range [...]map[string]any{c.Claims, i.claims} {
		for name, value := range from {
			if slices.Contains(reserved, name) {
				return nil, refuse(codeServer, "").because("", "reserved claim")
			}
			out[name] = value
		}
	}
	return out, nil
}

// reserved are the names that mint alone writes.
var reserved = []string{
	"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "cnf", "act", "may_act",
	"sid", "rti", "anc", "oat", "ocid", "oiss", "osub", "own", "txn", "tctx", "rctx", "req_wl",
}

// clearIat moves iat behind an entry of the log that ends with this very second, so that who
// was revoked may begin anew at once (tokens.md 13). What descends from another token does not
// begin anew: that one may have been revoked since it was judged.
func (s *Service) clearIat(t *claims, i *issue) *fault {
	if !s.o.Revoked.Ready() { // minting needs no store: verifiers judge by their own copies
		return nil
	}
	anew := i.parent == "" && i.oiss == "" && i.oat != originKey
	for last := t.Iat + iatAhead; ; {
		e, revoked := s.o.Revoked.Revoked((*subject)(t))
		switch {
		case !revoked:
			return nil
		case e.Kind == revocation.ByKID:
			return refuse(codeServer, "").because("", "revoked")
		case !anew || e.Before < t.Iat || e.Before >= last:
			return refuse(codeRequest, textSubject).because("", "revoked")
		}
		t.Iat = e.Before + 1
	}
}

// subject is a token to be, as the revocation log looks at it.
type subject claims

var _ revocation.Subject = (*subject)(nil)

func (s *subject) ID() string          { return s.JTI }
func (s *subject) KeyID() string       { return s.kid }
func (s *subject) Root() string        { return s.RTI }
func (s *subject) SessionID() string   { return s.SID }
func (s *subject) Subject() string     { return s.Sub }
func (s *subject) ClientID() string    { return s.Client }
func (s *subject) Origin() string      { return s.OCID }
func (s *subject) Ancestors() []string { return s.Anc }
func (s *subject) Actors() []string    { return s.actors }
func (s *subject) Issued() int64       { return s.Iat }

// complete says in the record which token is about to be signed.
func (s *Service) complete(rec *audit.Record, t *claims, i *issue) {
	rec.Decision, rec.Status, rec.IssuedKind = audit.Allow, 200, "access"
	rec.Grant, rec.Audience, rec.ParentJTI, rec.KID = i.grant, t.Aud, i.parent, t.kid
	rec.Iss, rec.JTI, rec.TokenType, rec.RTI, rec.SID, rec.Act = t.Iss, t.JTI, "at+jwt", t.RTI, t.SID, i.actors
	rec.TokenIat, rec.TokenExp = time.Unix(t.Iat, 0), time.Unix(t.Exp, 0)
	rec.Sub = s.pseudonym(i)
	switch {
	case t.Cnf == nil:
		rec.Binding = "none"
	case t.Cnf.SPIFFE != "":
		rec.Binding = "spiffe"
	default:
		rec.Binding = "x5t"
	}
	rec.Scopes = t.Scope
	if len(i.scopes) > 1 {
		rec.Scopes = strings.Join(slices.Sorted(slices.Values(i.scopes)), " ")
	}
}

// pseudonym is the subject as records show it: whom another issuer named is a person.
func (s *Service) pseudonym(i *issue) string {
	var key []byte
	if s.o.Pseudonyms != nil {
		key = s.o.Pseudonyms()
	}
	if i.oiss != "" { // as proxies tell the same person in front of the exchange
		return audit.Pseudonym(key, i.oiss, i.osub, true)
	}
	return audit.Pseudonym(key, s.o.Issuer, i.subject, false)
}

func newJTI() string {
	var random [16]byte
	rand.Read(random[:])
	return base62(random[:], jtiDigits)
}

// base62 is a number, highest byte first, in so many digits; those before are lost.
func base62(number []byte, digits int) string {
	out := make([]byte, digits)
	apikey.Base62(out, number)
	return string(out)
}
