package token

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
)

// The token types that are taken and given (tokens.md 7.2). All others are refused by name.
const (
	typeAccess = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT    = "urn:ietf:params:oauth:token-type:jwt"
)

// Limits of what a token carries from its subject (tokens.md 8.1).
const (
	maxAncestors    = 8
	maxCarried      = 16
	maxCarriedBytes = 1 << 10
	maxSubject      = 2048 - 64 // of a name by a foreign issuer: an alias comes before it
)

// leastSkew is what iat and nbf of a foreign token may be ahead, whatever its record says.
const leastSkew = 10 * time.Second

// exchange is the grant of RFC 8693: the steps of tokens.md 7.2, of which Directory.Delegate
// is 4, 7, 8 and 9. What fails in 2 to 8 is one code, so that a token tells nothing of itself
// to whom it does not belong.
func (s *Service) exchange(ctx context.Context, c *caller, f *form, rec *audit.Record) (*answer, *fault) {
	rec.Grant = "token-exchange"
	if to := c.gateway(); to != nil {
		return s.edge(ctx, c, to, f, rec)
	}
	if !c.client.May(grant.GrantTokenExchange) {
		return nil, refuse(codeUnauth, textGrant)
	}
	if fault := checkTypes(f, false); fault != nil { // 1
		return nil, fault
	}
	i, subject, fault := s.subjectOf(c, f, nil) // 2, 3, 11
	if fault != nil {
		return nil, fault
	}
	rec.ParentJTI, rec.RTI = i.parent, i.rti
	named, fault := s.actorOf(c, f, i, subject) // 5, 6
	if fault != nil {
		return nil, fault
	}
	target, err := c.world.Directory.Resolve(c.client, f.All("audience"), f.All("resource"))
	if err != nil {
		return nil, refused(err)
	}
	rec.Audience = target.Canonical
	e := grant.Exchange{
		Client: c.client, Actor: c.actor(i.subject), Subject: i.subject, SubjectIssuer: cmp.Or(i.oiss, s.o.Issuer),
		Origin: i.oat, Chain: i.actors, Target: target, SubjectScopes: i.scopes, Scopes: f.Scopes(), MayAct: named,
	}
	if i.scopes, err = c.world.Directory.Delegate(e); err != nil {
		return nil, refused(err)
	}
	i.grant, i.target, i.actors, i.mayAct = rec.Grant, target, e.Acts(), c.client.MayAct
	i.typ = cmp.Or(f.One("requested_token_type"), typeAccess)
	return s.mint(ctx, c, i, rec) // 10
}

// checkTypes is step 1: the parameters are there, in pairs, and of types that are exchanged.
func checkTypes(f *form, gateway bool) *fault {
	subject, actor := f.One("subject_token_type"), f.One("actor_token_type")
	switch {
	case subject == "" || f.One("subject_token") == "" || (actor == "") != (f.One("actor_token") == ""):
		return refuse(codeRequest, textMalformed)
	case subject != typeAccess && subject != typeJWT && !(gateway && subject == typeAPIKey),
		actor != "" && actor != typeAccess,
		!slices.Contains([]string{"", typeAccess, typeJWT}, f.One("requested_token_type")):
		return refuse(codeRequest, textTokenType)
	}
	return nil
}

// subjectOf validates the subject token by what its declared type demands, asks whether this
// client may present it, and begins the new token with what it carries (steps 2, 3 and 11).
// Its actors and scopes are still those of the subject token. edge is what the routes of a Gateway
// lead to: it presents what its callers show it.
func (s *Service) subjectOf(c *caller, f *form, edge Gateway) (*issue, *jose.Token, *fault) {
	raw := f.One("subject_token")
	if f.One("subject_token_type") == typeJWT {
		return s.foreignSubject(c, raw, edge != nil)
	}
	t, reason := s.own(c, raw)
	if reason == "" {
		reason = s.revoked(t)
	}
	switch {
	case reason != "":
		return nil, nil, refuse(codeRequest, textSubject).because("", string(reason))
	case !isAudience(c, t) && !holds(c, t) && !edge.leads(t.Audience()):
		return nil, nil, refuse(codeRequest, textSubject).because("presenter", "")
	case len(t.Ancestors()) >= maxAncestors:
		return nil, nil, refuse(codeRequest, textDepth).because("chain_depth", "")
	}
	i := &issue{
		subject: t.Subject(), actors: t.Actors(), scopes: t.Scopes(), until: time.Unix(t.Expires(), 0),
		rti: cmp.Or(t.Root(), t.ID()), sid: t.SessionID(), oat: originOf(c.world, t), ocid: cmp.Or(t.Origin(), t.ClientID()),
		anc: append([]string{t.ID()}, t.Ancestors()...), parent: t.ID(), issued: t.Issued(),
	}
	i.oiss, i.osub = t.Upstream()
	i.claims = t.Values()
	maps.DeleteFunc(i.claims, func(name string, _ any) bool { return slices.Contains(reserved, name) })
	return i, t, nil
}

// missed tells that a set lacks a key.
func (s *Service) missed(issuer, uri string) {
	if s.o.Missed != nil {
		s.o.Missed(issuer, uri)
	}
}

// isAudience says whether an own token is for this client: it received it as resource server,
// under its own name or under that of a service, which is its first owner's (tokens.md 6).
func isAudience(c *caller, t *jose.Token) bool {
	return slices.ContainsFunc(t.Audience(), func(aud string) bool { return c.is(aud) || slices.Contains(c.serves(), aud) })
}

// serves are the audiences of the workload that the client is: those of its services, its own.
func (c *caller) serves() []string {
	id := c.workload()
	if id == "" {
		return nil
	}
	return c.world.Directory.OwnAudiences(id, c.world.Services[id])
}

// is says whether a name, an audience or a sub, is one of the client's.
func (c *caller) is(name string) bool {
	return name != "" && (name == c.client.ClientID || name == c.workload())
}

// workload is the SPIFFE ID that a client which authenticated itself by it has; else empty.
func (c *caller) workload() string {
	if c.client.Auth != grant.AuthSPIFFE || c.peer == nil {
		return ""
	}
	return c.peer.ID.String()
}

// actor is who acts: the workload where it is known, for policies name it, unless the client
// acts for itself under the name that it has as a client.
func (c *caller) actor(subject string) string {
	if subject == c.client.ClientID {
		return subject
	}
	return cmp.Or(c.workload(), c.client.ClientID)
}

// holds says whether an own token belongs to the client: it proves what the token is bound to,
// or was issued the token, which is bound to nothing.
func holds(c *caller, t *jose.Token) bool {
	if kind, _ := t.Binding(); kind != "" {
		return t.Bound(c.presenter()) == nil
	}
	return t.ClientID() == c.client.ClientID
}

// originOf is the kind of credential that a chain began with (oat): of a token that was never
// exchanged, how its client proves itself.
func originOf(w *World, t *jose.Token) string {
	if kind := t.OriginKind(); kind != "" {
		return kind
	}
	auth := grant.AuthSecret
	if c := w.Directory.Client(t.ClientID()); c != nil {
		auth = c.Auth
	} else if strings.HasPrefix(t.ClientID(), "spiffe://") {
		auth = grant.AuthSPIFFE
	}
	switch auth {
	case grant.AuthSPIFFE:
		return "svid"
	case grant.AuthPrivateKeyJWT:
		return "jwt"
	}
	return "basic"
}

// actorOf is steps 5 and 6: who sends an actor_token must be whom it names, and a may_act of
// the subject token must name who acts, whether or not an actor_token was sent. It says whether
// that is enough: a foreign issuer may forbid what our policies allow, but not the reverse.
func (s *Service) actorOf(c *caller, f *form, i *issue, subject *jose.Token) (named bool, _ *fault) {
	var shown *jose.Token
	if raw := f.One("actor_token"); raw != "" {
		t, reason := s.own(c, raw)
		if reason == "" {
			reason = s.revoked(t)
		}
		switch {
		case reason != "":
		case len(t.Actors()) > 0: // chains stay linear
			reason = jose.Claims
		case !c.is(t.Subject()) || t.ClientID() != c.client.ClientID || t.Bound(c.presenter()) != nil:
			reason = jose.Binding
		}
		if reason != "" {
			return false, refuse(codeRequest, textActor).because("", string(reason))
		}
		shown = t
	}
	value, named := subject.Value("may_act")
	if named && !s.mayAct(value, c, shown) {
		return true, refuse(codeRequest, textDelegation).because("may_act", "")
	}
	return named && i.oiss != subject.Issuer(), nil
}

// mayAct compares every member with what is known of the actor (RFC 8693, section 4.4). One
// that is not known does not match, and an object that names neither sub nor client_id names nobody.
func (s *Service) mayAct(value any, c *caller, shown *jose.Token) bool {
	members, ok := value.(map[string]any)
	if !ok || members["sub"] == nil && members["client_id"] == nil {
		return false
	}
	for name, want := range members {
		var have any
		switch name {
		case "sub":
			if name, ok := want.(string); ok && c.is(name) {
				have = want
			}
		case "client_id":
			have = c.client.ClientID
		case "iss":
			have = s.o.Issuer
		default:
			if shown != nil {
				have, _ = shown.Value(name)
			}
		}
		if have == nil || !reflect.DeepEqual(have, want) {
			return false
		}
	}
	return true
}

// foreignSubject is steps 2, 3 and 11 for a token of a TrustedIssuer with use subject.
func (s *Service) foreignSubject(c *caller, raw string, gateway bool) (*issue, *jose.Token, *fault) {
	no := func(reason jose.Reason) (*issue, *jose.Token, *fault) {
		return nil, nil, refuse(codeRequest, textSubject).because("", string(reason))
	}
	iss, ok := jose.Peek(raw)
	if !ok {
		return no(jose.Format)
	}
	issuer := c.world.Directory.Issuer(iss)
	if issuer == nil || !slices.Contains(issuer.Uses, grant.UseSubject) || len(issuer.Audiences) == 0 {
		return no(jose.Iss)
	}
	t, err := foreignCheck(issuer, c.world.Foreign[iss]).Verify(c.now, raw)
	if err != nil {
		if why(err) == jose.KeyID {
			s.missed(issuer.Issuer, issuer.JWKSURI)
		}
		return no(why(err))
	}
	name, okName := textClaim(t, cmp.Or(issuer.SubjectClaim, "sub"))
	sid, okSID := textClaim(t, "sid")
	if !okName || !okSID || name == "" || len(t.Subject()) > maxSubject {
		return no(jose.Claims)
	}
	i := &issue{
		subject: issuer.Name + ":" + name, scopes: t.Scopes(), until: time.Unix(t.Expires(), 0),
		oat: "jwt", ocid: c.client.ClientID, oiss: iss, osub: t.Subject(), claims: carriedFrom(issuer, t),
		issued: t.Issued(),
	}
	if sid != "" {
		i.sid = issuer.Name + ":" + sid
	}
	if i.rootSelf = t.ID() == ""; !i.rootSelf {
		sum := sha256.Sum256([]byte(iss + "\x00" + t.ID()))
		i.rti = base62(sum[:], secretDigits)[:jtiDigits]
	}
	if reason := s.revoked(foreign{t, i}); reason != "" {
		return no(reason)
	}
	if !gateway && !slices.ContainsFunc(t.Audience(), func(aud string) bool { return slices.Contains(issuer.Audiences, aud) && c.receives(aud) }) {
		return nil, nil, refuse(codeRequest, textSubject).because("presenter", "")
	}
	return i, t, nil
}

// receives says whether a foreign token for aud is for this client: by a name of its own, or
// by an OAuthResource that lists aud for a service that it serves.
func (c *caller) receives(aud string) bool {
	if c.is(aud) {
		return true
	}
	own := c.serves()
	if own == nil {
		own = []string{c.client.ClientID}
	}
	self := &grant.Client{Namespace: c.client.Namespace}
	for _, name := range own {
		self.Targets = append(self.Targets, grant.Target{Audience: name})
	}
	to, err := c.world.Directory.Resolve(self, nil, []string{aud})
	return err == nil && slices.Contains(own, to.Canonical) // a client called as a service is not that service
}

// textClaim is a claim that, if it is there, must be a text that fits behind an alias.
func textClaim(t *jose.Token, name string) (string, bool) {
	value, there := t.Value(name)
	text, ok := value.(string)
	return text, (ok || !there) && len(text) <= maxSubject
}

// foreignCheck is what the issuer's record asks of a token.
func foreignCheck(i *grant.Issuer, keys *jose.Set) *jose.Check {
	var algs []jose.Alg
	for _, a := range i.Algs {
		algs = append(algs, jose.Alg(a))
	}
	return &jose.Check{
		Profile: jose.External, Issuer: i.Issuer, Keys: keys, Audiences: i.Audiences, SingleAudience: i.SingleAudience,
		Algs: algs, ExpSkew: i.ClockSkew, Skew: max(i.ClockSkew, leastSkew), MaxLife: lifeOf(i), Typ: i.Typ, IgnoreHeaders: i.IgnoreHeaders,
	}
}

// carriedFrom are the claims that the issuer's record names, and what is known of the sign-in.
// One of another form, or too many, are left behind (tokens.md 8.1).
func carriedFrom(issuer *grant.Issuer, t *jose.Token) map[string]any {
	out, left := map[string]any{}, maxCarriedBytes
	for _, name := range slices.Concat(issuer.Carry, []string{"auth_time", "acr", "amr"}) {
		value, ok := t.Value(name)
		if !ok || slices.Contains(reserved, name) || !carriable(value) || len(out) >= maxCarried {
			continue
		}
		text, err := json.Marshal(map[string]any{name: value})
		if err != nil || len(text) > left {
			continue
		}
		left -= len(text)
		out[name] = value
	}
	return out
}

// carriable says whether a claim is a string, a list of strings, an integer or a boolean.
func carriable(value any) bool {
	switch v := value.(type) {
	case string, bool, int64:
		return true
	case float64:
		return v == math.Trunc(v) && math.Abs(v) < 1<<53
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok })
	}
	return false
}

// foreign is a foreign subject token as the revocation log looks at it: under its mapped names,
// and as old as it is.
type foreign struct {
	*jose.Token
	i *issue
}

func (f foreign) ID() string        { return "" }
func (f foreign) KeyID() string     { return "" }
func (f foreign) ClientID() string  { return "" }
func (f foreign) Origin() string    { return "" }
func (f foreign) Root() string      { return f.i.rti }
func (f foreign) SessionID() string { return f.i.sid }
func (f foreign) Subject() string   { return f.i.subject }

// why is the reason of a verification that failed, empty if it did not.
func why(err error) jose.Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*jose.Error](err); ok {
		return e.Reason
	}
	return jose.Claims
}
