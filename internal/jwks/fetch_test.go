package jwks

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/jose"
)

// canary is what no error may hold.
const canary = "canary-7Kq2m9XbTa"

// M3: what a key server answers wrongly is one of the fixed faults, soon, and says nothing of
// the answer.
func TestM3WrongAnswers(t *testing.T) {
	good, _ := keySet(t, 1)
	elsewhere := newProvider(t, serve(good))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(good)
	z.Close()
	private := bytes.Replace(good, []byte(`"kty"`), []byte(`"d":"AAAA","kty"`), 1)
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   fault
	}{
		"slow":            {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, faultTimeout},
		"slow body":       {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() }, faultTimeout},
		"10 MB":           {serve(append(good, bytes.Repeat([]byte(" "), 10<<20)...)), faultLarge},
		"10 MB head":      {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("a", 10<<20)) }, faultDial},
		"HTML":            {serve([]byte("<html>" + canary)), faultSet},
		"other JSON":      {serve([]byte(`{"error":"` + canary + `"}`)), faultSet},
		"trailing data":   {serve(append(good, good...)), faultSet},
		"not found":       {http.NotFound, faultStatus},
		"server error":    {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, 500) }, faultStatus},
		"no content":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, faultStatus},
		"no key left":     {serve([]byte(`{"keys":[]}`)), faultEmpty},
		"only an enc key": {serve(bytes.Replace(good, []byte(`"use":"sig"`), []byte(`"use":"enc"`), 1)), faultEmpty},
		"private member":  {serve(private), faultSet},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			_, _ = w.Write(good)
		}, faultRead},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped.Bytes())
		}, faultEncoding},
		"redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/"+canary, http.StatusFound)
		}, faultRedirect},
		"redirect to http": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/"+canary, http.StatusFound)
		}, faultRedirect},
		"redirect to file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, faultRedirect},
		"redirect with user": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://a:b@"+r.Host+"/", http.StatusFound)
		}, faultRedirect},
		"redirect for ever": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }, faultRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, test.answer)
			c := newClient(loopback, p.roots())
			s := Source{URI: p.URL + "/keys", Timeout: timeoutMax}
			if test.want == faultTimeout {
				s.Timeout = 200 * time.Millisecond
			}
			if _, _, err := c.keys(t.Context(), s); err != test.want {
				t.Errorf("keys: %v, want %v", err, test.want)
			}
			if p.hits.Load() > 1+maxRedirects {
				t.Errorf("%d requests", p.hits.Load())
			}
		})
	}
	if n := elsewhere.conns.Load(); n > 0 {
		t.Errorf("%d connections to where a redirect led", n)
	}
}

// A gone server, a wrong certificate and an old protocol are told apart for the operator.
func TestM3NoConnection(t *testing.T) {
	good, _ := keySet(t, 1)
	gone := newProvider(t, serve(good))
	gone.Close()
	live := newProvider(t, serve(good))
	old := httptest.NewUnstartedServer(serve(good))
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	roots := live.roots()
	roots.AddCert(old.Certificate())
	for name, test := range map[string]struct {
		uri   string
		roots *x509.CertPool
		want  fault
	}{
		"gone":         {gone.URL, gone.roots(), faultDial},
		"unknown root": {live.URL, x509.NewCertPool(), faultSigner},
		"other name":   {strings.Replace(live.URL, "127.0.0.1", "idp.test", 1), live.roots(), faultWrong},
		"TLS 1.1":      {old.URL, roots, faultTLS},
		"no name":      {"https://gone.test/", roots, faultName},
		"no URL":       {"::", roots, faultURL},
		"no host":      {"https:///keys", roots, faultURL},
		"a user":       {"https://a:b@127.0.0.1/", roots, faultURL},
		"a file":       {"file:///etc/passwd", roots, faultURL},
		"dots":         {live.URL + "/a/../keys", roots, faultURL},
		"hidden dots":  {live.URL + "/a/%2e%2e/keys", roots, faultURL},
		"a port":       {"https://127.0.0.1:99999/", roots, faultDial},
	} {
		c := newClient(loopback, test.roots)
		c.resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "idp.test" {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
			return nil, &net.DNSError{Err: canary, Name: host, IsNotFound: true}
		}
		if _, _, err := c.keys(t.Context(), Source{URI: test.uri}); err != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// M3: no connection to a blocked address, whatever leads there.
func TestSecNoBlockedAddress(t *testing.T) {
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	plain := httptest.NewServer(serve(good))
	defer plain.Close()
	for _, uri := range []string{
		p.URL, "https://idp.test:" + port, "https://[::ffff:127.0.0.1]:" + port, "https://localhost:" + port,
		"https://127.1:" + port, "https://0.0.0.0:" + port, "https://[::]:" + port,
	} {
		c := newClient(nil, p.roots())
		if strings.Contains(uri, "idp.test") {
			c.resolve = func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
			}
		}
		if _, _, err := c.keys(t.Context(), Source{URI: uri}); err != faultAddress && err != faultName {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if n := p.conns.Load(); n > 0 {
		t.Errorf("%d connections to loopback", n)
	}
	for _, allow := range [][]netip.Prefix{nil, {netip.MustParsePrefix("10.0.0.0/8")}} {
		if _, _, err := newClient(allow, nil).keys(t.Context(), Source{URI: plain.URL}); err != faultURL {
			t.Errorf("http, allowed %v: %v, want %v", allow, err, faultURL)
		}
	}
	if _, _, err := newClient(loopback, nil).keys(t.Context(), Source{URI: plain.URL}); err != nil {
		t.Errorf("http to an allowed address: %v", err)
	}
}

// M3, rebinding: the address that was checked is the one dialled, though the name changes.
func TestSecRebinding(t *testing.T) {
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	trap, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	var sprung atomic.Int64
	go func() {
		for {
			c, err := trap.Accept()
			if err != nil {
				return
			}
			sprung.Add(1)
			c.Close()
		}
	}()
	c := newClient([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, p.roots())
	var asked atomic.Int64
	c.resolve = func(context.Context, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
	}
	source := Source{URI: "https://example.com:" + port}
	if _, _, err := c.keys(t.Context(), source); err != nil {
		t.Errorf("the checked address: %v", err)
	}
	if _, _, err := c.keys(t.Context(), source); err != faultAddress {
		t.Errorf("after the name moved: %v, want %v", err, faultAddress)
	}
	if sprung.Load() > 0 {
		t.Error("an address was dialled that was not checked")
	}
	// Beside a blocked address the one that is allowed still serves.
	c.resolve = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	if _, _, err := c.keys(t.Context(), source); err != nil || sprung.Load() > 0 {
		t.Errorf("beside a blocked address: %v, %d connections to it", err, sprung.Load())
	}
}

// A request says nothing about us, and the environment has no say in where it goes.
func TestRequestIsPlain(t *testing.T) {
	good, _ := keySet(t, 1)
	proxy := newProvider(t, serve(good))
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	seen := make(chan *http.Request, 4)
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		http.SetCookie(w, &http.Cookie{Name: "a", Value: canary})
		if r.URL.Path == "/keys" {
			http.Redirect(w, r, "/moved", http.StatusMovedPermanently)
			return
		}
		_, _ = w.Write(good)
	})
	c := newClient(loopback, p.roots())
	if _, _, err := c.keys(t.Context(), Source{URI: p.URL + "/keys"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := <-seen
		if r.Header.Get("Cookie")+r.Header.Get("Referer")+r.Header.Get("Authorization") != "" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("sent %v", r.Header)
		}
	}
	if proxy.conns.Load() > 0 {
		t.Error("went through the proxy of the environment")
	}
}

// Discovery: OpenID Connect's place, then RFC 8414's; another issuer's metadata count for nothing.
func TestDiscovery(t *testing.T) {
	good, ids := keySet(t, 1)
	for name, test := range map[string]struct {
		path   string // of the issuer
		at     string // of the metadata
		issuer string // said there; "" is the right one
		keys   string // jwks_uri; "" is right
		want   error
	}{
		"openid":            {"", "/.well-known/openid-configuration", "", "", nil},
		"openid, path":      {"/t/a", "/t/a/.well-known/openid-configuration", "", "", nil},
		"openid, slash":     {"/t/", "/t/.well-known/openid-configuration", "", "", nil},
		"oauth":             {"", "/.well-known/oauth-authorization-server", "", "", nil},
		"oauth, path":       {"/t/a", "/.well-known/oauth-authorization-server/t/a", "", "", nil},
		"nowhere":           {"", "/", "", "", faultStatus},
		"other issuer":      {"", "/.well-known/openid-configuration", "https://evil.test", "", faultIssuer},
		"issuer with slash": {"", "/.well-known/openid-configuration", "https://slash", "", faultIssuer},
		"no jwks_uri":       {"", "/.well-known/openid-configuration", "", "none", faultMetadata},
		"jwks_uri blocked":  {"", "/.well-known/openid-configuration", "", "https://169.254.169.254/keys", faultAddress},
		"jwks_uri a file":   {"", "/.well-known/openid-configuration", "", "file:///etc/passwd", faultURL},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, nil)
			issuer := p.URL + test.path
			said, uri := issuer, p.URL+"/keys"
			switch {
			case test.issuer == "https://slash":
				said += "/"
			case test.issuer != "":
				said = test.issuer
			}
			switch {
			case test.keys == "none":
				uri = ""
			case test.keys != "":
				uri = test.keys
			}
			p.says(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case test.at:
					_ = json.NewEncoder(w).Encode(map[string]any{"issuer": said, "jwks_uri": uri, "extra": []int{1}})
				case "/keys":
					_, _ = w.Write(good)
				default:
					http.NotFound(w, r)
				}
			})
			raw, _, err := newClient(loopback, p.roots()).keys(t.Context(), Source{Issuer: issuer})
			if err != test.want {
				t.Fatalf("keys: %v, want %v", err, test.want)
			}
			if err == nil && !bytes.Contains(raw, []byte(ids[0])) {
				t.Errorf("keys: %s", raw)
			}
		})
	}
	if _, _, err := newClient(loopback, nil).keys(t.Context(), Source{}); err != faultURL {
		t.Errorf("no issuer and no URI: %v", err)
	}
}

func TestRedirectsWithinTheHost(t *testing.T) {
	good, _ := keySet(t, 1)
	p := newProvider(t, nil)
	for n, want := range map[int]error{0: nil, maxRedirects: nil, maxRedirects + 1: faultRedirect} {
		p.says(func(w http.ResponseWriter, r *http.Request) {
			if at := strings.Count(r.URL.Path, "x"); at < n {
				http.Redirect(w, r, r.URL.Path+"x", http.StatusTemporaryRedirect)
				return
			}
			_, _ = w.Write(good)
		})
		if _, _, err := newClient(loopback, p.roots()).keys(t.Context(), Source{URI: p.URL + "/"}); err != want {
			t.Errorf("%d redirects: %v, want %v", n, err, want)
		}
	}
}

// What is kept of a set has what verification needs, and an RSA key without alg stays open to
// what the issuer's record says of it.
func TestReadKeys(t *testing.T) {
	rsa := `{"kty":"RSA","n":"` + modulus + `","e":"AQAB","kid":"1","x5c":["` + canary + `"]}`
	raw, err := readKeys([]byte(`{"keys":[` + rsa + `],"more":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(canary)) {
		t.Errorf("kept the certificate: %s", raw)
	}
	now := time.Unix(1_790_000_000, 0)
	k := Kept{JWKS: raw, Until: now.Add(1)}
	if got := k.Keys(now).Keys()[0].Alg(); got != jose.RS256 {
		t.Errorf("alg %s", got)
	}
	if got := k.Keys(now, jose.PS384).Keys()[0].Alg(); got != jose.PS384 {
		t.Errorf("alg %s, the record says PS384", got)
	}
	if k.Keys(k.Until) != nil {
		t.Error("keys at their end")
	}
}

// modulus is of a throw-away key of 2048 bits.
const modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"

// A set that is small where it counts, but not on the whole, is not kept.
func TestKeptSize(t *testing.T) {
	good, _ := keySet(t, 1)
	other := strings.Repeat(`{"kty":"EC","crv":"P-256","use":"enc","x":"`+strings.Repeat("A", 43)+`"},`, 4000)
	if _, err := readKeys(bytes.Replace(good, []byte(`[`), []byte(`[`+other), 1)); err != faultSet {
		t.Errorf("kept: %v", err)
	}
}

// Of a name with many addresses a few are tried.
func TestMaxAddresses(t *testing.T) {
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	for closed, want := range map[int]error{maxAddresses - 1: nil, maxAddresses: faultDial} {
		c := newClient(loopback, p.roots())
		c.resolve = func(context.Context, string) (addrs []netip.Addr, _ error) {
			for i := range closed {
				addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}))
			}
			return append(addrs, netip.MustParseAddr("127.0.0.1")), nil
		}
		if _, _, err := c.keys(t.Context(), Source{URI: "https://example.com:" + port}); err != want {
			t.Errorf("after %d closed ones: %v, want %v", closed, err, want)
		}
	}
}

func TestMaxAge(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": every, "no-cache": every, "max-age": every, "max-age=x": every, "max-age=-1": every,
		"max-age=0": everyMin, "max-age=59": everyMin, "max-age=61": 61 * time.Second, "public, Max-Age=\"600\"": 10 * time.Minute,
		"max-age=3600": everyMax, "max-age=3601": everyMax, "max-age=99999999999999999999": every, "s-maxage=60": every,
	} {
		if got := maxAge(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestLimitOfTimeouts(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{0: timeout, -1: timeout, time.Second: time.Second, time.Hour: timeoutMax} {
		if got := (Source{Timeout: in}).limit(); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
}

// FuzzMaxAge: no header makes us ask too often or too rarely.
func FuzzMaxAge(f *testing.F) {
	f.Add("max-age=300")
	f.Add("public, max-age=\"1\", max-age=2")
	f.Fuzz(func(t *testing.T, s string) {
		if d := maxAge(http.Header{"Cache-Control": {s}}); d < everyMin || d > everyMax {
			t.Errorf("%v", d)
		}
	})
}

// FuzzAnswer: no metadata and no key set panic; what is kept of a set reads as the same keys.
func FuzzAnswer(f *testing.F) {
	good, _ := keySet(f, 2)
	f.Add(good)
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"` + modulus + `","e":"AQAB","key_ops":["verify"]}]}`))
	f.Add([]byte(`{"issuer":"https://a","jwks_uri":"https://a/keys"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if uri, err := named(body, "https://a"); err == nil && uri == "" {
			t.Error("no jwks_uri and no fault")
		}
		raw, err := readKeys(body)
		if err != nil {
			if _, ok := err.(fault); !ok {
				t.Errorf("not a fault: %v", err)
			}
			return
		}
		if set, err := jose.ReadSet(raw); err != nil || set.Len() == 0 || len(raw) > maxKept {
			t.Errorf("kept %d bytes: %v", len(raw), err)
		}
	})
}

func ExampleSource_Key() {
	fmt.Println(Source{Issuer: "https://login.corp.example"}.Key())
	// Output: jwks/63ef2990e01addb5b45808cd8525d070794a0a666b921272a09d673540f3f2bf
}
