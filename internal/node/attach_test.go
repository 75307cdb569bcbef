package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/telemetry"
)

// bubbleStart is when time begins in a bubble.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const shopWeb = "spiffe://cluster.local/ns/shop/sa/web"

// tokenService is a token endpoint on a real socket, outside of the bubble: token-1, token-2, …,
// each of five minutes, or what is set.
type tokenService struct {
	ca   *identitytest.Authority
	addr string

	mu     sync.Mutex // guards the rest, for a look-up
	id     string     // whose SVID it shows
	asked  []string   // the form, and who asked
	status int
	body   string
	held   chan struct{} // while not nil, answers wait for it
	each   func()        // done at every request

	seen  chan struct{}      // gets one for every request that is held
	spare chan chan struct{} // made out of the bubble: time must not go on while somebody waits on one
}

func newTokenService(t *testing.T) *tokenService {
	t.Helper()
	s := &tokenService{
		ca: identitytest.New(t, "cluster.local", bubbleStart), id: "server-s",
		seen: make(chan struct{}), spare: make(chan chan struct{}, 4),
	}
	for range cap(s.spare) {
		s.spare <- make(chan struct{})
	}
	svid := map[string]*tls.Certificate{}
	for _, name := range []string{"server-s", "node-a"} {
		svid[name] = s.ca.Leaf(t, "spiffe://cluster.local/ns/countersign/sa/"+name, func(c *x509.Certificate) { c.NotAfter = bubbleStart.Add(6 * 24 * time.Hour) })
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	side := identity.Side{
		Own: func(name string) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if name != "tokens-s.tokens.countersign.svc.cluster.local" {
				return nil, fmt.Errorf("asked for %q", name)
			}
			return svid[s.id], nil
		},
		Trust: func() *identity.Trust { return s.ca.Trust() }, Now: func() time.Time { return bubbleStart.Add(time.Minute) }, NextProtos: []string{"http/1.1"},
	}
	srv := &http.Server{Handler: s, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(tls.NewListener(ln, identity.ServerConfig(side, tls.RequireAnyClientCert))) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	return s
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.Method != "POST" || r.URL.Path != "/oauth2/token" || !slices.Contains([]string{"client_credentials", grant.GrantTokenExchange}, r.PostForm.Get("grant_type")) {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s as %s for %s [%s]", r.PostForm.Get("client_id"), r.TLS.PeerCertificates[0].URIs[0], r.PostForm.Get("audience"), r.PostForm.Get("scope")))
	status, body, held := s.status, s.body, s.held
	life := 300
	if subject := r.PostForm.Get("subject_token"); subject != "" {
		s.asked[len(s.asked)-1] += " of " + r.PostForm.Get("subject_token_type") + " " + subject
		life = 60
	}
	if status == 0 {
		status, body = 200, fmt.Sprintf(`{"access_token":"token-%d","expires_in":%d,"token_type":"Bearer"}`, len(s.asked), life)
	}
	each := s.each
	s.mu.Unlock()
	if each != nil {
		each()
	}
	if held != nil {
		s.seen <- struct{}{}
		<-held
	}
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

func (s *tokenService) set(status int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.body = status, body
}

// hold makes answers wait until it is released.
func (s *tokenService) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := <-s.spare
	s.held = held
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = nil
		close(held)
	}
}

func (s *tokenService) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// caller is a run of shop/web at a node that knows the token service, in a bubble.
type caller struct {
	t   *testing.T
	n   *Node
	run *proxy.Run
	gen uint64
	log journal
}

// journal is what a node logs.
type journal struct {
	mu   sync.Mutex // guards text, for a line
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// take gives what was logged since it was last taken.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

// withTokens runs f in a bubble that knows s.
func withTokens(t *testing.T, f func(t *testing.T, c *caller, s *tokenService)) {
	s := newTokenService(t)
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t, dir, s.ca)
		c.n.snap.Load().Instances = map[string]snapshot.Instance{
			"other": {ID: "other", Services: []string{"shop/tokens"}, Address: "127.0.0.1:1"},
			"s":     {ID: "tokens-s", Services: []string{tokensKey}, Address: s.addr},
		}
		f(t, c, s)
		c.end()
	})
}

func newCaller(t *testing.T, dir *os.Root, ca *identitytest.Authority) *caller {
	t.Helper()
	c := &caller{t: t, gen: 1}
	var err error
	c.n, err = New(Options{
		Dir: dir, Lineage: &Lineage{dir: dir}, Code: attest.Code{TrustDomain: "cluster.local"}, Name: "a",
		Dial: memnet.Listen("server").Dial, Metrics: telemetry.NewMetrics("t"), Log: slog.New(slog.NewTextHandler(&c.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.n.snap.Store(&held{Node: &snapshot.Node{}, trust: ca.Trust(), index: entry.NewIndex(nil)})
	c.n.tokens.life, c.n.edge.life = t.Context(), t.Context()
	leaf := ca.Leaf(t, shopWeb, func(x *x509.Certificate) { x.NotAfter = bubbleStart.Add(6 * 24 * time.Hour) })
	c.run = &proxy.Run{ID: spiffeid.RequireFromString(shopWeb), Certificate: func() *proxy.SVID {
		if c.gen == 0 {
			return nil
		}
		return &proxy.SVID{TLS: leaf, Generation: c.gen}
	}}
	return c
}

func (c *caller) end() {
	c.n.tokens.working.Wait()
	c.n.edge.working.Wait()
	c.n.edge.hangUp()
	ended, cancel := context.WithCancel(c.t.Context())
	cancel()
	c.n.client.Run(ended) // which ends what it holds
	c.n.recorder.Close()
}

var toAPI = proxy.Attach{Audience: "spiffe://cluster.local/ns/shop/sa/api", Scopes: []string{"orders:read", "orders:write"}}

// want gets a token and compares it.
func (c *caller) want(text string) {
	c.t.Helper()
	if got, err := c.n.tokens.get(c.t.Context(), c.run, toAPI); err != nil || got != text {
		c.t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// fails gets none, and compares what the record says.
func (c *caller) fails(detail string) {
	c.t.Helper()
	got, err := c.n.tokens.get(c.t.Context(), c.run, toAPI)
	why, ok := errors.AsType[*proxy.NoToken](err)
	if !ok || got != "" || why.Detail != detail {
		c.t.Fatalf("got %q, %v; want %q", got, err, detail)
	}
}

// renewed waits until nothing is asked for behind the back of calls.
func (c *caller) renewed() { c.n.tokens.working.Wait() }

// The workload asks as itself, over its own SVID, and once for all calls at the same time.
func TestAttachedTokenOnce(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, err := c.n.tokens.get(t.Context(), c.run, toAPI); err != nil || got != "token-1" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
		if want := shopWeb + " as " + shopWeb + " for " + toAPI.Audience + " [orders:read orders:write]"; len(s.asked) != 1 || s.asked[0] != want {
			t.Errorf("asked %q, want once %q", s.asked, want)
		}
		other := proxy.Attach{Audience: "https://other"}
		if got, err := c.n.tokens.get(t.Context(), c.run, other); err != nil || got != "token-2" || !strings.HasSuffix(s.asked[1], " for https://other []") {
			t.Errorf("another audience: got %q, %v, asked %q", got, err, s.asked)
		}
		c.want("token-1")
	})
}

// At half its life a token is renewed behind the back of calls; while that fails it is used up
// to its last seconds.
func TestAttachedTokenRenewal(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.want("token-1")
		time.Sleep(150*time.Second - time.Nanosecond)
		c.want("token-1")
		if n := s.count(); n != 1 {
			t.Fatalf("asked %d times before half-life", n)
		}
		time.Sleep(time.Nanosecond)
		c.want("token-1") // at hand; the call that began the renewal does not wait for it
		c.renewed()
		c.want("token-2")
		s.set(503, `{"error":"temporarily_unavailable"}`)
		time.Sleep(300*time.Second - tokenSpare - time.Nanosecond)
		c.want("token-2")
		c.renewed()
		c.want("token-2")
		time.Sleep(time.Nanosecond)
		c.fails("the token service answered 503: temporarily_unavailable")
		if log := c.log.take(); !strings.Contains(log, "no token to attach") || strings.Contains(log, "token-2") {
			t.Errorf("the log says %q", log)
		}
	})
}

// A failure is the answer for a second: calls do not hammer the token service.
func TestAttachedTokenFailure(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		const disabled = "the token service answered 401: invalid_client: client authentication failed"
		s.set(401, `{"error":"invalid_client","error_description":"client authentication failed"}`)
		for range 100 {
			c.fails(disabled)
		}
		if n := s.count(); n != 1 {
			t.Errorf("asked %d times at once", n)
		}
		for range 10 {
			time.Sleep(failedRest / 10)
			c.fails(disabled)
		}
		if n := s.count(); n != 2 {
			t.Errorf("asked %d times in a second", n)
		}
		s.set(0, "")
		time.Sleep(failedRest)
		c.want("token-3")
	})
}

// A renewal that fails is not tried again by every call.
func TestAttachedTokenFailedRenewal(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.want("token-1")
		time.Sleep(150 * time.Second)
		s.set(500, "")
		for range 20 {
			c.want("token-1")
			c.renewed()
		}
		if n := s.count(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// What the token service says that is no token, or an error nobody should read.
func TestAttachedTokenBadAnswers(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		for body, detail := range map[string]string{
			`{"error":"x","error_description":"eyJhbGciOiJFUzI1NiJ9.e30.AAAA"}`:   "the token service answered 400: x",
			`{"error":"x","error_description":"a\nb"}`:                            "the token service answered 400: x",
			`{"error":"x","error_description":"` + strings.Repeat("a", 65) + `"}`: "the token service answered 400: x",
			`<html>`: "the token service answered 400",
		} {
			s.set(400, body)
			c.fails(detail)
			time.Sleep(failedRest)
		}
		for _, body := range []string{`{}`, `{"access_token":"","expires_in":300}`, `{"access_token":"t"}`, `{"access_token":"t","expires_in":-1}`, `no JSON`} {
			s.set(200, body)
			c.fails("the token service's answer is no token")
			time.Sleep(failedRest)
		}
	})
}

// Whoever is no server gets no token request, and what cannot be reached says so.
func TestAttachedTokenWrongService(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		s.mu.Lock()
		s.id = "node-a"
		s.mu.Unlock()
		c.fails("the token service cannot be reached")
		time.Sleep(failedRest)
		c.n.snap.Load().Instances = map[string]snapshot.Instance{"s": {ID: "tokens-s", Services: []string{tokensKey}, Address: "127.0.0.1:1"}}
		c.fails("the token service cannot be reached")
		time.Sleep(failedRest)
		c.n.snap.Load().Instances = nil
		c.fails("no token service in the mesh")
		c.gen = 0
		c.fails("the workload has no certificate now")
		if n := s.count(); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
}

// Any entry of the log of revoked tokens, and one that cannot be read, ends what is kept.
func TestSecAttachedTokenRevoked(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		revoked := func(all bool, entries ...revocation.Entry) error { return c.n.revokedTokens(all, entries, time.Now()) }
		if err := revoked(true); err != nil {
			t.Fatal(err)
		}
		c.want("token-1")
		if err := revoked(false); err != nil { // a beat
			t.Fatal(err)
		}
		c.want("token-1")
		e := revocation.Entry{Seq: 1, Kind: revocation.ByClient, Val: shopWeb, Before: time.Now().Unix(), At: time.Now().Unix(), Until: revocation.Until(time.Now(), 0)}
		if err := revoked(false, e); err != nil {
			t.Fatal(err)
		}
		c.want("token-2")
		if err := revoked(false, revocation.Entry{Kind: "unheard of"}); err == nil {
			t.Error("an entry that cannot be read was taken")
		}
		c.want("token-3")
		if err := revoked(true, e); err != nil {
			t.Fatal(err)
		}
		c.want("token-4")
	})
}

// A token that was asked for before the log grew is not kept, nor used by the call that waits.
func TestSecAttachedTokenRevokedWhileAsked(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		forgotten := func(want string) {
			t.Helper()
			type got struct {
				text string
				err  error
			}
			answer := make(chan got, 1)
			release := s.hold()
			go func() {
				text, err := c.n.tokens.get(t.Context(), c.run, toAPI)
				answer <- got{text, err}
			}()
			<-s.seen
			c.n.tokens.forget()
			release()
			if g := <-answer; g.err != nil || g.text != want {
				t.Errorf("got %q, %v; want %q", g.text, g.err, want)
			}
		}
		forgotten("token-2")
		c.want("token-2")
		c.n.tokens.forget()
		c.want("token-3")
		time.Sleep(150 * time.Second)
		release := s.hold() // a renewal, too
		c.want("token-3")
		<-s.seen
		c.n.tokens.forget()
		release()
		c.renewed()
		c.want("token-5")
	})
}

// However often the log grows, a call ends.
func TestAttachedTokenForgottenAlways(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		s.each = c.n.tokens.forget
		c.want(fmt.Sprintf("token-%d", maxTries))
	})
}

// The keys of our issuer that go take along what they signed, as do changes of records; a new
// key does not.
func TestSecAttachedTokenKeyGone(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		bundle, err := s.ca.Bundle().JSON()
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string]*jose.Key{}
		for _, name := range []string{"a", "b", "c"} {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := jose.NewSigner(private)
			if err != nil {
				t.Fatal(err)
			}
			keys[name] = signer.Key()
		}
		instances := c.n.snap.Load().Instances
		revision := int64(0)
		apply := func(names string, attach ...snapshot.Attach) {
			t.Helper()
			var list []*jose.Key
			for _, name := range strings.Fields(names) {
				list = append(list, keys[name])
			}
			set, err := jose.NewSet(list...)
			if err != nil {
				t.Fatal(err)
			}
			text, err := set.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			revision++
			err = c.n.apply(&snapshot.Node{
				Revision: revision, Mesh: snapshot.Mesh{TrustDomain: "cluster.local", RootNamespace: "istio-system"},
				Set:     policy.Set{TrustDomain: "cluster.local", RootNamespace: "istio-system"},
				Bundles: map[string][]byte{"cluster.local": bundle}, Instances: instances, Attach: attach,
				Tokens: &snapshot.Tokens{Issuer: "https://localhost:7444", Keys: text},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		apply("a")
		c.want("token-1")
		apply("a b")
		c.want("token-1")
		apply("b a c")
		c.want("token-1")
		apply("b c")
		c.want("token-2")
		apply("b c", snapshot.Attach{ID: shopWeb, Service: "shop/api"})
		c.want("token-3")
		apply("b c", snapshot.Attach{ID: shopWeb, Service: "shop/api"})
		c.want("token-3")
	})
}

// A destination that refuses a token gets another, one in half a minute.
func TestAttachedTokenRejected(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.want("token-1")
		reject := func(token string) { c.n.tokens.rejected(c.run, toAPI, token) }
		reject("token-1")
		c.want("token-1") // it has just been got
		time.Sleep(doubtEvery)
		reject("token-0")
		c.want("token-1")
		reject("token-1")
		c.want("token-2")
		for range 100 {
			reject("token-2")
			c.want("token-2")
		}
		time.Sleep(doubtEvery)
		c.gen = 2
		reject("token-2")
		c.gen = 1
		c.want("token-2")
		c.gen = 0
		reject("token-2")
		c.gen = 1
		reject("token-2")
		c.want("token-3")
	})
}

// Each generation of the SVID has its own token, and what has ended is not kept.
func TestAttachedTokenGeneration(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		for c.gen = 1; c.gen <= 20; c.gen++ {
			c.want(fmt.Sprintf("token-%d", c.gen))
			time.Sleep(100 * time.Second)
		}
		if n := len(c.n.tokens.by); n > 4 {
			t.Errorf("%d are kept", n)
		}
	})
}
