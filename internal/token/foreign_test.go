package token

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

// Of a foreign subject: the names it gets, what is carried, and the root of the chain.
func TestForeignSubject(t *testing.T) {
	c := newChainBed(t)
	raw := c.signCorp(map[string]any{"jti": "ext-1", "level": 3, "bad": map[string]any{"a": 1}, "big": strings.Repeat("x", 1<<10), "tenant": "evil", "osub": "evil"})
	r := c.exchange("a", raw, "subject_token_type", typeJWT, "audience", "b")
	tok := c.wantToken(r, idOf("b"))
	sum := sha256.Sum256([]byte(corpIssuer + "\x00ext-1"))
	auth := second(tok.Value("auth_time"))
	want := map[string]any{
		"iss": testIssuer, "sub": "corp:7f3b", "aud": idOf("b"), "exp": tok.Expires(), "iat": tok.Issued(), "jti": tok.ID(), "client_id": idOf("a"),
		"scope": "read", "cnf": map[string]any{"spiffe": idOf("a")}, "act": map[string]any{"sub": idOf("a")}, "sid": "corp:s1",
		"rti": base62(sum[:], 43)[:22], "oat": "jwt", "ocid": idOf("a"), "oiss": corpIssuer, "osub": "7f3b",
		"role": "customer", "groups": []any{"x", "y"}, "level": int64(3), "auth_time": auth, "acr": "gold", "amr": []any{"pwd", "mfa"},
	}
	if got := tok.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("claims\n%v, want\n%v", got, want)
	}
	// They travel on, and the name that a record shows is no person's.
	next, _ := c.next("b", r.text("access_token"), "c")
	for _, name := range []string{"sub", "sid", "rti", "oat", "ocid", "oiss", "osub", "role", "groups", "level", "auth_time", "acr", "amr"} {
		if got := second(next.Value(name)); !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s became %v", name, got)
		}
	}
	if !slices.Equal(next.Ancestors(), []string{tok.ID()}) || !slices.Equal(next.Actors(), []string{idOf("b"), idOf("a")}) {
		t.Errorf("ancestors %v, actors %v", next.Ancestors(), next.Actors())
	}
	rec, err := c.records.Find(r.header.Get("X-Request-Id"))
	if err != nil || strings.Contains(rec.Sub, "7f3b") {
		t.Errorf("record %+v, %v", rec, err)
	}
	// Without jti the first token is the root.
	tok = c.wantToken(c.exchange("a", c.signCorp(map[string]any{"jti": nil}), "subject_token_type", typeJWT, "audience", "b"), idOf("b"))
	if tok.Root() != tok.ID() {
		t.Errorf("rti %q, jti %q", tok.Root(), tok.ID())
	}
}

// X7: too many claims are left behind.
func TestX7Carried(t *testing.T) {
	var carry []string
	for i := range 20 {
		carry = append(carry, fmt.Sprintf("c%d", i))
	}
	c := newChainBed(t, func(o *grant.Objects) { o.Issuers[0].Carry = append(carry, "act", "scope") })
	edits := map[string]any{"act": map[string]any{"sub": "evil"}, "scope": "read"}
	for _, name := range carry {
		edits[name] = true
	}
	tok := c.wantToken(c.exchange("a", c.signCorp(edits), "subject_token_type", typeJWT, "audience", "b"), idOf("b"))
	n := 0
	for name := range tok.Values() {
		if !slices.Contains(reserved, name) {
			n++
		}
	}
	if n != maxCarried || !slices.Equal(tok.Actors(), []string{idOf("a")}) {
		t.Errorf("%d claims carried, actors %v", n, tok.Actors())
	}
}

// Foreign tokens that are refused: by issuer, key, form, audience, presenter.
func TestForeignRefused(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) {
		other := o.Issuers[0]
		other.Name, other.Issuer, other.Uses = "edge", "https://edge.example", []grant.Use{grant.UseRequest}
		bare := o.Issuers[0]
		bare.Name, bare.Issuer, bare.Audiences = "bare", "https://bare.example", nil
		gone := o.Issuers[0]
		gone.Name, gone.Issuer = "gone", "https://gone.example"
		mail := o.Issuers[0]
		mail.Name, mail.Issuer, mail.SubjectClaim = "mail", "https://mail.example", "email"
		o.Issuers = append(o.Issuers, other, bare, gone, mail)
	})
	w := *c.world.Load()
	w.Foreign = maps.Clone(w.Foreign)
	for _, iss := range []string{"https://edge.example", "https://bare.example", "https://mail.example"} {
		w.Foreign[iss] = w.Foreign[corpIssuer]
	}
	c.world.Store(&w)
	now := c.now().Unix()
	for name, test := range map[string]struct {
		by             string
		edits          map[string]any
		reason, detail string
	}{
		"unknown issuer":      {"a", map[string]any{"iss": "https://unknown.example"}, codeRequest, "iss"},
		"no use subject":      {"a", map[string]any{"iss": "https://edge.example"}, codeRequest, "iss"},
		"no audiences":        {"a", map[string]any{"iss": "https://bare.example"}, codeRequest, "iss"},
		"no keys":             {"a", map[string]any{"iss": "https://gone.example"}, codeRequest, "kid"},
		"issuer with slash":   {"a", map[string]any{"iss": corpIssuer + "/"}, codeRequest, "iss"},
		"other audience":      {"a", map[string]any{"aud": "https://other.example"}, codeRequest, "aud"},
		"no audience":         {"a", map[string]any{"aud": nil}, codeRequest, "aud"},
		"expired":             {"a", map[string]any{"exp": now - 1}, codeRequest, "exp"},
		"no end":              {"a", map[string]any{"exp": nil}, codeRequest, "exp"},
		"too long a life":     {"a", map[string]any{"exp": now + 90000}, codeRequest, "lifetime"},
		"no sub":              {"a", map[string]any{"sub": nil}, codeRequest, "claims"},
		"empty sub":           {"a", map[string]any{"sub": ""}, codeRequest, "claims"},
		"long sub":            {"a", map[string]any{"sub": strings.Repeat("x", maxSubject+1)}, codeRequest, "claims"},
		"sid a number":        {"a", map[string]any{"sid": 7}, codeRequest, "claims"},
		"no such claim":       {"a", map[string]any{"iss": "https://mail.example"}, codeRequest, "claims"},
		"claim of a list":     {"a", map[string]any{"iss": "https://mail.example", "email": []string{"x"}}, codeRequest, "claims"},
		"not the audience":    {"b", nil, "presenter", ""},
		"client_id is no tie": {"b", map[string]any{"client_id": idOf("b"), "azp": idOf("b")}, "presenter", ""},
	} {
		r := c.exchange(test.by, c.signCorp(test.edits), "subject_token_type", typeJWT, "audience", "c")
		if rec := c.refusal(r); rec.Reason != test.reason || rec.Detail != test.detail {
			t.Errorf("%s: %q %q, want %q %q (%s)", name, rec.Reason, rec.Detail, test.reason, test.detail, r.raw)
		}
		if r.text("error") != codeRequest || r.text("error_description") != textSubject {
			t.Errorf("%s: %s", name, r.raw)
		}
	}
	tok := c.wantToken(c.exchange("a", c.signCorp(map[string]any{"iss": "https://mail.example", "email": "x@corp"}), "subject_token_type", typeJWT, "audience", "b"), idOf("b"))
	if _, osub := tok.Upstream(); tok.Subject() != "mail:x@corp" || osub != "7f3b" {
		t.Errorf("sub %q, osub %q", tok.Subject(), osub)
	}
	// DelegationPolicy asks of the upstream issuer and the mapped subject.
	c.o.Delegations[0].SubjectIssuers, c.o.Delegations[0].Subjects = []string{corpIssuer}, []string{"corp:7*"}
	c.useWorld()
	if r := c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", "b"); r.status != 200 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	c.wantRefusal(c.exchange("a", c.signCorp(map[string]any{"sub": "8"}), "subject_token_type", typeJWT, "audience", "b"), codeRequest, textDelegation, "delegation", "")
	c.wantRefusal(c.exchange("b", c.first("a", "b"), "audience", "c"), codeRequest, textDelegation, "delegation", "")
}

// A key that the set of an issuer lacks is told, by where that set comes from.
func TestMissedIssuerKeys(t *testing.T) {
	var missed []string
	c := newChainBed(t, func(o *grant.Objects) { o.Issuers[0].JWKSURI = "https://login.corp.example/keys" })
	c.Service.o.Missed = func(issuer, uri string) { missed = append(missed, issuer+" "+uri) }
	present := func() { c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", "b") }
	if present(); missed != nil {
		t.Fatalf("missed %q", missed)
	}
	c.corp = c.robot // rotated
	if present(); !slices.Equal(missed, []string{corpIssuer + " https://login.corp.example/keys"}) {
		t.Errorf("missed %q", missed)
	}
}

// Decision 7: an exchange needs no store.
func TestS2ExchangeWithoutStore(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	if err := c.store.Close(); err != nil {
		t.Fatal(err)
	}
	c.next("b", raw, "c")
	if r := c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", "b"); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.raw)
	}
}

// S5: no log, no record and no answer holds what was sent to be exchanged, asked about or revoked.
func TestS5Exchange(t *testing.T) {
	c := newChainBed(t)
	var log, answers strings.Builder
	c.Service.o.Log = slog.New(slog.NewTextHandler(&log, nil))
	good, corp := c.first("a", "b"), c.signCorp(nil)
	canaries := []string{good, corp, good[strings.LastIndexByte(good, '.'):], "canary-7Kq2m9XbTa"}
	for _, raw := range append(canaries, "csk_canary-7Kq2m9XbTa") {
		answers.WriteString(c.introspects("c", raw).raw)
		answers.WriteString(c.revokes("b", raw).raw)
		for _, pairs := range [][]string{
			{"audience", "canary-7Kq2m9XbTa"}, {"audience", "c", "scope", "canary-7Kq2m9XbTa"}, {"subject_token_type", typeJWT}, {"subject_token_type", raw},
			{"audience", "c", "actor_token", raw, "actor_token_type", typeAccess}, {"requested_token_type", raw},
		} {
			answers.WriteString(c.exchange("b", raw, pairs...).raw)
		}
	}
	answers.WriteString(c.exchange("a", corp, "subject_token_type", typeJWT, "audience", "canary-7Kq2m9XbTa").raw)
	c.store.Close()
	answers.WriteString(c.revokes("a", good).raw)
	if err := c.records.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(c.dir)
	if err != nil || len(files) == 0 || !strings.Contains(log.String(), "revoking a token") {
		t.Fatalf("%d files of records, %v; log %q", len(files), err, log.String())
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(c.dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		log.Write(text)
	}
	log.WriteString(answers.String())
	for _, canary := range canaries {
		if at := strings.Index(log.String(), canary); at >= 0 {
			t.Errorf("%.20q… stands in %.200q", canary, log.String()[max(0, at-100):])
		}
	}
}
