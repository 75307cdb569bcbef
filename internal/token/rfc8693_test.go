package token

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
)

// Two hops: all that tokens.md 8.1 says of the token, of the answer and of the record.
func TestExchange(t *testing.T) {
	c := newChainBed(t)
	t0 := c.first("a", "b")
	root := c.wantToken(reply{status: 200, body: map[string]any{"access_token": t0}}, idOf("b"))
	r := c.exchange("b", t0, "audience", "c", "scope", "read", "requested_token_type", typeAccess)
	t1 := c.wantToken(r, idOf("c"))
	want := map[string]any{
		"iss": testIssuer, "sub": idOf("a"), "aud": idOf("c"), "exp": t1.Expires(), "iat": t1.Issued(), "jti": t1.ID(), "client_id": idOf("b"),
		"scope": "read", "cnf": map[string]any{"spiffe": idOf("b")}, "act": map[string]any{"sub": idOf("b")},
		"rti": root.ID(), "anc": []any{root.ID()}, "oat": "svid", "ocid": idOf("a"),
	}
	if got := t1.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("claims\n%v, want\n%v", got, want)
	}
	if t1.Expires() > root.Expires() {
		t.Error("the token outlives its subject")
	}
	tail := fmt.Sprintf(`,"issued_token_type":"%s","token_type":"Bearer","expires_in":%d,"scope":"read"}`, typeAccess, t1.Expires()-t1.Issued())
	if !strings.HasSuffix(r.raw, tail) || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer %s", r.raw)
	}
	rec, err := c.records.Find(r.header.Get("X-Request-Id"))
	if err != nil {
		t.Fatal(err)
	}
	if rec.Decision != audit.Allow || rec.Grant != "token-exchange" || rec.ParentJTI != root.ID() || rec.RTI != root.ID() || rec.JTI != t1.ID() ||
		rec.Audience != idOf("c") || !slices.Equal(rec.Act, []string{idOf("b")}) || rec.Scopes != "read" || rec.ClientID != idOf("b") {
		t.Errorf("record %+v %+v", rec, rec.Subject)
	}

	// X2c: exchanged again, the earlier actors stay in order, and the ids before stay too.
	t2, _ := c.next("c", r.text("access_token"), "d")
	if !slices.Equal(t2.Actors(), []string{idOf("c"), idOf("b")}) || !slices.Equal(t2.Ancestors(), []string{t1.ID(), root.ID()}) ||
		t2.Root() != root.ID() || t2.Origin() != idOf("a") || t2.OriginKind() != "svid" || !slices.Equal(t2.Scopes(), []string{"read"}) {
		t.Errorf("third token %v", t2.Values())
	}
	// The default scope is the whole intersection.
	if t1, _ := c.next("b", t0, "c"); !slices.Equal(t1.Scopes(), []string{"read", "write"}) {
		t.Errorf("scopes %v", t1.Scopes())
	}
	// As asked for, so answered.
	if r := c.exchange("b", t0, "audience", "c", "requested_token_type", typeJWT); r.text("issued_token_type") != typeJWT {
		t.Errorf("answer %s", r.raw)
	}
}

// X1a: a subject token that is expired, revoked, of another issuer, of another kind.
func TestX1aSubjects(t *testing.T) {
	c := newChainBed(t)
	good := c.first("a", "b")
	rival := signed(t, c.rival, map[string]any{"alg": "ES256", "kid": c.signer.Key().ID(), "typ": "at+jwt"}, map[string]any{
		"iss": testIssuer, "sub": idOf("a"), "aud": idOf("b"), "exp": c.now().Unix() + 300, "iat": c.now().Unix(), "jti": "1", "client_id": idOf("a"),
	})
	now := c.now().Unix()
	for name, test := range map[string]struct{ raw, typ, detail string }{
		"expired":             {c.signOwn(map[string]any{"exp": now - 1, "iat": now - 300}), typeAccess, "exp"},
		"other issuer":        {c.signOwn(map[string]any{"iss": "https://other.test"}), typeAccess, "iss"},
		"other key":           {rival, typeAccess, "sig"},
		"opaque":              {"csr_abc", typeAccess, "format"},
		"two dots":            {"..", typeAccess, "format"},
		"txn token":           {c.sign("txntoken+jwt", map[string]any{"iss": testIssuer, "sub": "x", "exp": now + 60}, nil), typeAccess, "typ"},
		"id token":            {c.sign("JWT", map[string]any{"iss": testIssuer, "sub": "x", "aud": idOf("b"), "exp": now + 60, "iat": now, "jti": "1", "client_id": "x"}, nil), typeAccess, "typ"},
		"own, said foreign":   {good, typeJWT, "iss"},
		"foreign, said own":   {c.signCorp(nil), typeAccess, "iss"},
		"foreign, at+jwt typ": {signed(t, c.corp, map[string]any{"alg": "ES256", "kid": thumbprintID(t, c.corp), "typ": "at+jwt"}, map[string]any{"iss": corpIssuer}), typeAccess, "iss"},
		"anc of 9":            {c.signOwn(map[string]any{"anc": strings.Split("123456789", "")}), typeAccess, "claims"},
		"anc of a number":     {c.signOwn(map[string]any{"anc": []any{1}}), typeAccess, "claims"},
		"act of depth 9":      {c.signOwn(map[string]any{"act": nested(9)}), typeAccess, "claims"},
		"foreign trust":       {c.signOwn(map[string]any{"sub": "spiffe://other.test/ns/a/sa/b"}), typeAccess, "claims"},
	} {
		r := c.exchange("b", test.raw, "subject_token_type", test.typ, "audience", "c")
		if rec := c.refusal(r); rec.Detail != test.detail {
			t.Errorf("%s: detail %q, want %q", name, rec.Detail, test.detail)
			continue
		}
		c.wantRefusal(r, codeRequest, textSubject, codeRequest, test.detail)
	}
	if r := c.send(c.cert("a"), "POST", pathRevoke, formOf("client_id", idOf("a"), "token", good)); r.status != 200 {
		t.Fatalf("revoke: %d %s", r.status, r.raw)
	}
	c.settle()
	c.wantRefusal(c.exchange("b", good, "audience", "c"), codeRequest, textSubject, codeRequest, "revoked")
}

// X1b: whoever is neither audience nor holder may not exchange; being both or either is enough.
func TestX1bPresenter(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	c.wantRefusal(c.exchange("c", raw, "audience", "d"), codeRequest, textSubject, "presenter", "")
	for name, test := range map[string]struct {
		by    string
		edits map[string]any
		ok    bool
	}{
		"audience":                     {"b", nil, true},
		"audience, bound to another":   {"b", map[string]any{"cnf": map[string]any{"spiffe": idOf("a")}}, true},
		"holder, unbound":              {"a", nil, true},
		"holder, bound":                {"a", map[string]any{"cnf": map[string]any{"spiffe": idOf("a")}}, true},
		"client_id, bound to another":  {"a", map[string]any{"cnf": map[string]any{"spiffe": idOf("c")}}, false},
		"cnf, issued to another":       {"c", map[string]any{"cnf": map[string]any{"spiffe": idOf("c")}}, true},
		"subject alone":                {"c", map[string]any{"sub": idOf("c")}, false},
		"actor alone":                  {"c", map[string]any{"act": map[string]any{"sub": idOf("c")}}, false},
		"cnf of a proof":               {"a", map[string]any{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}}, false},
		"cnf of its certificate":       {"c", map[string]any{"cnf": map[string]any{"x5t#S256": thumb(c.cert("c"))}}, true},
		"cnf of another's certificate": {"c", map[string]any{"cnf": map[string]any{"x5t#S256": thumb(c.cert("d"))}}, false},
	} {
		r := c.exchange(test.by, c.signOwn(test.edits), "audience", "e")
		if ok := r.status == 200; ok != test.ok {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
		if !test.ok && c.refusal(r).Reason != "presenter" {
			t.Errorf("%s: reason %q", name, c.refusal(r).Reason)
		}
	}
}

// X1b: tokens for a service name its first owner; whoever else serves it receives them, so it
// may present them and ask about them. Nobody else may, whatever it is called.
func TestX1bOtherOwners(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) {
		o.Clients = append(o.Clients, grant.Client{
			Namespace: "shop", Name: "a", ClientID: "a", Auth: grant.AuthSecret, // called as the service
			Grants: []string{grant.GrantTokenExchange}, Targets: []grant.Target{{Audience: testReports, Scopes: []string{"read"}, Exchange: true}},
		})
	})
	raw, corp := c.first("d", "a"), c.signCorp(nil)
	rest := []string{"subject_token_type", typeJWT, "audience", "c"}
	c.wantRefusal(c.exchange("b", raw, "audience", "c"), codeRequest, textSubject, "presenter", "")
	c.wantRefusal(c.exchange("b", corp, rest...), codeRequest, textSubject, "presenter", "")
	if c.active("b", raw) {
		t.Error("who serves nothing of it is told about a token")
	}

	w := *c.world.Load()
	w.Services = map[string][]string{idOf("b"): {"shop/b", "shop/a", "shop/gone"}, idOf("e"): {"shop/b"}}
	c.world.Store(&w)
	if tok, _ := c.next("b", raw, "c"); !slices.Equal(tok.Actors(), []string{idOf("b")}) || tok.Subject() != idOf("d") {
		t.Errorf("sub %s, act %q", tok.Subject(), tok.Actors())
	}
	if r := c.exchange("b", corp, rest...); r.status != 200 {
		t.Errorf("a foreign token for the service: %d %s", r.status, r.raw)
	}
	if !c.active("b", raw) || c.active("e", raw) {
		t.Error("introspection follows another rule than the exchange")
	}
	c.wantRefusal(c.exchange("e", raw, "audience", "c"), codeRequest, textSubject, "presenter", "")
	c.wantRefusal(c.exchange("e", corp, rest...), codeRequest, textSubject, "presenter", "")

	form := formOf("grant_type", grant.GrantTokenExchange, "client_id", "a", "client_secret", c.newSecret("a"), "subject_token", corp, "subject_token_type", typeJWT, "audience", testReports)
	c.wantRefusal(c.send(nil, "POST", pathToken, form), codeRequest, textSubject, "presenter", "")
}

// X1c: never more than the subject has, nor than the client may have, nor longer.
func TestX1cNeverMore(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) {
		o.Clients[2].Targets = slices.Clone(o.Clients[2].Targets)
		for i := range o.Clients[2].Targets {
			o.Clients[2].Targets[i].Scopes = []string{"read"}
		}
	})
	narrow := c.signOwn(map[string]any{"scope": "write"})
	c.wantRefusal(c.exchange("b", narrow, "audience", "c", "scope", "read"), codeScope, textScope, codeScope, "")
	wide := c.signOwn(map[string]any{"aud": idOf("c")})
	c.wantRefusal(c.exchange("c", wide, "audience", "d", "scope", "write"), codeScope, textScope, codeScope, "")
	if tok, _ := c.next("c", wide, "d"); !slices.Equal(tok.Scopes(), []string{"read"}) {
		t.Errorf("scopes %v", tok.Scopes())
	}
	if tok, _ := c.next("b", c.signOwn(map[string]any{"scope": nil}), "c"); len(tok.Scopes()) > 0 {
		t.Errorf("scopes %v of a subject without any", tok.Scopes())
	}
	end := c.now().Unix() + 40
	if tok, _ := c.next("b", c.signOwn(map[string]any{"exp": end}), "c"); tok.Expires() != end {
		t.Errorf("ends at %d, its subject at %d", tok.Expires(), end)
	}
	c.wantRefusal(c.exchange("b", c.signOwn(map[string]any{"exp": c.now().Unix() + 3}), "audience", "c"), codeRequest, textSubject, codeRequest, "lifetime")
}

// X1d and step 1: types that are not exchanged, and parameters that miss their other half.
func TestX1dTypes(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	const urn = "urn:ietf:params:oauth:token-type:"
	for _, typ := range []string{"refresh_token", "saml1", "saml2", "id_token", "txn_token", "self_signed", "ACCESS_TOKEN", ""} {
		c.wantRefusal(c.exchange("b", raw, "audience", "c", "requested_token_type", urn+typ), codeRequest, textTokenType, codeRequest, "")
		c.wantRefusal(c.exchange("b", raw, "audience", "c", "subject_token_type", urn+typ), codeRequest, textTokenType, codeRequest, "")
		c.wantRefusal(c.exchange("b", raw, "audience", "c", "actor_token", raw, "actor_token_type", urn+typ), codeRequest, textTokenType, codeRequest, "")
	}
	for _, typ := range []string{"urn:countersign:token-type:api_key", "urn:ietf:params:oauth:token-type:unsigned_json"} {
		c.wantRefusal(c.exchange("b", raw, "audience", "c", "subject_token_type", typ), codeRequest, textTokenType, codeRequest, "")
	}
	c.wantRefusal(c.exchange("b", raw, "audience", "c", "actor_token", raw, "actor_token_type", typeJWT), codeRequest, textTokenType, codeRequest, "")
	for _, form := range [][]string{
		{"subject_token_type", typeAccess},
		{"subject_token", raw},
		{"subject_token", raw, "subject_token_type", typeAccess, "actor_token", raw},
		{"subject_token", raw, "subject_token_type", typeAccess, "actor_token_type", typeAccess},
	} {
		form = append(form, "grant_type", grant.GrantTokenExchange, "client_id", idOf("b"), "audience", "c")
		c.wantRefusal(c.send(c.cert("b"), "POST", pathToken, formOf(form...)), codeRequest, textMalformed, codeRequest, "")
	}
}

// X2a, X2b: may_act counts whether or not an actor_token is sent, and every member of it.
func TestX2MayAct(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) { o.Delegations = nil })
	actor := c.first("b", "c") // b's own token
	for name, test := range map[string]struct {
		mayAct any
		ok     bool // with actor_token and without
	}{
		"its sub":               {map[string]any{"sub": idOf("b")}, true},
		"all of it":             {map[string]any{"sub": idOf("b"), "iss": testIssuer, "client_id": idOf("b")}, true},
		"its client_id":         {map[string]any{"client_id": idOf("b")}, true},
		"another sub":           {map[string]any{"sub": idOf("x")}, false},
		"another iss":           {map[string]any{"sub": idOf("b"), "iss": "https://other.test"}, false},
		"another client_id":     {map[string]any{"sub": idOf("b"), "client_id": idOf("x")}, false},
		"a member it lacks":     {map[string]any{"sub": idOf("b"), "role": "admin"}, false},
		"a sub of another kind": {map[string]any{"sub": []string{idOf("b")}}, false},
		"nobody":                {map[string]any{}, false},
		"an issuer":             {map[string]any{"iss": testIssuer}, false},
	} {
		raw := c.signOwn(map[string]any{"may_act": test.mayAct})
		for _, with := range [][]string{nil, {"actor_token", actor, "actor_token_type", typeAccess}} {
			r := c.exchange("b", raw, append(with, "audience", "c")...)
			switch {
			case test.ok && r.status != 200:
				t.Errorf("%s, actor_token %v: %d %s", name, with != nil, r.status, r.raw)
			case test.ok:
				if tok := c.wantToken(r, idOf("c")); !slices.Equal(tok.Actors(), []string{idOf("b")}) {
					t.Errorf("%s: actors %v", name, tok.Actors())
				} else if _, there := tok.Value("may_act"); there {
					t.Errorf("%s: may_act was carried", name)
				}
			default:
				c.wantRefusal(r, codeRequest, textDelegation, "may_act", "")
			}
		}
	}
	// The subject itself is not whom may_act names either.
	c.wantRefusal(c.exchange("a", c.signOwn(map[string]any{"may_act": map[string]any{"sub": idOf("b")}}), "audience", "c"), codeRequest, textDelegation, "may_act", "")
	// A member beyond the three is compared with the actor_token, and only with it.
	raw := c.signOwn(map[string]any{"may_act": map[string]any{"sub": idOf("b"), "role": "admin"}})
	admin := c.signOwn(map[string]any{"sub": idOf("b"), "client_id": idOf("b"), "role": "admin"})
	if r := c.exchange("b", raw, "audience", "c", "actor_token", admin, "actor_token_type", typeAccess); r.status != 200 {
		t.Errorf("role shown: %d %s", r.status, r.raw)
	}
	// That of a foreign issuer forbids, but allows nothing.
	for sub, reason := range map[string]string{idOf("a"): "delegation", idOf("b"): "may_act"} {
		raw := c.signCorp(map[string]any{"may_act": map[string]any{"sub": sub}})
		c.wantRefusal(c.exchange("a", raw, "subject_token_type", typeJWT, "audience", "b"), codeRequest, textDelegation, reason, "")
	}
	// Without may_act and without a policy nobody acts for another.
	c.wantRefusal(c.exchange("b", c.first("a", "b"), "audience", "c"), codeRequest, textDelegation, "delegation", "")
}

// A client's own mayAct stands in the tokens that are issued to it.
func TestMayActOfTheClient(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) {
		o.Clients[0].MayAct = map[string]any{"sub": idOf("x")}
		o.Clients[1].MayAct = map[string]any{"sub": idOf("c")}
	})
	c.wantRefusal(c.exchange("b", c.first("a", "b"), "audience", "c"), codeRequest, textDelegation, "may_act", "")
	tok, raw := c.next("b", c.first("c", "b"), "c")
	if v, _ := tok.Value("may_act"); !reflect.DeepEqual(v, map[string]any{"sub": idOf("c")}) {
		t.Errorf("may_act %v", v)
	}
	c.next("c", raw, "d")
}

// X2d: an actor_token must be the client's own, valid, unrevoked, and itself without act.
func TestX2dActorTokens(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	mine := map[string]any{"sub": idOf("b"), "client_id": idOf("b"), "aud": idOf("c")}
	with := func(edits map[string]any) string {
		all := maps.Clone(mine)
		maps.Copy(all, edits)
		return c.signOwn(all)
	}
	for name, test := range map[string]struct{ raw, detail string }{
		"with act":         {with(map[string]any{"act": map[string]any{"sub": idOf("c")}}), "claims"},
		"of another":       {c.first("c", "b"), "binding"},
		"of another's sub": {with(map[string]any{"sub": idOf("a")}), "binding"},
		"client_id":        {with(map[string]any{"client_id": idOf("a")}), "binding"},
		"bound to another": {with(map[string]any{"cnf": map[string]any{"spiffe": idOf("c")}}), "binding"},
		"expired":          {with(map[string]any{"exp": c.now().Unix() - 1, "iat": c.now().Unix() - 9}), "exp"},
		"garbage":          {"x.y.z", "base64"},
	} {
		r := c.exchange("b", raw, "audience", "c", "actor_token", test.raw, "actor_token_type", typeAccess)
		if rec := c.refusal(r); rec.Detail != test.detail {
			t.Errorf("%s: detail %q, want %q", name, rec.Detail, test.detail)
		}
		c.want(r, 400, codeRequest, textActor, c.refusal(r).Detail)
	}
	own := c.first("b", "c")
	tok := c.wantToken(c.exchange("b", raw, "audience", "c", "actor_token", own, "actor_token_type", typeAccess), idOf("c"))
	if !slices.Equal(tok.Actors(), []string{idOf("b")}) {
		t.Errorf("actors %v", tok.Actors())
	}
	c.send(c.cert("b"), "POST", pathRevoke, formOf("client_id", idOf("b"), "token", own))
	c.settle()
	c.want(c.exchange("b", raw, "audience", "c", "actor_token", own, "actor_token_type", typeAccess), 400, codeRequest, textActor, "revoked")
}

// X3a: the subject itself narrows and adds no act; it needs no DelegationPolicy.
func TestX3aNarrowing(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) { o.Delegations = nil })
	tok, _ := c.next("a", c.first("a", "b"), "c", "scope", "read")
	if len(tok.Actors()) > 0 || !slices.Equal(tok.Scopes(), []string{"read"}) || len(tok.Ancestors()) != 1 {
		t.Errorf("token %v", tok.Values())
	}
	c.wantRefusal(c.exchange("a", c.signOwn(map[string]any{"scope": "read"}), "audience", "c", "scope", "write"), codeScope, textScope, codeScope, "")
}

// X3b: an actor deeper in the chain is refused unless a policy allows cycles; the outermost
// again changes nothing.
func TestX3bCycles(t *testing.T) {
	c := newChainBed(t)
	cycle := func() reply {
		_, t1 := c.next("b", c.first("a", "b"), "c")
		_, t2 := c.next("c", t1, "b")
		return c.exchange("b", t2, "audience", "d")
	}
	c.wantRefusal(cycle(), codeRequest, textCycle, "actor_cycle", "")
	c.o.Delegations[0].AllowCycles = true
	c.useWorld()
	if tok := c.wantToken(cycle(), idOf("d")); !slices.Equal(tok.Actors(), []string{idOf("b"), idOf("c"), idOf("b")}) {
		t.Errorf("actors %v", tok.Actors())
	}
	_, t1 := c.next("b", c.first("a", "b"), "b")
	if tok, _ := c.next("b", t1, "d"); !slices.Equal(tok.Actors(), []string{idOf("b")}) {
		t.Errorf("actors %v", tok.Actors())
	}
}

// X3c: eight actors are a chain, nine are not.
func TestX3cDepth(t *testing.T) {
	c := newChainBed(t)
	for depth, ok := range map[int]bool{7: true, 8: false} {
		r := c.exchange("b", c.signOwn(map[string]any{"act": nested(depth)}), "audience", "c")
		if ok {
			if tok := c.wantToken(r, idOf("c")); len(tok.Actors()) != 8 {
				t.Errorf("actors %v", tok.Actors())
			}
			continue
		}
		c.wantRefusal(r, codeRequest, textDepth, "chain_depth", "")
	}
}

// X3h: the ninth exchange of a chain, narrowings counted, is refused.
func TestX3hNinthExchange(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	for n := range 8 {
		tok, next := c.next("a", raw, "b")
		if raw = next; len(tok.Ancestors()) != n+1 {
			t.Fatalf("exchange %d: %d ancestors", n+1, len(tok.Ancestors()))
		}
	}
	c.wantRefusal(c.exchange("a", raw, "audience", "b"), codeRequest, textDepth, "chain_depth", "")
	c.wantRefusal(c.exchange("b", raw, "audience", "c"), codeRequest, textDepth, "chain_depth", "")
}

// X5: what began with an API key is never exchanged for an access token.
func TestX5APIKeyOrigin(t *testing.T) {
	c := newChainBed(t)
	c.wantRefusal(c.exchange("b", c.signOwn(map[string]any{"oat": "api_key", "sub": "key:shop:acme"}), "audience", "c"), codeRequest, textDelegation, "delegation", "")
}

// Who may exchange at all, and towards whom, is in the client's record.
func TestExchangeClients(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) {
		o.Clients[2].Grants = []string{grant.GrantClientCredentials}
		o.Clients[3].Targets = []grant.Target{{Audience: "e", Exchange: true}, {Audience: "f"}}
	})
	plain := c.ca.Leaf(t, plainID)
	raw := c.signOwn(map[string]any{"aud": plainID})
	r := c.send(plain, "POST", pathToken, formOf("grant_type", grant.GrantTokenExchange, "client_id", plainID, "subject_token", raw, "subject_token_type", typeAccess, "audience", "c"))
	c.wantRefusal(r, codeUnauth, textGrant, codeUnauth, "")
	c.wantRefusal(c.exchange("c", c.signOwn(map[string]any{"aud": idOf("c")}), "audience", "d"), codeUnauth, textGrant, codeUnauth, "")
	d := c.signOwn(map[string]any{"aud": idOf("d")})
	c.next("d", d, "e")
	c.wantRefusal(c.exchange("d", d, "audience", "f"), codeTarget, textTarget, codeTarget, "")
	c.wantRefusal(c.exchange("d", d, "audience", "g"), codeTarget, textTarget, codeTarget, "")
	c.wantRefusal(c.exchange("d", d, "audience", "e", "audience", "f"), codeTarget, textTarget, codeTarget, "")
	c.wantRefusal(c.exchange("d", d), codeTarget, textNoTarget, codeTarget, "")
}

// The binding of the new token is that of who asks, never the subject's.
func TestBindingIsNeverCopied(t *testing.T) {
	c := newChainBed(t)
	raw := c.signOwn(map[string]any{"cnf": map[string]any{"spiffe": idOf("a")}})
	if tok, _ := c.next("b", raw, "c"); !reflect.DeepEqual(second(tok.Value("cnf")), map[string]any{"spiffe": idOf("b")}) {
		t.Errorf("cnf %v", second(tok.Value("cnf")))
	}
}

// A machine with a secret narrows its own token; an audience of typ JWT gets and gives that typ.
func TestNarrowingOfASecretClient(t *testing.T) {
	c := newChainBed(t)
	secret := c.newSecret("ci")
	r := c.ask(nil, "client_id", "ci", "client_secret", secret, "audience", "https://spring.example")
	if r.status != 200 {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	narrow := func(raw string) reply {
		return c.send(nil, "POST", pathToken, formOf("grant_type", grant.GrantTokenExchange, "client_id", "ci", "client_secret", secret,
			"subject_token", raw, "subject_token_type", typeAccess, "audience", testReports))
	}
	tok := c.wantToken(narrow(r.text("access_token")), testReports)
	if tok.OriginKind() != "basic" || tok.Origin() != "ci" || len(tok.Actors()) > 0 || second(tok.Value("tenant")) != "acme" {
		t.Errorf("token %v", tok.Values())
	}
	now := c.now().Unix()
	forged := c.sign("JWT", map[string]any{"iss": testIssuer, "sub": "ci", "aud": testReports, "exp": now + 60, "iat": now, "jti": "1", "client_id": "ci"}, nil)
	c.wantRefusal(narrow(forged), codeRequest, textSubject, codeRequest, "typ")
}
