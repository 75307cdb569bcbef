package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/store"
)

// claims of a good assertion of a client, changed by edits; nil removes one.
func (b *bed) claimsOf(id string, edits ...map[string]any) map[string]any {
	now := b.now().Unix()
	c := map[string]any{"iss": id, "sub": id, "aud": testIssuer, "exp": now + 60, "iat": now, "jti": rand.Text()}
	for _, e := range edits {
		maps.Copy(c, e)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// assert asks for a token with an assertion.
func (b *bed) assert(raw string, pairs ...string) reply {
	b.t.Helper()
	return b.ask(nil, append([]string{"audience", testReports, "client_assertion_type", assertionType, "client_assertion", raw}, pairs...)...)
}

var es256 = map[string]any{"alg": "ES256"}

func TestPrivateKeyJWT(t *testing.T) {
	b := newBed(t)
	for _, header := range []map[string]any{es256, {"alg": "ES256", "kid": thumbprintID(t, b.robot)}} {
		tok := b.wantToken(b.assert(signed(t, b.robot, header, b.claimsOf("robot")), "scope", "reports:write"), testReports)
		if tok.Subject() != "robot" || tok.ClientID() != "robot" || !slices.Equal(tok.Scopes(), []string{"reports:write"}) {
			t.Errorf("got %s", tok.Payload())
		}
	}
}

// A1a, A1b, A3: every claim of an assertion that is not right is one answer.
func TestA1A3Assertions(t *testing.T) {
	b := newBed(t)
	now := b.now().Unix()
	set := func(name string, v any) map[string]any { return map[string]any{name: v} }
	for _, tc := range []struct {
		name   string
		edit   map[string]any
		detail string // "" is a token
	}{
		{"A1a no aud", set("aud", nil), "aud"},
		{"A1a other AS", set("aud", "https://other.test"), "aud"},
		{"A1a token URL", set("aud", testIssuer+pathToken), "aud"},
		{"A1a PAR URL", set("aud", testIssuer+"/oauth2/par"), "aud"},
		{"A1a issuer and slash", set("aud", testIssuer+"/"), "aud"},
		{"A1a client's own", set("aud", "robot"), "aud"},
		{"A1b issuer and evil", set("aud", []string{testIssuer, "https://evil.test"}), "aud"},
		{"A1b issuer twice", set("aud", []string{testIssuer, testIssuer}), "aud"},
		{"A1b empty list", set("aud", []string{}), "aud"},
		{"A1b list of one", set("aud", []string{testIssuer}), ""},
		{"A3a no exp", set("exp", nil), "exp"},
		{"A3a exp 5 min ago", set("exp", now-300), "exp"},
		{"A3a exp in an hour", set("exp", now+3595), ""},
		{"A3a exp + 3601", set("exp", now+3610), "exp"},
		{"A3a iat behind exp", map[string]any{"exp": now + 2, "iat": now + 6}, "iat"},
		{"A3a iat − 3601", set("iat", now-3610), "iat"},
		{"A3a iat of 1970", set("iat", 0), "iat"},
		{"A3b iat + 8", set("iat", now+8), ""},
		{"A3b nbf + 8", set("nbf", now+8), ""},
		{"A3b no iat", set("iat", nil), ""},
		{"A3c iat + 61", set("iat", now+61), "iat"},
		{"A3c nbf + 61", set("nbf", now+61), "nbf"},
		{"A3d iss is not sub", set("sub", "rival"), "claims"},
		{"A3d no sub", set("sub", nil), "claims"},
		{"A3d no jti", set("jti", nil), "claims"},
		{"A3d long jti", set("jti", strings.Repeat("x", 256)), "claims"},
		{"A3d jti of 255", set("jti", strings.Repeat("x", 255)), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			b.later(time.Minute) // for the limits: what is before now in the table stays so
			shift := map[string]any{}
			for k, v := range tc.edit {
				if n, ok := v.(int64); ok && n > 0 {
					v = n - now + b.now().Unix()
				}
				shift[k] = v
			}
			r := b.assert(signed(t, b.robot, es256, b.claimsOf("robot", shift)))
			if tc.detail == "" {
				b.wantToken(r, testReports)
				return
			}
			b.wantClient(r, tc.detail)
		})
	}
}

// A1b: with assertionAudience: tokenEndpoint another one value counts, instead.
func TestA1bTokenEndpoint(t *testing.T) {
	b := newBed(t)
	for _, tc := range []struct {
		aud any
		ok  bool
	}{{testIssuer + pathToken, true}, {[]string{testIssuer + pathToken, testIssuer}, false}, {testIssuer, false}} {
		r := b.assert(signed(t, b.robot, es256, b.claimsOf("legacy", map[string]any{"aud": tc.aud})))
		if tc.ok {
			b.wantToken(r, testReports)
		} else {
			b.wantClient(r, "aud")
		}
	}
}

// A3d, A3e: keys, algorithms and types of assertions.
func TestA3dKeys(t *testing.T) {
	b := newBed(t)
	pem, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs256 := func(sum []byte) []byte {
		sig, err := rsa.SignPKCS1v15(nil, pem, crypto.SHA256, sum)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	typ := func(v string) map[string]any { return map[string]any{"alg": "ES256", "typ": v} }
	b.wantClient(b.assert(signed(t, b.rival, es256, b.claimsOf("robot"))), "sig")
	b.wantClient(b.assert(signed(t, b.rival, map[string]any{"alg": "ES256", "kid": thumbprintID(t, b.rival)}, b.claimsOf("robot"))), "kid")
	b.wantClient(b.assert(signedBy(t, map[string]any{"alg": "RS256"}, b.claimsOf("robot"), rs256)), "alg")
	b.wantClient(b.assert(signedBy(t, map[string]any{"alg": "none"}, b.claimsOf("robot"), func([]byte) []byte { return nil })), "alg")
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("robot")), "client_id", "rival"), detailUnknown)
	b.wantClient(b.assert(signed(t, b.robot, typ("at+jwt"), b.claimsOf("robot"))), "typ")
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("nobody"))), detailUnknown)
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("ci"))), detailUnknown) // method other than the record's
	b.later(time.Minute)
	b.wantClient(b.assert("nonsense"), detailUnknown)
	b.wantClient(b.ask(nil, "audience", testReports, "client_assertion_type", "urn:other", "client_assertion", signed(t, b.robot, es256, b.claimsOf("robot"))), detailMethod)
	b.wantToken(b.assert(signed(t, b.robot, typ("client-authentication+jwt"), b.claimsOf("robot"))), testReports)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot")), "client_id", "robot"), testReports)
}

// A key that the set of a client's jwksUri lacks is told, by where that set comes from; nothing
// else is.
func TestMissedClientKeys(t *testing.T) {
	const uri = "https://robot.example/jwks"
	var missed []string
	b := newBed(t, func(b *bed) {
		o := b.objects()
		for i := range o.Clients {
			if c := &o.Clients[i]; c.Name == "robot" {
				c.JWKS, c.JWKSURI = nil, uri
			}
		}
		w := b.newWorld(o)
		b.world.Store(w)
		b.options.Missed = func(issuer, uri string) { missed = append(missed, issuer+" "+uri) }
	})
	by := func(key *ecdsa.PrivateKey, id string, edits ...map[string]any) reply {
		return b.assert(signed(t, key, map[string]any{"alg": "ES256", "kid": thumbprintID(t, key)}, b.claimsOf(id, edits...)))
	}
	fresh := identitytest.NewKey(t).(*ecdsa.PrivateKey)
	b.wantToken(by(b.robot, "robot"), testReports)
	b.wantClient(b.assert(signed(t, fresh, es256, b.claimsOf("robot"))), "sig")
	b.wantClient(by(fresh, "rival"), "kid") // its keys stand in its record
	b.wantClient(by(fresh, "nobody"), detailUnknown)
	b.wantClient(by(fresh, "ci"), detailUnknown)
	if missed != nil {
		t.Fatalf("missed %q", missed)
	}
	b.wantClient(by(fresh, "robot"), "kid")
	w := *b.world.Load() // before the first retrieval no key is there
	w.ClientKeys = maps.Clone(w.ClientKeys)
	delete(w.ClientKeys, "robot")
	b.world.Store(&w)
	b.wantClient(by(b.robot, "robot"), "kid")
	if want := []string{" " + uri, " " + uri}; !slices.Equal(missed, want) {
		t.Errorf("missed %q, want %q", missed, want)
	}
}

// S4: a client whose clock is five seconds off authenticates itself; one that is two minutes
// ahead is refused, and the record says why.
func TestS4Clocks(t *testing.T) {
	b := newBed(t)
	for _, tc := range []struct {
		off    time.Duration
		detail string
	}{{5 * time.Second, ""}, {-5 * time.Second, ""}, {2 * time.Minute, "iat"}} {
		now := b.now().Add(tc.off).Unix()
		r := b.assert(signed(t, b.robot, es256, b.claimsOf("robot", map[string]any{"iat": now, "exp": now + 60})))
		if tc.detail != "" {
			b.wantClient(r, tc.detail)
			continue
		}
		tok := b.wantToken(r, testReports)
		if at := b.now().Unix(); tok.Issued() > at || tok.Issued() < at-2 { // by the clock of the service
			t.Errorf("client %s off: iat %d at %d", tc.off, tok.Issued(), at)
		}
		b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", map[string]any{"iat": now, "nbf": now, "exp": now + 60}))), testReports)
	}
}

// A2: an assertion counts once.
func TestA2Replay(t *testing.T) {
	b := newBed(t)
	raw := signed(t, b.robot, es256, b.claimsOf("robot"))
	b.wantToken(b.assert(raw), testReports)
	b.wantClient(b.assert(raw), detailReplay)

	t.Run("A2a other replica, and after a restart", func(t *testing.T) {
		other := newBed(t, func(o *bed) {
			o.robot, o.rival = b.robot, b.rival
			o.world.Store(o.newWorld(o.objects()))
			o.options.Store = b.store
		})
		other.wantClient(other.assert(raw), detailReplay)
	})
	t.Run("A2b another client spends the same jti", func(t *testing.T) {
		jti := map[string]any{"jti": "same"}
		b.wantToken(b.assert(signed(t, b.rival, es256, b.claimsOf("rival", jti))), testReports)
		b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti))), testReports)
	})
	t.Run("A2c the same jti with a wrong aud first", func(t *testing.T) {
		jti := map[string]any{"jti": "early"}
		b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti, map[string]any{"aud": "x"}))), "aud")
		b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti))), testReports)
	})
	t.Run("the id is remembered until exp + 10 s, with a lease", func(t *testing.T) {
		kvs, _, err := b.store.List(t.Context(), "token/jti/")
		if err != nil || len(kvs) == 0 {
			t.Fatal(err, len(kvs))
		}
		for _, kv := range kvs {
			if kv.Lease == 0 || len(kv.Value) > 0 {
				t.Errorf("%+v", kv)
			}
		}
	})
}

// A2a: of many at once, through two replicas of the embedded store, one passes.
func TestA2aRace(t *testing.T) {
	st, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: t.TempDir() + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	one := newBed(t, func(b *bed) { b.store.Close(); b.store, b.options.Store = st, st })
	two := newBed(t, func(b *bed) {
		b.robot, b.rival = one.robot, one.rival
		b.world.Store(b.newWorld(b.objects()))
		b.options.Store = st
	})
	for round := range 5 {
		raw := signed(t, one.robot, es256, one.claimsOf("robot"))
		one.client(one.public, nil)
		two.client(two.public, nil)
		var wg sync.WaitGroup
		status := make([]int, 8)
		for i := range status {
			b := one
			if i%2 == 1 {
				b = two
			}
			wg.Go(func() { status[i] = b.assert(raw).status })
		}
		wg.Wait()
		slices.Sort(status)
		if status[0] != 200 || status[1] == 200 {
			t.Fatalf("round %d: %v", round, status)
		}
		one.later(time.Minute)
		two.later(time.Minute)
	}
}

// A lease that the store has lost costs one more, not the request.
func TestA2LostLease(t *testing.T) {
	b := newBed(t)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	for minute := range b.leases.ids {
		b.store.(*store.Mem).Expire(b.leases.ids[minute])
	}
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	b.later(2 * time.Hour)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	if len(b.leases.ids) != 1 {
		t.Errorf("%d leases are kept, of which one is of use", len(b.leases.ids))
	}
}
