package bearer

import (
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
)

// TestChecksAreShared: a revision that changes nothing of a check leaves what was verified by it
// in the cache; one that does finds nothing there.
func TestChecksAreShared(t *testing.T) {
	w := newWorld(t)
	source := Source{Issuer: foreignID, URI: "https://id/keys"}
	w.foreign[source] = w.id.set()
	w.issuers = []grant.Issuer{{Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Uses: []grant.Use{grant.UseRequest}}}
	attached := []policy.TokenRule{{Issuer: foreignID, JWKSURI: source.URI}, {Issuer: "https://idb", JWKS: w.id.jwks(), Audiences: []string{"a"}}}
	checks := func(r *Rules) (out []*jose.Check) {
		for _, n := range r.rules {
			out = append(out, n.check)
		}
		return out
	}
	first := checks(w.rules(attached...))
	if len(first) != 4 {
		t.Fatalf("%d rules", len(first))
	}
	for range 3 { // key sets made anew from the same keys, and a Book that nobody asked
		w.foreign[source] = w.id.set()
		for i, c := range checks(w.rules(attached...)) {
			if c != first[i] {
				t.Fatalf("check %d was made anew", i)
			}
		}
	}
	for name, change := range map[string]func(){
		"issuer's keys":  func() { w.foreign[source] = w.corp.set() },
		"rule's keys":    func() { attached[1].JWKS = w.corp.jwks() },
		"our keys":       func() { w.own = newKey(t) },
		"record's keys":  func() { w.issuers[0].JWKS = w.id.jwks() },
		"record's clock": func() { w.issuers[0].ClockSkew = time.Second },
		"audience":       func() { attached[1].Audiences = []string{"b"} },
		"split claims":   func() { attached[1].Split = []string{"roles"} },
		"keys are gone":  func() { delete(w.foreign, source) },
	} {
		before := checks(w.rules(attached...))
		change()
		changed := 0
		for i, c := range checks(w.rules(attached...)) {
			if c != before[i] {
				changed++
			}
		}
		if changed != 1 {
			t.Errorf("%s: %d checks were made anew, want 1", name, changed)
		}
	}
}

// TestChecksEnd: a check that no workload uses any more goes with the next revision.
func TestChecksEnd(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		w.rules(w.r(func(r *policy.TokenRule) { r.Audiences = []string{string(rune('a' + i))} }))
	}
	if n := len(w.book.checks) + len(w.book.older); n > 4 {
		t.Errorf("%d checks are kept", n)
	}
}

// TestSecLimitsNoLockout is R17: who sends signatures that do not hold is soon not checked any
// more, and nobody else notices.
func TestSecLimitsNoLockout(t *testing.T) {
	w := newWorld(t)
	r := w.rules(w.r())
	garbage := newKey(t).sign(`{"alg":"ES256","kid":"`+w.own.kid()+`","typ":"at+jwt"}`, payload(t, claims{"iss": ourIssuer, "aud": orders, "exp": now.Unix() + 300, "iat": now.Unix()}))
	before := w.own.ours()
	accepted(t, r.Authenticate(w.get("/", bearer(before))))
	bound := func(id string) string { return w.own.ours(claims{"cnf": claims{"spiffe": id}, "jti": "x"}) }
	seen := bound(thief)
	q := w.get("/", bearer(seen))
	q.Presenter.ID = thief
	accepted(t, r.Authenticate(q))
	send := func(id string, at time.Time) *Refusal {
		q := w.get("/", bearer(garbage))
		q.Presenter.ID, q.Now = id, at
		return r.Authenticate(q).Refused
	}
	const tooMany = "too many failed signatures"
	checked := 0
	for range 100_000 {
		no := send(thief, now)
		if no == nil || no.Status != 401 || no.Reason != "sig" {
			t.Fatalf("%+v", no)
		}
		if no.Detail != tooMany {
			checked++
		}
	}
	if checked != failedBurst {
		t.Errorf("%d signatures were checked in the first second, want %d", checked, failedBurst)
	}
	q = w.get("/", bearer(bound(thief)))
	q.Presenter.ID = thief
	if no := r.Authenticate(q).Refused; no == nil || no.Detail != tooMany {
		t.Errorf("a new token of the one out of budget: %+v", no)
	}
	q = w.get("/", bearer(seen))
	q.Presenter.ID = thief
	accepted(t, r.Authenticate(q)) // its own, verified before
	accepted(t, r.Authenticate(w.get("/", bearer(before))))
	accepted(t, r.Authenticate(w.get("/", bearer(bound(checkout)))))

	// The budget lives on in the next Book, and fills again by the second.
	r = w.rules(w.r())
	if no := send(thief, now); no.Detail != tooMany {
		t.Errorf("a new revision gave a new budget: %+v", no)
	}
	checked = 0
	for range 300 {
		if send(thief, now.Add(time.Second)).Detail != tooMany {
			checked++
		}
	}
	if checked != failedRate {
		t.Errorf("%d were checked in the next second, want %d", checked, failedRate)
	}
	if no := send("", now.Add(time.Second)); no.Detail == tooMany {
		t.Error("those without identity share the budget of one who has one")
	}
}

// TestBudgetBounds: however many peers fail, few are remembered, and none gets more than its due.
func TestBudgetBounds(t *testing.T) {
	var f failures
	name := func(i int) string { return string([]rune{'p', rune(i + 1)}) }
	for i := range 3 * failedPeers {
		f.add(name(i), now)
	}
	if len(f.peers) > failedPeers {
		t.Errorf("%d peers are remembered", len(f.peers))
	}
	later := now.Add(3 * time.Second)
	f.add("new", later)
	if len(f.peers) != 1 {
		t.Errorf("%d peers are remembered though all but one have their budget again", len(f.peers))
	}
	for range 2 * failedBurst {
		f.add("new", later)
	}
	for after, want := range map[time.Duration]bool{0: true, -time.Hour: true, time.Second: false, 1e6 * time.Hour: false} {
		if got := f.spent("new", later.Add(after)); got != want {
			t.Errorf("after %v: spent %t", after, got)
		}
	}
	f.add("new", later.Add(1e6*time.Hour))
	if a := f.peers["new"]; a.left != failedBurst-1 {
		t.Errorf("after a long time %d are left, want %d", a.left, failedBurst-1)
	}
}

// TestBareBook: a node that knows nothing yet leaves everything alone.
func TestBareBook(t *testing.T) {
	w := newWorld(t)
	r := NewBook(Facts{}, nil).For(Workload{ID: orders, Service: "shop/orders"})
	for _, line := range []string{bearer(w.own.ours()), "Authorization: DPoP " + w.own.ours(), "Cookie: a=" + w.own.ours()} {
		q := w.get("/", line)
		q.Cache = nil
		untouched(t, q, r.Authenticate(q), line)
	}
	// With an issuer and no keys, own tokens are refused.
	r = NewBook(Facts{Issuer: ourIssuer}, nil).For(Workload{ID: orders, Service: "shop/orders"})
	q := w.get("/", bearer(w.own.ours()))
	q.Cache = nil
	refused(t, r.Authenticate(q), jose.KeyID)
}

// TestRetrievedKeysEnd: keys that nobody has retrieved anew until their end count no longer,
// not for a token that was verified before either; a Book with a later end takes it again.
func TestRetrievedKeysEnd(t *testing.T) {
	w := newWorld(t)
	attachedTo, trusted := Source{Issuer: foreignID, URI: "https://id/keys"}, Source{Issuer: corp, URI: "https://corp/keys"}
	w.foreign[attachedTo], w.foreign[trusted] = w.id.set(), w.corp.set()
	w.issuers = []grant.Issuer{{Name: "corp", Namespace: "shop", Issuer: corp, JWKSURI: trusted.URI, Uses: []grant.Use{grant.UseRequest}}}
	w.until = now.Add(time.Minute)
	rule := policy.TokenRule{Issuer: foreignID, JWKSURI: attachedTo.URI, Headers: []policy.TokenHeader{{Name: "x-jwt"}}}
	for name, line := range map[string]string{
		"attached": "X-Jwt: " + w.id.foreign(), "built in": bearer(w.corp.foreign(claims{"iss": corp, "aud": orders})),
	} {
		for _, cache := range []*jose.Cache{nil, jose.NewCache(1 << 20)} {
			r := w.rules(rule)
			at := func(when time.Time) Outcome {
				q := w.get("/", line)
				q.Now, q.Cache = when, cache
				return r.Authenticate(q)
			}
			accepted(t, at(w.until.Add(-time.Nanosecond)))
			out := at(w.until)
			if out.Refused == nil || out.Refused.Status != 401 || out.Refused.Reason != string(jose.KeyID) || out.Token != nil || out.Missed != nil {
				t.Errorf("%s at the end: %+v", name, out)
			}
			w.until = w.until.Add(time.Hour)
			r = w.rules(rule)
			accepted(t, at(w.until.Add(-time.Hour)))
			w.until = now.Add(time.Minute)
		}
	}
	w.until = time.Time{} // a set that says no end has ended
	if out := w.rules(rule).Authenticate(w.get("/", "X-Jwt: "+w.id.foreign())); out.Refused == nil || out.Refused.Text != textKeys {
		t.Errorf("no end: %+v", out)
	}
}

func TestOwnKeys(t *testing.T) {
	w := newWorld(t)
	if got := w.open().OwnKeys(); len(got) != 1 || got[0] != w.own.kid() {
		t.Errorf("got %q, want %q", got, w.own.kid())
	}
	if got := (*Book)(nil).OwnKeys(); got != nil {
		t.Errorf("no book has %q", got)
	}
}
