//go:build system && linux

package systemtest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keyServer is an identity provider on this machine that means harm: /NAME is a key set, and
// how it is served goes by its name.
type keyServer struct {
	url     string
	keys    map[string]issuerKey
	gone    atomic.Bool  // the good one fails from now on
	foreign atomic.Int64 // requests at the other host that it redirects to
	mu      sync.Mutex   // guards hits
	hits    map[string]int
}

func newKeyServer(t *testing.T, names ...string) *keyServer {
	t.Helper()
	s := &keyServer{keys: map[string]issuerKey{}, hits: map[string]int{}}
	listen := func(handler http.HandlerFunc) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: handler}
		go srv.Serve(ln)
		t.Cleanup(func() { srv.Close() })
		return "http://" + ln.Addr().String()
	}
	for _, name := range names {
		s.keys[name] = newIssuerKey(t, name+"-1")
	}
	elsewhere := listen(func(w http.ResponseWriter, r *http.Request) {
		s.foreign.Add(1)
		fmt.Fprint(w, s.keys["redirect"].set())
	})
	s.url = listen(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		s.mu.Lock()
		s.hits[name]++
		s.mu.Unlock()
		set := s.keys[name].set()
		switch name {
		case "slow":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "large":
			fmt.Fprint(w, set, strings.Repeat(" ", 10<<20))
		case "metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		case "redirect":
			http.Redirect(w, r, elsewhere+"/redirect", http.StatusFound)
		case "html":
			fmt.Fprint(w, "<html><body>", set)
		case "private":
			fmt.Fprint(w, strings.Replace(set, `"kty"`, `"d":"AAAA","kty"`, 1))
		case "missing":
			http.NotFound(w, r)
		default:
			if s.gone.Load() {
				http.Error(w, "gone", http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, set)
		}
	})
	return s
}

func (s *keyServer) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[name]
}

// TestSystemSecTokensJWKSHostile: a key server that means harm gets its own issuer's tokens
// refused, leads nobody elsewhere, holds nothing up, and is not asked more often than the rule
// (tokens.md 10.4; R5b, M3).
func TestSystemSecTokensJWKSHostile(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	names := []string{"good", "slow", "large", "metadata", "redirect", "html", "private", "missing"}
	s := newKeyServer(t, names...)
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	var rules strings.Builder
	for _, name := range names {
		fmt.Fprintf(&rules, "{issuer: 'https://%s.example', jwksUri: '%s/%s', timeout: 1s}, ", name, s.url, name)
	}
	h.apply("{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: foreign, namespace: default}, spec: {selector: {matchLabels: {app: api}}, jwtRules: [" + strings.TrimSuffix(rules.String(), ", ") + "]}}")
	_, cert := h.svid("web")
	api := h.caller(cert, "api")
	token := func(name, kid string) string {
		now := time.Now().Unix()
		return s.keys[name].sign(kid, map[string]any{"iss": "https://" + name + ".example", "sub": "alice", "iat": now, "exp": now + 300})
	}
	eventually(t, "a token of the good issuer", func() (bool, string) {
		r := call(api, "api", "/secret", token("good", "good-1"))
		return r.status == 200, r.String()
	})
	for _, name := range names[1:] {
		if r := call(api, "api", "/secret", token(name, name+"-1")); r.status != 401 {
			t.Errorf("a token of the issuer whose keys are %s: %v, want 401", name, r)
		}
	}
	if r := call(api, "api", "/open", ""); r.status != 200 {
		t.Errorf("a request without a token: %v", r)
	}
	if n := s.foreign.Load(); n != 0 {
		t.Errorf("%d retrievals from where it redirects to", n)
	}

	// A storm of keys that nobody knows, by four callers at once.
	before := s.count("good")
	s.gone.Store(true)
	good := token("good", "good-1")
	_, tail, _ := strings.Cut(good, ".")
	var storm sync.WaitGroup
	var wrong atomic.Int64
	for range 4 {
		storm.Go(func() {
			for range 2500 {
				var kid [8]byte
				rand.Read(kid[:])
				head := s.keys["good"].sign(hex.EncodeToString(kid[:]), nil)
				head, _, _ = strings.Cut(head, ".")
				if r := call(api, "api", "/secret", head+"."+tail); r.status != 401 {
					wrong.Add(1)
				}
			}
		})
	}
	storm.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d of 10,000 tokens with an unknown key were not answered with 401", n)
	}
	if n := s.count("good") - before; n > 1 {
		t.Errorf("10,000 tokens with unknown keys: %d retrievals within 30 s, want 1 at most", n)
	}
	// The last good set counts on, and whoever did not storm has lost nothing.
	if r := h.curl("web", "-H", "Authorization: Bearer "+token("good", "good-1"), "http://api/secret"); r.status() != "200" {
		t.Errorf("a good token, its key server being gone: %v", r)
	}
	for _, name := range names {
		if n := s.count(name); n > 3 {
			t.Errorf("%d retrievals of the set that is %s, in the time of this test", n, name)
		}
	}
}

// TestSystemSecTokensClock: a foreign issuer's clock may differ from ours by what its record
// says, and by no more (tokens.md 12.3; R13, S4).
func TestSystemSecTokensClock(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	key := newIssuerKey(t, "k1")
	for name, skew := range map[string]string{"strict": "0s", "loose": "60s"} {
		h.apply(fmt.Sprintf(`{apiVersion: countersign.dev/v1, kind: TrustedIssuer, metadata: {name: %s}, spec: {issuer: "https://%s.example", uses: [request], algs: [ES256], clockSkew: %s, jwks: %s}}`, name, name, skew, key.set()))
	}
	_, cert := h.svid("web")
	api := h.caller(cert, "api")
	for _, c := range []struct {
		issuer        string
		iat, nbf, exp int64
		want          int
	}{
		{"strict", 0, 0, 60, 200}, {"strict", 5, 5, 60, 200}, {"strict", -5, -5, 60, 200}, {"strict", 120, 0, 180, 401}, {"strict", 0, 120, 180, 401},
		{"strict", 20, 0, 60, 401}, {"strict", -60, -60, -3, 401},
		{"loose", 0, 0, 60, 200}, {"loose", 45, 45, 90, 200}, {"loose", 120, 0, 180, 401}, {"loose", -120, -120, -30, 200}, {"loose", -120, -120, -75, 401},
	} {
		now := time.Now().Unix()
		token := key.sign("k1", map[string]any{"iss": "https://" + c.issuer + ".example", "sub": "alice", "aud": idOf("api"), "iat": now + c.iat, "nbf": now + c.nbf, "exp": now + c.exp})
		if r := call(api, "api", "/secret", token); r.status != c.want {
			t.Errorf("%s, iat %+d s, nbf %+d s, exp %+d s: %v, want %d", c.issuer, c.iat, c.nbf, c.exp, r, c.want)
		}
	}
	h.recorded("node/audit", "a token from the future", func(r record) bool { return r.Layer == "token" && r.Reason == "iat" })
}
