package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
	"countersign.dev/internal/token"
)

// maxVerified bounds the tokens of one question.
const maxVerified = 1000

func (s *Server) tokenRoutes(mux *http.ServeMux) {
	log := s.o.Log
	admin.Handle(mux, log, "POST /v1/token/service", told(s.tokenService))
	admin.Handle(mux, log, "POST /v1/token/verify", told(s.verifyTokens))
	admin.Handle(mux, log, "POST /v1/token/revoke", told(s.revokeToken))
	admin.Handle(mux, log, "POST /v1/token/rotate", told(s.rotateTokens))
	admin.Handle(mux, log, "POST /v1/client/create", told(s.createClient))
	admin.Handle(mux, log, "POST /v1/client/rotate", told(s.rotateClient))
	admin.Handle(mux, log, "POST /v1/client/list", told(s.listClients))
}

func (s *Server) noTokens() error {
	return &admin.Problem{Code: "no_tokens", Message: "this server has no token service"}
}

func (s *Server) tokenService(context.Context, struct{}) (admin.TokenService, error) {
	if s.tokens == nil {
		return admin.TokenService{}, s.noTokens()
	}
	return admin.TokenService{Issuer: s.tokens.issuer, MTLS: s.tokens.mtlsURL, Keys: s.tokens.listKeys()}, nil
}

func (t *tokens) listKeys() []admin.TokenKey {
	out := []admin.TokenKey{}
	for _, k := range t.ring.Keys() {
		out = append(out, shownKey(k))
	}
	return out
}

func shownKey(k keyring.Key) admin.TokenKey {
	return admin.TokenKey{KeyID: k.ID, State: string(k.State), Created: k.Created, Activated: k.Activated, Retired: k.Retired}
}

// verifyTokens judges tokens as a proxy of the audience would, revocation included.
func (s *Server) verifyTokens(_ context.Context, r admin.TokenVerify) (admin.TokenVerdicts, error) {
	if s.tokens == nil {
		return admin.TokenVerdicts{}, s.noTokens()
	}
	if len(r.Tokens) > maxVerified {
		return admin.TokenVerdicts{}, &admin.Problem{Code: "too_large", Message: fmt.Sprintf("%d tokens at once, at most %d", len(r.Tokens), maxVerified)}
	}
	v := s.world.load()
	audience := ""
	if r.Audience != "" {
		got, ok := v.directory.Find(r.Audience, cmp.Or(r.Namespace, "default"))
		if !ok {
			return admin.TokenVerdicts{}, &admin.Problem{Code: "not_found", Message: fmt.Sprintf("no audience %q", r.Audience), Hints: []string{"countersign get oauthresources -A"}}
		}
		audience = got
	}
	out := admin.TokenVerdicts{Verdicts: []admin.TokenVerdict{}}
	for i, raw := range r.Tokens {
		verdict := s.tokens.verify(v, raw, audience)
		verdict.Line = i + 1
		out.Verdicts = append(out.Verdicts, verdict)
	}
	return out, nil
}

func (t *tokens) verify(v *view, raw, audience string) admin.TokenVerdict {
	token, err := t.judge(v, raw, audience)
	if err != nil {
		var why *jose.Error
		if !errors.As(err, &why) {
			why = &jose.Error{Reason: jose.Format}
		}
		return admin.TokenVerdict{Reason: string(why.Reason), Text: why.Text}
	}
	_, bound := token.Binding()
	return admin.TokenVerdict{
		OK: true, Subject: token.Subject(), Issuer: token.Issuer(), Typ: token.Typ(), Alg: string(token.Alg()),
		Expires: time.Unix(token.Expires(), 0).UTC(), Binding: bound, Actors: token.Actors(), Scopes: token.Scopes(),
	}
}

// judge verifies a token of our own issuer or of a trusted one.
func (t *tokens) judge(v *view, raw, audience string) (*jose.Token, error) {
	now := time.Now()
	iss, ok := jose.Peek(raw)
	if !ok {
		iss = t.issuer // the check says what is wrong with it
	}
	var audiences []string
	if audience != "" {
		audiences = []string{audience}
	}
	if i := v.directory.Issuer(iss); i != nil {
		if record := v.directory.Audience(audience); record != nil { // a customer's token names what they know it by
			audiences = append(audiences, record.Resources...)
		}
		c := jose.Check{
			Profile: jose.External, Issuer: iss, Keys: v.tokens.Foreign[iss], Audiences: audiences, ExpSkew: i.ClockSkew, Skew: max(i.ClockSkew, 10*time.Second),
			MaxLife: cmp.Or(i.MaxLifetime, 24*time.Hour), SingleAudience: i.SingleAudience, Algs: algs(i.Algs), Typ: i.Typ, IgnoreHeaders: i.IgnoreHeaders,
		}
		return c.Verify(now, raw)
	}
	c := jose.Check{Profile: jose.Own, Issuer: t.issuer, Keys: v.keys, Audiences: audiences, MaxLife: time.Hour, TrustDomain: t.s.td.Name()}
	token, err := c.Verify(now, raw)
	var why *jose.Error
	if errors.As(err, &why) && why.Reason == jose.Typ { // of an audience whose verifiers know no at+jwt
		c.Profile = jose.OwnJWT
		if got, again := c.Verify(now, raw); again == nil && t.typJWT(v, got) {
			token, err = got, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if e, revoked := t.ledger.Log().Revoked(token); revoked {
		return token, &jose.Error{Reason: jose.Revoked, Text: "by its " + e.Kind + " at " + time.Unix(e.At, 0).UTC().Format(time.RFC3339)}
	}
	return token, nil
}

func (t *tokens) typJWT(v *view, token *jose.Token) bool {
	aud := token.Audience()
	if len(aud) != 1 {
		return false
	}
	record := v.directory.Audience(aud[0])
	return record != nil && record.TypJWT
}

// revokeToken appends to the log, and waits until every node in touch has heard of it.
func (s *Server) revokeToken(ctx context.Context, r admin.TokenRevoke) (admin.TokenRevoked, error) {
	if s.tokens == nil {
		return admin.TokenRevoked{}, s.noTokens()
	}
	e := revocation.Entry{Kind: r.Kind, Val: r.Val}
	if !r.Before.IsZero() {
		e.Before = r.Before.Unix()
	}
	if r.Token != "" {
		token, err := s.tokens.judge(s.world.load(), r.Token, "")
		var why *jose.Error
		if errors.As(err, &why) && why.Reason != jose.Revoked { // revoked once more does no harm (RFC 7009, section 2.2)
			return admin.TokenRevoked{}, &admin.Problem{
				Code: "token_invalid", Message: fmt.Sprintf("revoking a token: %s: it is of no use to anybody, or of another issuer", why.Reason),
				Hints: []string{"countersign jwt inspect"},
			}
		}
		if token.Issuer() != s.tokens.issuer {
			return admin.TokenRevoked{}, &admin.Problem{Code: "token_invalid", Message: "revoking a token: it is of another issuer", Hints: []string{"revoke what was exchanged from it: countersign token revoke --rti"}}
		}
		e.Kind, e.Val = revocation.ByJTI, token.ID()
	}
	seq, err := s.revoke(ctx, e)
	if errors.Is(err, token.ErrEntry) {
		return admin.TokenRevoked{}, &admin.Problem{Code: "usage", Exit: 2, Message: "revoking: " + err.Error()}
	}
	if err != nil {
		return admin.TokenRevoked{}, err
	}
	return admin.TokenRevoked{Kind: e.Kind, Val: e.Val, Seq: seq, Enforced: s.heard(ctx, seq, time.Duration(r.WaitMS)*time.Millisecond)}, nil
}

// revoke records and appends one entry.
func (s *Server) revoke(ctx context.Context, e revocation.Entry) (int64, error) {
	if err := s.recordRevocation(ctx, e); err != nil {
		return 0, err
	}
	return s.tokens.service.Revoke(ctx, e)
}

func (s *Server) recordRevocation(ctx context.Context, e revocation.Entry) error {
	actor := "server"
	if p := admin.ProcessOf(ctx); p != nil {
		actor = fmt.Sprintf("unix:uid:%d", p.UID())
	}
	rec := &audit.Record{
		Kind: audit.KindAdmin, Actor: actor, Action: "revoke", Object: "token/" + e.Kind, Summary: e.Kind, Decision: audit.Allow, Layer: audit.LayerAdmin, Result: audit.ResultOK,
	}
	if e.Kind != revocation.BySub || strings.HasPrefix(e.Val, "key:") { // who a person is stays out of records
		rec.Object += "/" + e.Val
	}
	if err := s.recorder.Record(ctx, rec); err != nil {
		return fmt.Errorf("recording a revocation: %w", err)
	}
	return nil
}

// heard waits until every node in touch enforces the log up to seq, or d is over.
func (s *Server) heard(ctx context.Context, seq int64, d time.Duration) admin.Enforcement {
	return s.waitUntil(ctx, d, func(a attached) bool { return a.revoked >= seq })
}

func (s *Server) rotateTokens(ctx context.Context, r admin.TokenRotate) (admin.TokenRotated, error) {
	if s.tokens == nil {
		return admin.TokenRotated{}, s.noTokens()
	}
	if r.RevokePrevious && !r.Now {
		return admin.TokenRotated{}, &admin.Problem{Code: "usage", Exit: 2, Message: "--revoke-previous needs --now: the key that signs cannot go before another does", Hints: []string{"countersign token rotate --now --revoke-previous"}}
	}
	before, _ := s.tokens.ring.Active()
	made, err := s.tokens.ring.Rotate(context.WithoutCancel(ctx), r.Now, r.RevokePrevious)
	if err != nil {
		return admin.TokenRotated{}, fmt.Errorf("rotating the key of tokens: %w", err)
	}
	if r.RevokePrevious {
		if _, err := s.revoke(ctx, revocation.Entry{Kind: revocation.ByKID, Val: before.ID}); err != nil {
			return admin.TokenRotated{}, err
		}
	}
	return admin.TokenRotated{New: shownKey(made), Keys: s.tokens.listKeys()}, nil
}

// createClient writes an OAuthClient and makes its secret.
func (s *Server) createClient(ctx context.Context, r admin.ClientCreate) (admin.ClientMade, error) {
	if s.tokens == nil {
		return admin.ClientMade{}, s.noTokens()
	}
	r.Namespace = cmp.Or(r.Namespace, "default")
	object, err := resource.ClientFor(resource.ClientSpec{
		Namespace: r.Namespace, Name: r.Name, Auth: r.Auth, SPIFFEID: r.SPIFFEID, JWKS: r.JWKS, Audiences: r.Audiences, Scopes: r.Scopes,
	})
	if err != nil {
		return admin.ClientMade{}, &admin.Problem{Code: "faults", Message: "creating a client: the keys are no JWK Set"}
	}
	objects, faults := resource.Decode([]resource.File{{Name: "client " + r.Name, Data: object}}, resource.Options{RootNamespace: s.meta.RootNamespace})
	if resource.Stops(faults) {
		return admin.ClientMade{}, faulty("creating", []admin.File{{Name: "client " + r.Name}}, faults)
	}
	c, err := resource.Client(objects[0])
	if err != nil {
		return admin.ClientMade{}, err
	}
	if r.Expires < 0 || r.Expires > 365*24*time.Hour {
		return admin.ClientMade{}, &admin.Problem{Code: "usage", Exit: 2, Message: token.ErrSecretLife.Error()}
	}
	reply, err := s.writeNew(ctx, objects[0])
	if err != nil {
		return admin.ClientMade{}, err
	}
	made := admin.ClientMade{Namespace: r.Namespace, Name: r.Name, ClientID: c.ClientID, Revision: reply.Revision, Notes: s.clientNotes(c)}
	if c.Auth != grant.AuthSecret {
		return made, nil
	}
	made.Secret, made.Expires, err = s.newSecret(ctx, c.ClientID, r.Expires, 0)
	return made, err
}

// writeNew applies an object that must not exist yet.
func (s *Server) writeNew(ctx context.Context, o resource.Object) (admin.ApplyReply, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	if _, ok := known[catalog.Key(o.Kind, o.Namespace, o.Name)]; ok {
		return admin.ApplyReply{}, &admin.Problem{Code: "exists", Message: o.ID() + " exists", Hints: []string{"countersign client show " + o.Name + " -n " + o.Namespace, "countersign client rotate " + o.Name + " -n " + o.Namespace}}
	}
	return s.commit(ctx, batch{verb: "client create", doing: "client create", known: known, rev: rev, changes: []catalog.Change{{Object: o}}})
}

func (s *Server) newSecret(ctx context.Context, id string, life, overlap time.Duration) (secret string, expires time.Time, err error) {
	if life != 0 {
		expires = time.Now().Add(life)
	} else {
		expires = time.Now().Add(365 * 24 * time.Hour)
	}
	rec := &audit.Record{Kind: audit.KindKey, Action: "secret", Object: "client/" + id, Decision: audit.Allow, Layer: audit.LayerIssue, Result: audit.ResultOK, NotAfter: expires}
	if err := s.recorder.Record(ctx, rec); err != nil {
		return "", expires, fmt.Errorf("recording a secret: %w", err)
	}
	secret, err = s.tokens.service.CreateSecret(ctx, id, expires, overlap)
	if errors.Is(err, token.ErrSecretLife) {
		err = &admin.Problem{Code: "usage", Exit: 2, Message: err.Error()}
	}
	return secret, expires, err
}

func (s *Server) rotateClient(ctx context.Context, r admin.ClientRotate) (admin.ClientMade, error) {
	if s.tokens == nil {
		return admin.ClientMade{}, s.noTokens()
	}
	s.writing.Lock() // a client that is renamed meanwhile would leave its secret to the next of that name
	defer s.writing.Unlock()
	c, err := s.client(ctx, r.Namespace, r.Name)
	if err != nil {
		return admin.ClientMade{}, err
	}
	if c.Auth != grant.AuthSecret {
		return admin.ClientMade{}, &admin.Problem{Code: "no_secret", Message: fmt.Sprintf("OAuthClient/%s/%s has no secret: it proves itself by %s", c.Namespace, c.Name, c.Auth)}
	}
	made := admin.ClientMade{Namespace: c.Namespace, Name: c.Name, ClientID: c.ClientID, Revision: s.Revision()}
	made.Secret, made.Expires, err = s.newSecret(ctx, c.ClientID, r.Expires, r.Overlap)
	return made, err
}

func (s *Server) client(ctx context.Context, namespace, name string) (grant.Client, error) {
	namespace = cmp.Or(namespace, "default")
	known, _, err := s.applied(ctx)
	if err != nil {
		return grant.Client{}, err
	}
	rec, ok := known[catalog.Key("OAuthClient", namespace, name)]
	if !ok {
		return grant.Client{}, notFound(admin.Ref{Kind: "OAuthClient", Namespace: namespace, Name: name}, known)
	}
	return resource.Client(rec.Object)
}

func (s *Server) listClients(ctx context.Context, q admin.ClientQuery) (admin.ClientList, error) {
	if s.tokens == nil {
		return admin.ClientList{}, s.noTokens()
	}
	known, _, err := s.applied(ctx)
	if err != nil {
		return admin.ClientList{}, err
	}
	out := admin.ClientList{Clients: []admin.ClientRow{}}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		rec := known[key]
		if rec.Kind != "OAuthClient" || q.Namespace != "" && rec.Namespace != q.Namespace || q.Name != "" && rec.Name != q.Name {
			continue
		}
		c, err := resource.Client(rec.Object)
		if err != nil {
			return admin.ClientList{}, err
		}
		row := admin.ClientRow{
			Namespace: c.Namespace, Name: c.Name, ClientID: c.ClientID, SPIFFEID: c.SPIFFEID, Auth: string(c.Auth), Disabled: c.Disabled, Created: rec.Created,
			Targets: []admin.ClientTarget{}, Secrets: []admin.ClientSecret{}, Notes: s.clientNotes(c),
		}
		for _, t := range c.Targets {
			row.Targets = append(row.Targets, admin.ClientTarget{Audience: t.Audience, Scopes: append([]string{}, t.Scopes...), Exchange: t.Exchange, Attach: t.Attach})
		}
		if c.Auth == grant.AuthSecret {
			secrets, err := s.tokens.service.Secrets(ctx, c.ClientID)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return admin.ClientList{}, err
			}
			for _, x := range secrets {
				row.Secrets = append(row.Secrets, admin.ClientSecret{Created: x.Created.UTC(), Expires: x.Expires.UTC()})
			}
		}
		out.Clients = append(out.Clients, row)
	}
	if q.Name != "" && len(out.Clients) == 0 {
		return out, notFound(admin.Ref{Kind: "OAuthClient", Namespace: cmp.Or(q.Namespace, "default"), Name: q.Name}, known)
	}
	return out, nil
}

// clientNotes say what weakens a client, and what keeps it from its tokens.
func (s *Server) clientNotes(c grant.Client) []string {
	var out []string
	if c.AssertionEndpoint {
		out = append(out, "assertionAudience: tokenEndpoint takes assertions that name the token endpoint instead of the issuer")
	}
	for _, f := range s.world.load().directory.Warnings(&c) {
		if f.Hint != "" {
			f.Text += ": " + f.Hint
		}
		out = append(out, f.Text)
	}
	return out
}
