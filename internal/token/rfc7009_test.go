package token

import (
	"net/http"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
)

// revokes asks for the end of a token as service name.
func (c *chainBed) revokes(name, raw string) reply {
	c.t.Helper()
	return c.send(c.cert(name), "POST", pathRevoke, formOf("client_id", idOf(name), "token", raw))
}

// logged are the entries in the store.
func (c *chainBed) logged() (out []revocation.Entry) {
	c.t.Helper()
	kvs, _, err := c.store.List(c.t.Context(), RevocationPrefix)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, kv := range kvs {
		e, err := revocation.Decode(kv.Value)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// Revoked by the client it was issued to: durable when the answer comes, written down, and once.
func TestRevocation(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	tok, reason := c.own(&caller{world: c.world.Load(), now: c.now()}, raw)
	if reason != "" {
		t.Fatal(reason)
	}
	r := c.revokes("a", raw)
	if r.status != http.StatusOK || r.raw != "" || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %q %v", r.status, r.raw, r.header)
	}
	logged := c.logged()
	if len(logged) != 1 || logged[0].Kind != revocation.ByJTI || logged[0].Val != tok.ID() || logged[0].Until != tok.Expires()+60 {
		t.Errorf("log %+v", logged)
	}
	rec, err := c.records.Find(r.header.Get("X-Request-Id"))
	if err != nil || rec.Kind != "revoke" || rec.Decision != audit.Allow || rec.JTI != tok.ID() || rec.Object != "jti/"+tok.ID() || rec.ClientID != idOf("a") {
		t.Errorf("record %+v, %v", rec, err)
	}
	c.settle()
	if c.active("b", raw) {
		t.Error("still active")
	}
	if r := c.revokes("a", raw); r.status != http.StatusOK || len(c.logged()) != 1 {
		t.Errorf("again: %d, log %+v", r.status, c.logged())
	}
}

// I5: the token of another client; what is no token; kinds that are not revoked here.
func TestI5Revocation(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	now := c.now().Unix()
	r := c.revokes("b", raw) // its audience, but not its client
	c.want(r, 400, codeRequest, "", "")
	if rec := c.refusal(r); rec.Reason != "presenter" || rec.Kind != "revoke" {
		t.Errorf("record %+v", rec)
	}
	txn := c.sign("txntoken+jwt", map[string]any{"iss": testIssuer, "sub": "x", "aud": "home.test", "exp": now + 60, "iat": now}, nil)
	c.want(c.revokes("a", txn), 400, codeTokenType, textTokenType, "")
	c.want(c.revokes("a", "csk_live_7Kq2m9XbTa_x"), 400, codeTokenType, textTokenType, "")
	c.want(c.revokes("a", ""), 400, codeRequest, textMalformed, "")
	for name, raw := range map[string]string{
		"garbage":    "garbage",
		"expired":    c.signOwn(map[string]any{"exp": now - 1, "iat": now - 300}),
		"forged":     signed(t, c.rival, map[string]any{"alg": "ES256", "kid": c.signer.Key().ID(), "typ": "at+jwt"}, map[string]any{"iss": testIssuer, "sub": idOf("a"), "aud": "x", "exp": now + 60, "iat": now, "jti": "1", "client_id": idOf("a")}),
		"forged txn": signed(t, c.rival, map[string]any{"alg": "ES256", "kid": c.signer.Key().ID(), "typ": "txntoken+jwt"}, map[string]any{"iss": testIssuer, "exp": now + 60}),
		"foreign":    c.signCorp(nil),
	} {
		if r := c.revokes("a", raw); r.status != http.StatusOK || r.raw != "" {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	if n := len(c.logged()); n > 0 {
		t.Errorf("%d entries", n)
	}
	c.wantClient(c.send(nil, "POST", pathRevoke, formOf("token", raw)), detailMethod)
	if !c.active("b", raw) {
		t.Error("revoked by a stranger")
	}
}

// A commit that was lost, or that nobody heard of: 503, and what was written counts.
func TestRevocationNotStored(t *testing.T) {
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		c := newChainBed(t)
		raw := c.first("a", "b")
		was := c.Service.o.Store
		faulty := store.Memory(store.MemoryOptions{Fault: func(store.Txn) store.Outcome { return outcome }})
		defer faulty.Close()
		c.Service.o.Store = faulty
		r := c.revokes("a", raw)
		if r.status != 503 || r.header.Get("Retry-After") == "" || r.text("error") != codeUnavailable || r.text("error_description") != textStore {
			t.Errorf("%d %s", r.status, r.raw)
		}
		c.Service.o.Store = was
		if r := c.revokes("a", raw); r.status != http.StatusOK || len(c.logged()) != 1 {
			t.Errorf("again: %d %s", r.status, r.raw)
		}
	}
}
