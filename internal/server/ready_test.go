package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/jwks"
	"countersign.dev/internal/resource"
)

// readyOf is the column READY of one object, as a table of get has it.
func (r *running) readyOf(kind, ns, name string) string {
	r.t.Helper()
	list, err := r.objects(r.t.Context(), admin.Query{Kind: kind, Namespace: ns, Names: []string{name}})
	if err != nil || len(list.Objects) != 1 || len(list.Objects[0].Columns) != 1 {
		r.t.Fatalf("%s/%s/%s: %+v, %v", kind, ns, name, list, err)
	}
	return list.Objects[0].Columns[0]
}

func (r *running) untilReady(kind, name, want string) {
	r.t.Helper()
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = r.readyOf(kind, "default", name); got == want {
			return
		}
	}
	r.t.Errorf("%s %s is %q, want %q", kind, name, got, want)
}

// An issuer and a client are ready once there are keys to verify by, and say what keeps them.
func TestReadyByKeys(t *testing.T) {
	const none = `{"keys":[]}`
	const key = `{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	var hang atomic.Bool
	release := make(chan struct{})
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/good":
			w.Write([]byte(key))
		case "/empty":
			w.Write([]byte(none))
		case "/late":
			hang.Store(true)
			<-release
			w.Write([]byte(key))
		default:
			http.NotFound(w, q)
		}
	}))
	defer idp.Close()
	r := newPlace(t).run(func(o *Options) { o.Tokens.FetchAllow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	issuer := func(name, keys string) string {
		return kindDoc("TrustedIssuer", name, "default", `{issuer: "https://`+name+`.example", uses: [request], `+keys+`}`)
	}
	r.applied(
		issuer("good", `jwksUri: "`+idp.URL+`/good"`)+issuer("wrong", `jwksUri: "`+idp.URL+`/nothing"`)+
			issuer("empty", `jwksUri: "`+idp.URL+`/empty"`)+issuer("late", `jwksUri: "`+idp.URL+`/late"`)+issuer("inline", "jwks: "+key),
		kindDoc("OAuthClient", "good", "default", `{auth: private_key_jwt, jwksUri: "`+idp.URL+`/good"}`)+
			kindDoc("OAuthClient", "wrong", "default", `{auth: private_key_jwt, jwksUri: "`+idp.URL+`/nothing"}`),
	)
	r.untilReady("TrustedIssuer", "inline", "True")
	r.untilReady("TrustedIssuer", "good", "True")
	r.untilReady("TrustedIssuer", "wrong", "False: no keys: the answer is not 200")
	r.untilReady("TrustedIssuer", "empty", "False: no keys: the key set has no key for signatures")
	r.untilReady("TrustedIssuer", "late", "False: no keys: not retrieved yet")
	close(release)
	r.untilReady("TrustedIssuer", "late", "True")
	r.untilReady("OAuthClient", "good", "True")
	r.untilReady("OAuthClient", "wrong", "False: no keys: the answer is not 200")
	if !hang.Load() {
		t.Error("the late answer was never asked for")
	}
}

// A key set that was had once and is too old now is no key set: READY says why it is not renewed.
func TestReadyKeysTooOld(t *testing.T) {
	r := newPlace(t).run()
	r.applied(kindDoc("TrustedIssuer", "old", "default", `{issuer: "https://old.example", uses: [request], jwksUri: "https://old.example/keys"}`))
	v := *r.world.load()
	from := jwks.Source{Issuer: "https://old.example", URI: "https://old.example/keys"}
	rec := v.records[catalog.Key("TrustedIssuer", "default", "old")]
	v.Keys, v.unfetched = nil, map[string]string{from.Key(): "no answer in time"}
	if got, ok := r.ready(&v, rec); !ok || got != "False: no keys: no answer in time" {
		t.Errorf("%q, %v", got, ok)
	}
	rec.Last++
	if got, ok := r.ready(&v, rec); !ok || got != "False: not in force yet" {
		t.Errorf("what is newer than the world: %q, %v", got, ok)
	}
}

// An object whose consent was taken back is not ready; kinds of Istio have no such column.
func TestReadyByFaults(t *testing.T) {
	r := newPlace(t).run()
	audience := func(grant string) string {
		return kindDoc("OAuthResource", "ledger", "bank", `{audience: "https://ledger.example", scopes: [{name: "ledger:read"}]`+grant+`}`)
	}
	r.applied(audience(", grantTo: [{namespace: default, scopes: [\"ledger:read\"]}]"),
		kindDoc("OAuthClient", "ci", "default", `{auth: client_secret, targets: [{audience: "https://ledger.example", scopes: ["ledger:read"]}]}`),
		policyDoc("p", "default", "{}"))
	if got := r.readyOf("OAuthClient", "default", "ci"); got != "True" {
		t.Errorf("with consent: %q", got)
	}
	r.applied(audience(""))
	if got := r.readyOf("OAuthClient", "default", "ci"); !strings.HasPrefix(got, "False: ") || len(got) < len("False: ")+5 {
		t.Errorf("without consent: %q", got)
	}
	if got := r.readyOf("OAuthResource", "bank", "ledger"); got != "True" {
		t.Errorf("the audience: %q", got)
	}
	for _, rec := range r.world.load().records {
		_, ok := r.ready(r.world.load(), rec)
		if has := len(resource.Columns(rec.Kind)) == 1 && resource.Columns(rec.Kind)[0] == "READY"; ok != has {
			t.Errorf("%s: a word for READY %v, the column %v", rec.Kind, ok, has)
		}
	}
}
