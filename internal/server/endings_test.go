package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/token"
)

const open = "https://open.example" // takes unbound tokens

func openDoc() string {
	return kindDoc("OAuthResource", "open", "default", `{audience: "`+open+`", allowBearer: true}`)
}

// secretDoc is a client of audience open that proves itself by a secret, with more in its spec.
func secretDoc(name, ns, id, more string) string {
	return kindDoc("OAuthClient", name, ns, `{clientId: "`+id+`", auth: client_secret, targets: [{audience: "`+open+`"}]`+more+`}`)
}

func bySecret(id, secret string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
}

func (r *running) verdict(token string) admin.TokenVerdict {
	return do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{token}}).Verdicts[0]
}

// revokedIn are the entries of the log that one revision made, as kind and value.
func (p *place) revokedIn(rev int64) map[string]bool {
	p.t.Helper()
	kvs, _, err := p.st.List(p.t.Context(), token.RevocationPrefix)
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, kv := range kvs {
		e, err := revocation.Decode(kv.Value)
		if err != nil {
			p.t.Fatal(err)
		}
		if e.Before <= e.At { // until the world is known tokens are issued by the old one
			p.t.Errorf("entry %+v ends with the second it was made in", e)
		}
		if kv.Mod == rev {
			out[e.Kind+" "+e.Val] = true
		}
	}
	return out
}

// Whoever takes a client's name later has neither its secrets nor its tokens: they end in the
// revision that changes the client, so that no crash leaves them behind.
func TestSecNameOfAClientIsLeftEmpty(t *testing.T) {
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := jose.NewKey(signing.Public())
	if err != nil {
		t.Fatal(err)
	}
	set, err := jose.NewSet(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	keyed := kindDoc("OAuthClient", "q1", "default", `{clientId: gamma, auth: private_key_jwt, jwks: `+string(keys)+`, targets: [{audience: "`+open+`"}]}`)
	was := secretDoc("q1", "default", "gamma", "")
	for name, c := range map[string]struct {
		batches [][]string
		removes bool // q1, first of all
	}{
		"renamed, taken later":       {batches: [][]string{{secretDoc("q1", "default", "delta", "")}, {secretDoc("q2", "default", "gamma", "")}}},
		"renamed and taken at once":  {batches: [][]string{{secretDoc("q1", "default", "delta", ""), secretDoc("q2", "default", "gamma", "")}}},
		"taken by another namespace": {batches: [][]string{{secretDoc("q1", "default", "delta", ""), secretDoc("q1", "shop", "gamma", "")}}},
		"another method and back":    {batches: [][]string{{keyed}, {was}}},
		"an identity and back": {batches: [][]string{
			{kindDoc("OAuthClient", "q1", "default", `{clientId: gamma, spiffeId: "`+web+`", targets: [{audience: "`+open+`"}]}`)}, {was}}},
		"deleted and made anew": {removes: true, batches: [][]string{{was}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			r := p.run()
			r.applied(openDoc(), was)
			secret := do(r, r.rotateClient, admin.ClientRotate{Name: "q1"}).Secret
			old := r.token(r.client(""), r.Issuer(), bySecret("gamma", secret))
			if old.status != 200 {
				t.Fatalf("before: %d %s", old.status, old.raw)
			}
			var ended int64
			if c.removes {
				ended = do(r, r.remove, admin.DeleteRequest{Refs: []admin.Ref{{Kind: "OAuthClient", Namespace: "default", Name: "q1"}}}).Revision
			}
			for _, docs := range c.batches {
				if rev := r.applied(docs...).Revision; ended == 0 {
					ended = rev
				}
			}
			if got := p.revokedIn(ended); !got["client gamma"] {
				t.Errorf("revision %d revokes %v", ended, got)
			}
			if got := r.token(r.client(""), r.Issuer(), bySecret("gamma", secret)); got.Error != "invalid_client" {
				t.Errorf("the old secret: %d %s", got.status, got.raw)
			}
			until(t, "the old token to be refused", func() bool { return r.verdict(old.Token).Reason == "revoked" })
		})
	}
}

// What changes neither name nor identity nor method ends nothing.
func TestClientKeepsItsSecret(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	r.applied(openDoc(), secretDoc("q1", "default", "gamma", ""))
	secret := do(r, r.rotateClient, admin.ClientRotate{Name: "q1"}).Secret
	for _, more := range []string{"", ", ttl: 60s", ", claims: {tier: gold}"} {
		if got := p.revokedIn(r.applied(secretDoc("q1", "default", "gamma", more)).Revision); len(got) > 0 {
			t.Errorf("%q revokes %v", more, got)
		}
		if got := r.token(r.client(""), r.Issuer(), bySecret("gamma", secret)); got.status != 200 || !r.verdict(got.Token).OK {
			t.Errorf("%q: %d %s", more, got.status, got.raw)
		}
	}
}

// An identity that a client gives up loses its tokens, by either of its names; so does a workload
// that gets its first record, where that disables it, and one that becomes another.
func TestIdentitiesEnd(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	r.applied(reportsDoc())
	mine := r.token(r.client(web), r.tokens.mtlsURL, asWorkload(web))
	if !r.verdict(mine.Token).OK {
		t.Fatalf("an implicit client: %d %s", mine.status, mine.raw)
	}
	spec := func(id, more string) string {
		return kindDoc("OAuthClient", "w", "default", `{clientId: w, spiffeId: "`+id+`", targets: [{audience: "`+reports+`"}]`+more+`}`)
	}
	both := map[string]bool{"client w": true, "client " + web: true}
	if got := p.revokedIn(r.applied(spec(web, ", disabled: true")).Revision); fmt.Sprint(got) != fmt.Sprint(both) {
		t.Errorf("disabled by its first record: %v", got)
	}
	until(t, "the implicit client's token to be refused", func() bool { return r.verdict(mine.Token).Reason == "revoked" })
	if got := p.revokedIn(r.applied(spec(web, "")).Revision); len(got) > 0 {
		t.Errorf("enabled: %v", got)
	}
	if got := p.revokedIn(r.applied(spec("spiffe://cluster.local/ns/default/sa/other", "")).Revision); fmt.Sprint(got) != fmt.Sprint(both) {
		t.Errorf("another identity: %v", got)
	}
	r.applied(workloadDoc("web", "default", `{selectors: ["unix:uid:1"], nodes: any}`))
	if got := p.revokedIn(r.applied(workloadDoc("web", "default", `{selectors: ["unix:uid:2"], nodes: any}`)).Revision); len(got) > 0 {
		t.Errorf("a workload as before: %v", got)
	}
	if got := p.revokedIn(r.applied(workloadDoc("web", "default", `{serviceAccount: other, selectors: ["unix:uid:1"], nodes: any}`)).Revision); !got["client "+web] {
		t.Errorf("a workload that is another now: %v", got)
	}
}

// What ends with the objects counts towards their transaction.
func TestTooManyEndings(t *testing.T) {
	r := newPlace(t).run()
	r.applied(openDoc())
	var refs []admin.Ref
	for i := range 40 {
		name := fmt.Sprintf("c%d", i)
		r.applied(secretDoc(name, "default", name, ""))
		refs = append(refs, admin.Ref{Kind: "OAuthClient", Namespace: "default", Name: name})
	}
	before := r.revision()
	for _, dry := range []bool{true, false} {
		_, err := r.remove(t.Context(), admin.DeleteRequest{Refs: refs, DryRun: dry})
		if p, ok := err.(*admin.Problem); !ok || p.Code != "too_large" || p.Message != "deleting 40 objects: 40 objects and 80 records that go with them would change, at most 100 do at once; nothing was changed" {
			t.Errorf("got %v", err)
		}
	}
	if r.revision() != before {
		t.Error("something was changed")
	}
	do(r, r.remove, admin.DeleteRequest{Refs: refs[:33]})
}

// The object that was there first keeps a name, whatever the names; the fault stands at the new
// one, in its file.
func TestNewObjectIsAtFault(t *testing.T) {
	r := newPlace(t).run()
	r.applied(openDoc(), secretDoc("zzz", "zzz", "taken", ""), secretDoc("free", "aaa", "free", ""),
		kindDoc("TrustedIssuer", "corp", "istio-system", `{issuer: "https://corp.example", jwksUri: "https://corp.example/keys", uses: [request]}`),
		secretDoc("user", "zzz", "hr:alice", ""))
	first := policyDoc("p", "shop", "{}")
	line := strings.Count(first, "\n") + 1
	for name, c := range map[string]struct{ doc, id, says string }{
		"a new object":      {secretDoc("aaa", "aaa", "taken", ""), "OAuthClient/aaa/aaa", "namespace zzz"},
		"a changed object":  {secretDoc("free", "aaa", "taken", ""), "OAuthClient/aaa/free", "namespace zzz"},
		"a new audience":    {kindDoc("OAuthResource", "aaa", "aaa", `{audience: "`+open+`"}`), "OAuthResource/aaa/aaa", "namespace default"},
		"an issuer's alias": {kindDoc("TrustedIssuer", "hr", "istio-system", `{issuer: "https://hr.example", jwksUri: "https://hr.example/keys", uses: [request]}`), "TrustedIssuer/istio-system/hr", "namespace zzz"},
	} {
		p := r.refused(first + c.doc)
		if p == nil || len(p.Faults) != 1 {
			t.Errorf("%s: got %+v", name, p)
			continue
		}
		f := p.Faults[0]
		if f.Resource != c.id || !strings.Contains(f.Text, c.says) || f.File != "a.yaml" || f.Line != line || p.Message != "applying a.yaml: 1 fault; nothing was changed" {
			t.Errorf("%s: got %s, %+v", name, p.Message, f)
		}
	}
}

// What cannot work is told to whoever applies it, each time, and stands with the client.
func TestClientWarnings(t *testing.T) {
	r := newPlace(t).run()
	doc := kindDoc("OAuthClient", "w", "default", `{spiffeId: "`+web+`", targets: [{audience: "`+reports+`", scopes: ["reports:reed"], attach: true}, {audience: "https://none.example"}]}`)
	for range 2 {
		var codes []string
		for _, f := range r.applied(reportsDoc(), doc).Warnings {
			codes = append(codes, f.Code)
			if f.Severity != "warning" || f.Resource != "OAuthClient/default/w" || f.File != "b.yaml" || f.Line != 1 {
				t.Errorf("got %+v", f)
			}
		}
		if got := strings.Join(codes, " "); got != "W-scope W-attach W-audience" {
			t.Errorf("warned of %s", got)
		}
	}
	var many strings.Builder
	for i := range 40 {
		many.WriteString(kindDoc("OAuthClient", fmt.Sprintf("m%d", i), "default", `{auth: private_key_jwt, jwksUri: "https://ci.example/keys", targets: [`+strings.Repeat(`{audience: "https://none.example/N"}, `, 6)+`]}`))
	}
	q := applyOf(true, numbered(many.String()))
	q.DryRun = true
	if got := do(r, r.apply, q).Warnings; len(got) != maxWarnings+1 || got[maxWarnings].Text != "and 40 more" {
		t.Errorf("%d warnings of many clients", len(got))
	}
	if notes := do(r, r.listClients, admin.ClientQuery{Name: "w"}).Clients[0].Notes; len(notes) != 3 {
		t.Errorf("notes: %q", notes)
	}
}

// numbered makes every N of a text another number.
func numbered(s string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, "/N") {
		if i > 0 {
			fmt.Fprintf(&b, "/%d", i)
		}
		b.WriteString(part)
	}
	return b.String()
}
