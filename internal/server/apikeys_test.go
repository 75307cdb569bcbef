package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/apikey"
	"countersign.dev/internal/control"
)

func mintKey(t testing.TB) apikey.Key {
	t.Helper()
	k, err := apikey.Mint(rand.Reader, apikey.Live)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keyDoc is an APIKey of a namespace with these secrets, for audience api, with more in its spec.
func keyDoc(name, ns, more string, secrets ...apikey.Secret) string {
	var list []string
	for _, s := range secrets {
		list = append(list, fmt.Sprintf("{id: %s, sha256: %s}", s.ID, s.SHA256))
	}
	return kindDoc("APIKey", name, ns, fmt.Sprintf("{env: live, secrets: [%s], owner: 'spiffe://cluster.local/ns/%s/sa/billing', expires: %s%s}",
		strings.Join(list, ", "), ns, time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339), more))
}

// key create, rotate and revoke: each secret is told once, what goes is revoked in the revision that ends it, and
// neither store, records nor get ever hold a secret.
func TestKeyLife(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	made := do(r, r.createKey, admin.KeyCreate{Name: "partner", Audiences: []string{"api"}, Scopes: []string{"orders:read"}, Owner: "billing", CIDRs: []string{"203.0.113.7"}})
	key, err := apikey.Parse([]byte(made.Secret))
	if err != nil || key.ID() != made.ID || made.Owner != "spiffe://cluster.local/ns/default/sa/billing" || len(made.Notes) == 0 {
		t.Fatalf("%+v, %v", made, err)
	}
	set := func() *apikey.Set { return r.world.load().apiKeys }
	source := netip.MustParseAddr("203.0.113.7")
	if v, err := set().Check([]byte(made.Secret), apikey.Live, source, time.Now()); err != nil || v.Record.Principal() != "key:default:partner" {
		t.Fatalf("%+v, %v", v, err)
	}
	again := do(r, r.rotateKey, admin.KeyRotate{Name: "partner", Overlap: time.Hour})
	if again.Before != made.ID || again.Until.IsZero() || again.ID == made.ID {
		t.Errorf("%+v", again)
	}
	for _, s := range []string{made.Secret, again.Secret} {
		if _, err := set().Check([]byte(s), apikey.Live, source, time.Now()); err != nil {
			t.Errorf("in the overlap: %v", err)
		}
	}
	rows := do(r, r.listKeys, admin.KeyQuery{}).Keys
	if len(rows) != 2 || rows[0].ID != made.ID || rows[0].Until.IsZero() || rows[1].ID != again.ID || rows[1].State != "active" || rows[0].CreatedBy == "" {
		t.Errorf("%+v", rows)
	}
	if _, err := r.revokeKey(t.Context(), admin.KeyRevoke{ID: made.ID}); code(err) != "needs_yes" {
		t.Errorf("revoked without a second word: %v", err)
	}
	rev := do(r, r.revokeKey, admin.KeyRevoke{ID: made.ID, Confirmed: true}).Revision
	if got := p.revokedIn2(rev); !got["rti key:"+made.ID] || got["sub key:default:partner"] {
		t.Errorf("revoked %v", got)
	}
	if _, err := set().Check([]byte(made.Secret), apikey.Live, source, time.Now()); !errors.Is(err, apikey.ErrKey) {
		t.Errorf("a revoked secret: %v", err)
	}
	if _, err := set().Check([]byte(again.Secret), apikey.Live, source, time.Now()); err != nil {
		t.Errorf("the other one: %v", err)
	}
	states := do(r, r.findKeys, admin.KeyFind{IDs: []string{made.ID, again.ID, "0000000000"}}).States
	if states[made.ID] != "revoked" || states[again.ID] != "active" || states["0000000000"] != "unknown" {
		t.Errorf("%v", states)
	}
	if _, err := r.createKey(t.Context(), admin.KeyCreate{Name: "partner", Audiences: []string{"api"}}); code(err) != "exists" {
		t.Errorf("made twice: %v", err)
	}
	rev = do(r, r.revokeKey, admin.KeyRevoke{ID: again.ID, Confirmed: true}).Revision
	if got := p.revokedIn2(rev); !got["rti key:"+again.ID] || !got["sub key:default:partner"] {
		t.Errorf("with the last secret: revoked %v", got)
	}
	if _, err := r.listKeys(t.Context(), admin.KeyQuery{Name: "partner"}); code(err) != "not_found" {
		t.Errorf("a key without secrets: %v", err)
	}
	if got := do(r, r.findKeys, admin.KeyFind{IDs: []string{again.ID}}).States[again.ID]; got != "revoked" {
		t.Errorf("what is deleted is %s", got)
	}
	kvs, _, err := p.st.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		for _, s := range []string{made.Secret, again.Secret} {
			if strings.Contains(string(kv.Value), s[20:63]) {
				t.Errorf("the store holds a secret in %s", kv.Key)
			}
		}
	}
}

func (p *place) revokedIn2(rev int64) map[string]bool {
	p.t.Helper()
	kvs, _, err := p.st.List(p.t.Context(), "token/revocations/")
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, kv := range kvs {
		for _, kind := range []string{"rti", "sub"} {
			if i := strings.Index(string(kv.Value), `"key:`); kv.Mod == rev && i >= 0 && strings.Contains(string(kv.Value), `"`+kind+`"`) {
				val, _, _ := strings.Cut(string(kv.Value)[i+1:], `"`)
				out[kind+" "+val] = true
			}
		}
	}
	return out
}

// What apply refuses of an APIKey, and what it warns of (tokens.md 14.2).
func TestKeyFaults(t *testing.T) {
	r := newPlace(t).run()
	a, b := mintKey(t).Secret(nil), mintKey(t).Secret(nil)
	r.applied(keyDoc("first", "shop", ", audiences: [api]", a),
		kindDoc("OAuthResource", "ledger", "bank", `{audience: "https://ledger.example", scopes: [{name: read}, {name: write}], grantTo: [{namespace: shop, scopes: [read]}]}`))
	audience := func(more string) string { return `, audiences: ["https://ledger.example"]` + more }
	for name, c := range map[string]struct{ doc, code string }{
		"id of another":                 {keyDoc("second", "shop", ", audiences: [api]", a), "E113"},
		"id of another namespace":       {keyDoc("second", "bank", ", audiences: [api]", a), "E308"},
		"owner of another namespace":    {strings.Replace(keyDoc("second", "shop", ", audiences: [api]", b), "ns/shop/sa", "ns/bank/sa", 1), "E308"},
		"reaches nothing":               {keyDoc("second", "shop", "", b), "E224"},
		"route of another namespace":    {keyDoc("second", "shop", ", routes: [bank/a]", b), "E308"},
		"audience without consent":      {keyDoc("second", "front", audience(""), b), "E308"},
		"scope without consent":         {keyDoc("second", "shop", audience(", scopes: [read, write]"), b), "E308"},
		"audience and scope by consent": {keyDoc("second", "shop", audience(", scopes: [read]"), b), ""},
		"service of another namespace":  {keyDoc("second", "shop", ", audiences: [api.bank]", b), "E308"},
	} {
		p := r.refused(strings.TrimSuffix(c.doc, "\n"))
		if c.code == "" && p != nil || c.code != "" && !has(p, c.code) {
			t.Errorf("%s: %+v", name, p)
		}
		if p == nil {
			r.deleted("APIKey", "shop", "second")
		}
	}
	if p := r.refused(keyDoc("one", "shop", ", audiences: [api]", b), keyDoc("two", "shop", ", audiences: [api]", b)); !has(p, "E113") {
		t.Errorf("one id twice in a batch: %+v", p.Faults)
	}
	r.applied(keyDoc("moved", "shop", ", audiences: [api]", b))
	if p := r.refused(keyDoc("moved", "shop", ", audiences: [api]", mintKey(t).Secret(nil)), keyDoc("taker", "shop", ", audiences: [api]", b)); p != nil {
		t.Errorf("an id that the batch frees: %+v", p)
	}

	const ra = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: keys, namespace: default, annotations: {countersign.dev/api-keys: live}}\nspec: %s\n---\n"
	warned := func(docs ...string) bool {
		for _, w := range r.applied(docs...).Warnings {
			if strings.Contains(w.Text, "attached to no Gateway") {
				return true
			}
		}
		return false
	}
	if !warned(fmt.Sprintf(ra, "{selector: {matchLabels: {app: api}}}")) {
		t.Error("keys that nobody takes: no warning")
	}
	gateway := edgeDoc("Gateway", "edge", "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}")
	for _, spec := range []string{"{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]}", "{selector: {matchLabels: {app: edge}}}", "{}"} {
		if warned(gateway, fmt.Sprintf(ra, spec)) {
			t.Errorf("%s: warned, though it is attached", spec)
		}
	}
	if w := r.applied(keyDoc("first", "shop", ", audiences: [api], limitClass: gold", a)).Warnings; len(w) != 1 || !strings.Contains(w[0].Text, "no RateLimit \"gold\"") {
		t.Errorf("%+v", w)
	}
	if got := r.readyOf("APIKey", "shop", "first"); got != "False: no audience api" {
		t.Error(got)
	}
}

// What replaces, disables or removes a key in a file ends what it was good for; writing it again ends nothing.
func TestKeyEndings(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	a, b := mintKey(t).Secret(nil), mintKey(t).Secret(nil)
	r.applied(keyDoc("k", "shop", ", audiences: [api]", a, b))
	for _, c := range []struct {
		doc  string
		want []string
	}{
		{keyDoc("k", "shop", ", audiences: [api, more]", a, b), nil},
		{keyDoc("k", "shop", ", audiences: [api]", b), []string{"rti key:" + a.ID}},
		{keyDoc("k", "shop", ", audiences: [api], disabled: true", b), []string{"sub key:shop:k"}},
	} {
		got := p.revokedIn2(r.applied(c.doc).Revision)
		if len(got) != len(c.want) {
			t.Errorf("revoked %v, want %v", got, c.want)
		}
		for _, w := range c.want {
			if !got[w] {
				t.Errorf("revoked %v, want %v", got, c.want)
			}
		}
	}
}

// A node tells what was used and what stood in a URL: the first is written in blocks, the second ends the key, unless
// the key says that it should not. Ids that no key has change nothing.
func TestKeyReports(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	m := r.join("a", true)
	c, _ := m.attach()
	keep, drop := mintKey(t).Secret(nil), mintKey(t).Secret(nil)
	r.applied(keyDoc("keep", "shop", ", audiences: [api], revokeOnLeak: false", keep), keyDoc("drop", "shop", ", audiences: [api]", drop))
	report := func(u *control.KeyUses) error {
		_, err := c.Report(t.Context(), &control.ReportRequest{What: &control.ReportRequest_Keys{Keys: u}})
		return err
	}
	if err := report(&control.KeyUses{Used: []string{keep.ID, "0000000000", "x"}}); err != nil {
		t.Fatal(err)
	}
	if got := r.keyNotes.lastUsed(keep.ID); time.Since(got) > 2*time.Minute {
		t.Errorf("last used %v", got)
	}
	until(t, "the use to be written", func() bool {
		kvs, _, err := p.st.List(t.Context(), usedKeys)
		return err == nil && len(kvs) == 1 && strings.Contains(string(kvs[0].Value), keep.ID) && !strings.Contains(string(kvs[0].Value), "0000000000")
	})
	if err := report(&control.KeyUses{Exposed: []*control.Exposed{{Id: keep.ID, Gateway: "default/edge"}, {Id: drop.ID, Gateway: "default/edge"}, {Id: "0000000000"}}}); err != nil {
		t.Fatal(err)
	}
	rows := do(r, r.listKeys, admin.KeyQuery{Namespace: "shop"}).Keys
	if len(rows) != 1 || rows[0].ID != keep.ID || rows[0].Exposed.IsZero() || rows[0].Where != "a URL at Gateway default/edge" {
		t.Errorf("%+v", rows)
	}
	if err := report(&control.KeyUses{Used: make([]string, maxUsed+1)}); err == nil {
		t.Error("a report without end is taken")
	}
	if err := report(&control.KeyUses{Exposed: make([]*control.Exposed, maxExposed+1)}); err == nil {
		t.Error("a report without end is taken")
	}
}

// An owner hears in time that a key ends, and that nobody uses one.
func TestKeyReminders(t *testing.T) {
	r := newPlace(t).run()
	r.applied(keyDoc("k", "shop", ", audiences: [api]", mintKey(t).Secret(nil)))
	at := func(d time.Duration) (out []string) {
		for _, x := range r.reminders(r.world.load(), time.Now().Add(d)) {
			out = append(out, x.key+" "+x.what)
		}
		return out
	}
	if got := at(0); len(got) != 1 || got[0] != "key:shop:k ends in less than 1 day" {
		t.Errorf("%v", got)
	}
	long := strings.Replace(keyDoc("k", "shop", ", audiences: [api]", mintKey(t).Secret(nil)), time.Now().Add(24*time.Hour).UTC().Format("2006-01-02T"), time.Now().Add(100*24*time.Hour).UTC().Format("2006-01-02T"), 1)
	r.applied(long)
	if got := at(0); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := at(31 * 24 * time.Hour); len(got) != 1 || got[0] != "key:shop:k was not used for 30 days" {
		t.Errorf("%v", got)
	}
	if got := at(90 * 24 * time.Hour); len(got) != 2 || got[0] != "key:shop:k ends in less than 14 days" {
		t.Errorf("%v", got)
	}
}

// get shows the hash of a secret alone, and a fault quotes no key that stands in the wrong place.
func TestSecKeyIsNotShown(t *testing.T) {
	r := newPlace(t).run()
	made := do(r, r.createKey, admin.KeyCreate{Name: "partner", Owner: "corp:7f", Audiences: []string{"api"}})
	list, err := r.objects(t.Context(), admin.Query{Kind: "APIKey", Namespace: "default"})
	if err != nil || len(list.Objects) != 1 {
		t.Fatal(err)
	}
	for _, text := range []string{list.Objects[0].YAML, list.Objects[0].JSON} {
		if strings.Contains(text, made.Secret[20:63]) || !strings.Contains(text, made.ID) {
			t.Errorf("get shows\n%s", text)
		}
	}
	if p := r.refused(strings.Replace(keyDoc("bad", "default", ", audiences: [api]", mintKey(t).Secret(nil)), "owner: 'spiffe://cluster.local/ns/default/sa/billing'", "owner: '"+made.Secret+"'", 1)); p == nil || strings.Contains(fmt.Sprintf("%+v", p), made.Secret[20:63]) {
		t.Errorf("a fault quotes a key: %+v", p)
	}
}
