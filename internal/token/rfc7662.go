package token

import (
	"context"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/revocation"
)

// introspection is what is told of an active token (RFC 7662, section 2.2).
type introspection struct {
	Active    bool   `json:"active"`
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	Expires   int64  `json:"exp"`
	Issued    int64  `json:"iat"`
	ID        string `json:"jti"`
	ClientID  string `json:"client_id"`
	Scope     string `json:"scope,omitempty"`
	TokenType string `json:"token_type"`
	Confirm   any    `json:"cnf,omitempty"` // always, where the token has one: who asks must still check it
	Act       any    `json:"act,omitempty"`
	MayAct    any    `json:"may_act,omitempty"`
	SessionID string `json:"sid,omitempty"`
	AuthTime  any    `json:"auth_time,omitempty"`
	ACR       any    `json:"acr,omitempty"`
	AMR       any    `json:"amr,omitempty"`
}

// inactive is all that is told of any other token, whatever is wrong with it or with who asks.
type inactive struct {
	Active bool `json:"active"`
}

// introspect is the endpoint of RFC 7662. What it returns is the body, marshalled by encoding/json.
func (s *Service) introspect(_ context.Context, c *caller, f *form, _ *audit.Record) (any, *fault) {
	raw := f.One("token")
	if raw == "" {
		return nil, refuse(codeRequest, textMalformed)
	}
	t, reason := s.own(c, raw)
	if reason == "" {
		reason = s.revoked(t)
	}
	if reason != "" || !mayAsk(c, t) {
		return inactive{}, nil
	}
	claim := func(name string) any { v, _ := t.Value(name); return v }
	return introspection{
		Active: true, Issuer: t.Issuer(), Subject: t.Subject(), Audience: t.Audience()[0],
		Expires: t.Expires(), Issued: t.Issued(), ID: t.ID(), ClientID: t.ClientID(),
		Scope: strings.Join(t.Scopes(), " "), TokenType: "Bearer", Confirm: claim("cnf"),
		Act: claim("act"), MayAct: claim("may_act"), SessionID: t.SessionID(),
		AuthTime: claim("auth_time"), ACR: claim("acr"), AMR: claim("amr"),
	}, nil
}

// mayAsk says who may ask about a token (tokens.md 4.1): whom it is for, whom it was issued to,
// and who may ask about any.
func mayAsk(c *caller, t *jose.Token) bool {
	return c.client.IntrospectAny || t.ClientID() == c.client.ClientID || isAudience(c, t)
}

// own verifies an access token of this service, whomever it is for. It says nothing about
// revocation. A reason is for the record alone.
func (s *Service) own(c *caller, raw string) (*jose.Token, jose.Reason) {
	check := jose.Check{
		Profile: jose.Own, Issuer: s.o.Issuer, Keys: s.o.Keys(), TrustDomain: s.o.TrustDomain.Name(),
	}
	t, err := check.Verify(c.now, raw)
	if why(err) != jose.Typ {
		return t, why(err)
	}
	check.Profile = jose.OwnJWT // of an audience alone that takes no other (tokens.md 8.1)
	if t, err = check.Verify(c.now, raw); err != nil {
		return nil, why(err)
	}
	if a := c.world.Directory.Audience(t.Audience()[0]); a == nil || !a.TypJWT {
		return nil, jose.Typ
	}
	return t, ""
}

// revoked holds a verified token against the log.
func (s *Service) revoked(t revocation.Subject) jose.Reason {
	switch e, yes := s.o.Revoked.Revoked(t); {
	case !yes:
		return ""
	case e.Kind == "": // no full list yet
		return jose.Stale
	}
	return jose.Revoked
}
