package token

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/revocation"
)

const edgeName = "edge" // of the Gateway; its routes lead to a and b

// newEdgeBed has a Gateway, without a record, and the APIKey shop/acme for service a.
func newEdgeBed(t *testing.T, edit func(*apikey.Record), edits ...func(*grant.Objects)) (*chainBed, apikey.Key) {
	t.Helper()
	c := newChainBed(t, edits...)
	key, err := apikey.Mint(strings.NewReader(strings.Repeat("0123456789abcdef", 4)), apikey.Live)
	if err != nil {
		t.Fatal(err)
	}
	r := apikey.Record{
		Namespace: "shop", Name: "acme", Env: apikey.Live, Secrets: []apikey.Secret{key.Secret(nil)}, Owner: idOf("acme"),
		Scopes: []string{"read"}, Audiences: []string{"a"}, Expires: c.now().Add(24 * time.Hour),
	}
	if edit != nil {
		edit(&r)
	}
	c.useKeys(r)
	return c, key
}

// useKeys puts these keys in force, with the Gateway.
func (c *chainBed) useKeys(records ...apikey.Record) {
	c.t.Helper()
	w := *c.world.Load()
	set, faults := apikey.Build(records, "home.test", nil)
	if len(faults) > 0 {
		c.t.Fatal(faults)
	}
	w.APIKeys = set
	w.Gateway = func(id string) Gateway {
		if id != idOf(edgeName) {
			return nil
		}
		return Gateway{idOf("a"): {"shop/front"}, idOf("b"): {"shop/other"}}
	}
	c.world.Store(&w)
}

func (c *chainBed) edgeToken(typ, raw string, more ...string) reply {
	c.t.Helper()
	return c.exchange(edgeName, raw, append([]string{"subject_token_type", typ}, more...)...)
}

// 8.2: every claim of an edge token, from each of the three credentials.
func TestEdgeTokenClaims(t *testing.T) {
	c, key := newEdgeBed(t, nil)
	base := func(more map[string]any) map[string]any {
		out := map[string]any{
			"iss": testIssuer, "aud": idOf("a"), "client_id": idOf(edgeName), "cnf": map[string]any{"spiffe": idOf(edgeName)},
			"act": map[string]any{"sub": idOf(edgeName)},
		}
		for name, v := range more {
			out[name] = v
		}
		return out
	}
	corp := c.signCorp(map[string]any{"jti": nil, "scope": "read admin mesh"})
	own := c.first("d", "a")
	root := c.wantToken(reply{status: 200, body: map[string]any{"access_token": own}}, idOf("a"))
	for name, test := range map[string]struct {
		typ, raw string
		want     map[string]any
	}{
		"foreign": {typeJWT, corp, map[string]any{
			"sub": "corp:7f3b", "oiss": corpIssuer, "osub": "7f3b", "oat": "jwt", "ocid": idOf(edgeName), "scope": "read admin", "sid": "corp:s1",
			"role": "customer", "groups": []any{"x", "y"}, "acr": "gold", "amr": []any{"pwd", "mfa"},
		}},
		"own": {typeAccess, own, map[string]any{
			"sub": idOf("d"), "oat": "svid", "ocid": idOf("d"), "scope": "read write", "rti": root.ID(), "anc": []any{root.ID()},
		}},
		"key": {typeAPIKey, key.Reveal(), map[string]any{
			"sub": "key:shop:acme", "rti": "key:" + key.ID(), "own": idOf("acme"), "oat": "api_key", "ocid": idOf(edgeName), "scope": "read",
		}},
	} {
		r := c.edgeToken(test.typ, test.raw, "audience", "a")
		tok := c.wantToken(r, idOf("a"))
		got, want := tok.Values(), base(test.want)
		if life := tok.Expires() - tok.Issued(); life != 60 {
			t.Errorf("%s: life %d", name, life)
		}
		for _, member := range []string{"exp", "iat", "jti", "auth_time"} {
			delete(got, member)
		}
		if name == "foreign" {
			want["rti"] = tok.ID() // it had no jti
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: claims\n%v, want\n%v", name, got, want)
		}
		if strings.Contains(r.raw, "refresh") {
			t.Errorf("%s: %s", name, r.raw)
		}
	}
}

// Which exchanges of a Gateway are refused, and those of anybody else.
func TestEdgeTokenRefused(t *testing.T) {
	c, key := newEdgeBed(t, nil)
	corp, own, elsewhere := c.signCorp(nil), c.first("d", "a"), c.first("d", "c")
	edgeOfKey := c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a").text("access_token")
	wrong := []byte(key.Reveal())
	wrong[len(wrong)-1] ^= 1
	for name, test := range map[string]struct {
		typ, raw             string
		more                 []string
		code, text, recorded string
	}{
		"service of no route":           {typeJWT, corp, []string{"audience", "c"}, codeTarget, textTarget, codeTarget},
		"no service":                    {typeJWT, corp, []string{"audience", testReports}, codeTarget, textTarget, codeTarget},
		"no audience":                   {typeJWT, corp, nil, codeTarget, textTarget, codeTarget},
		"two audiences":                 {typeJWT, corp, []string{"audience", "a", "audience", "b"}, codeTarget, textTarget, codeTarget},
		"a resource":                    {typeJWT, corp, []string{"audience", "a", "resource", corpAudience}, codeTarget, textTarget, codeTarget},
		"own token for no service here": {typeAccess, elsewhere, []string{"audience", "a"}, codeRequest, textSubject, "presenter"},
		"scope that it lacks":           {typeAccess, own, []string{"audience", "a", "scope", "admin"}, codeScope, textScope, codeScope},
		"X5 the edge token of a key":    {typeAccess, edgeOfKey, []string{"audience", "b"}, codeRequest, textDelegation, "delegation"},
		"the same for itself":           {typeAccess, edgeOfKey, []string{"audience", "a"}, codeRequest, textDelegation, "delegation"},
		"X2a may_act of another":        {typeAccess, c.signOwn(map[string]any{"aud": idOf("a"), "may_act": map[string]any{"sub": idOf("b")}}), []string{"audience", "a"}, codeRequest, textDelegation, "may_act"},
		"key for another service":       {typeAPIKey, key.Reveal(), []string{"audience", "b"}, codeTarget, textTarget, codeTarget},
		"key with an actor":             {typeAPIKey, key.Reveal(), []string{"audience", "a", "actor_token", own, "actor_token_type", typeAccess}, codeRequest, textActor, codeRequest},
		"key with a wrong checksum":     {typeAPIKey, string(wrong), []string{"audience", "a"}, codeRequest, textSubject, codeRequest},
		"key declared a token":          {typeAccess, key.Reveal(), []string{"audience", "a"}, codeRequest, textSubject, codeRequest},
		"token declared a key":          {typeAPIKey, corp, []string{"audience", "a"}, codeRequest, textSubject, codeRequest},
		"refresh token wanted":          {typeJWT, corp, []string{"audience", "a", "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, codeRequest, textTokenType, codeRequest},
	} {
		r := c.edgeToken(test.typ, test.raw, test.more...)
		c.answers(r, 400, test.code, test.text)
		if rec := c.refusal(r); rec != nil && rec.Reason != test.recorded {
			t.Errorf("%s: recorded %q, want %q", name, rec.Reason, test.recorded)
		}
		if strings.Contains(r.raw, key.ID()) {
			t.Errorf("%s: the answer names the key", name)
		}
	}
	for _, who := range []string{"b", "acme"} { // a workload with a record and one without
		r := c.exchange(who, key.Reveal(), "subject_token_type", typeAPIKey, "audience", "a")
		if r.status != 400 {
			t.Errorf("%s exchanged a key: %d %s", who, r.status, r.raw)
		}
	}
}

// X5: what is made of an edge token of a key by the service that got it is nothing.
func TestSecEdgeTokenOfKeyGoesNoFurther(t *testing.T) {
	c, key := newEdgeBed(t, nil)
	raw := c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a").text("access_token")
	c.wantRefusal(c.exchange("a", raw, "audience", "b"), codeRequest, textDelegation, "delegation", "")
}

// G6: a captured Gateway invents nobody: what it does not have in hand, signed or secret, gives no token.
func TestSecGatewayInventsNoCaller(t *testing.T) {
	c, key := newEdgeBed(t, nil)
	unknown, err := apikey.Mint(strings.NewReader(strings.Repeat("fedcba9876543210", 4)), apikey.Live)
	if err != nil {
		t.Fatal(err)
	}
	now := c.now().Unix()
	forged := signed(t, c.rival, map[string]any{"alg": "ES256", "kid": thumbprintID(t, c.corp), "typ": "JWT"},
		map[string]any{"iss": corpIssuer, "sub": "7f3b", "aud": corpAudience, "exp": now + 300, "iat": now})
	half := key.Reveal()[:20] + unknown.Reveal()[20:] // the id of one, the secret of another
	for name, test := range map[string][2]string{
		"forged":        {typeJWT, forged},
		"unsigned":      {"urn:ietf:params:oauth:token-type:unsigned_json", `{"sub":"corp:7f3b"}`},
		"a name":        {typeAPIKey, "key:shop:acme"},
		"an id":         {typeAPIKey, key.ID()},
		"another's key": {typeAPIKey, unknown.Reveal()},
		"a mixed key":   {typeAPIKey, half},
	} {
		if r := c.edgeToken(test[0], test[1], "audience", "a"); r.status != 400 || r.text("error") != codeRequest {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
}

// A token lives no longer than what it was made of, down to a second.
func TestEdgeTokenLife(t *testing.T) {
	var until time.Time
	c, key := newEdgeBed(t, func(r *apikey.Record) { until = time.Now().Add(5 * time.Minute); r.Expires = until })
	for name, test := range map[string]struct {
		typ, raw string
		want     int64
	}{
		"long":  {typeJWT, c.signCorp(map[string]any{"exp": c.now().Unix() + 500}), 60},
		"short": {typeJWT, c.signCorp(map[string]any{"exp": c.now().Unix() + 20}), 20},
		"least": {typeJWT, c.signCorp(map[string]any{"exp": c.now().Unix() + 3}), 3},
	} {
		tok := c.wantToken(c.edgeToken(test.typ, test.raw, "audience", "a"), idOf("a"))
		if life := tok.Expires() - c.now().Unix(); life > test.want || life < test.want-1 {
			t.Errorf("%s: life %d, want %d", name, life, test.want)
		}
	}
	c.later(time.Until(until) - 30*time.Second)
	if tok := c.wantToken(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), idOf("a")); tok.Expires() > until.Unix() {
		t.Error("an edge token outlives its key")
	}
	c.later(31 * time.Second)
	c.wantRefusal(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), codeRequest, textSubject, codeRequest, "key_expired")
}

// Which services a key is for: its audiences, its routes, or both; of another namespace what that grants.
func TestEdgeTokenOfKeyReaches(t *testing.T) {
	for name, test := range map[string]struct {
		edit   func(*apikey.Record)
		a, b   bool
		scopes []string
	}{
		"audience":    {nil, true, false, []string{"read"}},
		"route":       {func(r *apikey.Record) { r.Audiences, r.Routes = nil, []string{"shop/other"} }, false, true, []string{"read"}},
		"both":        {func(r *apikey.Record) { r.Routes = []string{"shop/front", "shop/other"} }, true, false, []string{"read"}},
		"both, apart": {func(r *apikey.Record) { r.Routes = []string{"shop/other"} }, false, false, nil},
		"of another, granted": {func(r *apikey.Record) {
			r.Namespace, r.Owner, r.Audiences, r.Scopes = "far", "corp:x", []string{"a.shop"}, []string{"read", "write"}
		}, true, false, []string{"read"}},
	} {
		c, key := newEdgeBed(t, test.edit, func(o *grant.Objects) {
			o.Audiences[0].GrantTo = []grant.GrantTo{{Namespace: "far", Scopes: []string{"read"}}}
		})
		for audience, want := range map[string]bool{"a": test.a, "b": test.b} {
			r := c.edgeToken(typeAPIKey, key.Reveal(), "audience", audience)
			if (r.status == 200) != want {
				t.Errorf("%s: %s: %d %s", name, audience, r.status, r.raw)
			}
			if r.status == 200 && !slices.Equal(strings.Fields(r.text("scope")), test.scopes) {
				t.Errorf("%s: %s: scope %q", name, audience, r.text("scope"))
			}
		}
	}
}

// A key that was revoked by its id, deleted or disabled gives no token, though this server still has its record.
func TestSecEdgeTokenOfRevokedKey(t *testing.T) {
	for _, kind := range []string{revocation.ByRTI, revocation.BySub} {
		c, key := newEdgeBed(t, nil)
		c.wantToken(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), idOf("a"))
		e := revocation.Entry{Kind: kind, Val: "key:" + key.ID(), Until: c.now().Unix() + 3700, At: c.now().Unix()}
		if kind == revocation.BySub {
			e.Val, e.Before = "key:shop:acme", c.now().Unix()+5
		}
		if err := c.revoked.Add([]revocation.Entry{e}, c.now()); err != nil {
			t.Fatal(err)
		}
		c.wantRefusal(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), codeRequest, textSubject, codeRequest, "revoked")
	}
	c, key := newEdgeBed(t, func(r *apikey.Record) { r.Disabled = true })
	c.wantRefusal(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), codeRequest, textSubject, codeRequest, "key_expired")
}

// A Gateway is a client where workloads without a record are none; a record that is disabled shuts it out.
func TestEdgeTokenClient(t *testing.T) {
	c, key := newEdgeBed(t, nil, func(o *grant.Objects) { o.NoImplicit = true })
	c.wantToken(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), idOf("a"))
	if r := c.ask(c.cert(edgeName), "client_id", idOf(edgeName), "audience", "a"); r.status != 400 {
		t.Errorf("a Gateway got a token of its own: %d %s", r.status, r.raw)
	}
	c, key = newEdgeBed(t, nil, func(o *grant.Objects) {
		o.Clients = append(o.Clients, grant.Client{
			Namespace: "shop", Name: edgeName, ClientID: idOf(edgeName), Auth: grant.AuthSPIFFE, SPIFFEID: idOf(edgeName), Disabled: true,
		})
	})
	c.wantClient(c.edgeToken(typeAPIKey, key.Reveal(), "audience", "a"), detailDisabled)
}

// Nine hops are too many, by actors as by ancestors.
func TestEdgeTokenDepth(t *testing.T) {
	c, _ := newEdgeBed(t, nil)
	for depth := 7; depth <= 8; depth++ {
		r := c.edgeToken(typeAccess, c.signOwn(map[string]any{"aud": idOf("a"), "act": nested(depth)}), "audience", "a")
		if ok := r.status == 200; ok != (depth == 7) {
			t.Errorf("depth %d: %d %s", depth, r.status, r.raw)
		}
	}
	cycle := map[string]any{"sub": idOf("b"), "act": map[string]any{"sub": idOf(edgeName)}}
	r := c.edgeToken(typeAccess, c.signOwn(map[string]any{"aud": idOf("a"), "act": cycle}), "audience", "a")
	c.wantRefusal(r, codeRequest, textCycle, "actor_cycle", "")
}
