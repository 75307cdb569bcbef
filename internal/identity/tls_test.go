package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

// handshake runs both ends over a real connection and returns both errors. A client of TLS 1.3
// is done before the server has judged it, so it reads once to learn the verdict.
func handshake(t *testing.T, server, client *tls.Config) (cs, ss tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if serverErr = c.HandshakeContext(context.WithoutCancel(t.Context())); serverErr == nil {
			ss = c.ConnectionState()
			c.Write([]byte("x"))
		}
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	if clientErr = c.HandshakeContext(t.Context()); clientErr == nil {
		cs = c.ConnectionState()
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	raw.Close()
	<-done
	return cs, ss, clientErr, serverErr
}

func side(pair *tls.Certificate, trust *identity.Trust) identity.Side {
	return identity.Side{
		Own:        func(string) (*tls.Certificate, error) { return pair, nil },
		Trust:      func() *identity.Trust { return trust },
		Now:        func() time.Time { return now },
		NextProtos: []string{"test/1"},
	}
}

func TestHandshake(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	api, web := a.Leaf(t, "spiffe://home.test/ns/shop/sa/api"), a.Leaf(t, "spiffe://home.test/ns/shop/sa/web")
	server, client := side(api, a.Trust()), side(web, a.Trust())
	var asked, dialled []string
	server.Own = func(name string) (*tls.Certificate, error) { asked = append(asked, name); return api, nil }
	client.Own = func(name string) (*tls.Certificate, error) { dialled = append(dialled, name); return web, nil }

	cs, ss, cerr, serr := handshake(t, identity.ServerConfig(server, tls.RequireAnyClientCert), identity.ClientConfig(client, "api.shop"))
	if cerr != nil || serr != nil {
		t.Fatalf("client %v, server %v", cerr, serr)
	}
	if cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || cs.NegotiatedProtocol != "test/1" || cs.DidResume {
		t.Errorf("got version %x, group %v, protocol %q, resumed %v", cs.Version, cs.CurveID, cs.NegotiatedProtocol, cs.DidResume)
	}
	if strings.Join(asked, ",") != "api.shop" || strings.Join(dialled, "|") != "" || len(dialled) != 1 {
		t.Errorf("server asked for %q, client for %q", asked, dialled)
	}
	if peer, err := identity.PeerOf(ss, a.Trust(), now); err != nil || peer.ServiceAccount != "web" {
		t.Errorf("server sees %q, %v", peer.ServiceAccount, err)
	}
	if peer, err := identity.PeerOf(cs, a.Trust(), now); err != nil || peer.ServiceAccount != "api" {
		t.Errorf("client sees %q, %v", peer.ServiceAccount, err)
	}
	if _, err := identity.PeerOf(ss, identity.NewTrust(a.TrustDomain), now); reasonOf(err) != identity.WrongTrustDomain {
		t.Errorf("after the bundle went: got %v", err)
	}
}

// Both ends must come to the verdict of Verify for every animal.
func TestHandshakeZoo(t *testing.T) {
	cages, zoo := identitytest.Zoo(t, now)
	trust := cages.Home.Trust(cages.Other)
	good := side(cages.Home.Leaf(t, identitytest.WorkloadID), trust)
	for _, a := range zoo {
		bad := side(identitytest.Pair(a.Key, a.Chain...), trust)
		t.Run("client "+a.Name, func(t *testing.T) {
			_, _, _, serr := handshake(t, identity.ServerConfig(good, tls.RequireAnyClientCert), identity.ClientConfig(bad, "x"))
			checkVerdict(t, a.Reason, serr)
		})
		t.Run("server "+a.Name, func(t *testing.T) {
			_, _, cerr, _ := handshake(t, identity.ServerConfig(bad, tls.RequireAnyClientCert), identity.ClientConfig(good, "x"))
			checkVerdict(t, a.Reason, cerr)
		})
	}
}

// checkVerdict allows crypto/tls its own word about keys it cannot sign with.
func checkVerdict(t *testing.T, want string, err error) {
	t.Helper()
	if want == "" && err != nil {
		t.Errorf("refused: %v", err)
	}
	if want != "" && err == nil {
		t.Errorf("accepted, want %s", want)
	}
	if got := identity.Reason(err); got != "" && got != want {
		t.Errorf("got reason %q, want %q: %v", got, want, err)
	}
}

func TestHandshakeOptionalClient(t *testing.T) {
	cages, zoo := identitytest.Zoo(t, now)
	a := cages.Home
	server := side(a.Leaf(t, identitytest.WorkloadID), a.Trust())
	nobody := side(nil, a.Trust())
	nobody.Own = nil

	_, ss, cerr, serr := handshake(t, identity.ServerConfig(server, tls.RequestClientCert), identity.ClientConfig(nobody, "x"))
	if cerr != nil || serr != nil {
		t.Fatalf("without certificate: client %v, server %v", cerr, serr)
	}
	if _, err := identity.PeerOf(ss, a.Trust(), now); reasonOf(err) != identity.NoClientCert {
		t.Errorf("PeerOf: got %v, want %s", err, identity.NoClientCert)
	}
	_, _, _, serr = handshake(t, identity.ServerConfig(server, tls.RequireAnyClientCert), identity.ClientConfig(nobody, "x"))
	if got := identity.Reason(serr); got != identity.NoClientCert {
		t.Errorf("required: got %q (%v), want %s", got, serr, identity.NoClientCert)
	}
	for _, animal := range zoo {
		if animal.Name != "stranger with the same names" {
			continue
		}
		_, _, _, serr = handshake(t, identity.ServerConfig(server, tls.RequestClientCert), identity.ClientConfig(side(identitytest.Pair(animal.Key, animal.Chain...), nil), "x"))
		if serr == nil {
			t.Error("optional: a bad certificate was let through")
		}
	}
}

func TestHandshakeCheck(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	pair := a.Leaf(t, identitytest.WorkloadID)
	want := spiffeid.RequireFromString("spiffe://home.test/ns/shop/sa/other")
	client := side(pair, a.Trust())
	client.Check = func(p identity.Peer) error {
		if p.ID != want {
			return errors.New("dialled other, found " + p.ID.String())
		}
		return nil
	}
	_, _, cerr, serr := handshake(t, identity.ServerConfig(side(pair, a.Trust()), tls.RequireAnyClientCert), identity.ClientConfig(client, "x"))
	if got := identity.Reason(cerr); got != identity.UnexpectedPeer || serr == nil {
		t.Errorf("got %q (%v), server %v, want %s", got, cerr, serr, identity.UnexpectedPeer)
	}
	client.Check = func(identity.Peer) error { return &identity.Error{Reason: "revoked", Text: "banned"} }
	_, _, cerr, _ = handshake(t, identity.ServerConfig(side(pair, a.Trust()), tls.RequireAnyClientCert), identity.ClientConfig(client, "x"))
	if got := identity.Reason(cerr); got != "revoked" {
		t.Errorf("got %q, want the reason of Check", got)
	}
}

func TestReason(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	pair := a.Leaf(t, identitytest.WorkloadID)
	server := identity.ServerConfig(side(pair, a.Trust()), tls.RequireAnyClientCert)
	client := identity.ClientConfig(side(pair, a.Trust()), "x")
	for name, tt := range map[string]struct {
		edit func(*tls.Config)
		want string
	}{
		"TLS 1.2":  {func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }, identity.Version},
		"P-521":    {func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} }, identity.Group},
		"protocol": {func(c *tls.Config) { c.NextProtos = []string{"else"} }, identity.ALPN},
	} {
		c := client.Clone()
		tt.edit(c)
		_, _, _, serr := handshake(t, server, c)
		if got := identity.Reason(serr); got != tt.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, serr, tt.want)
		}
	}
	ours, theirs := net.Pipe()
	go func() { theirs.Write([]byte("GET / HTTP/1.1\r\n")); theirs.Close() }()
	if got := identity.Reason(tls.Server(ours, server).Handshake()); got != identity.Plaintext {
		t.Errorf("plaintext: got %q", got)
	}
	mute, silent := net.Pipe()
	defer silent.Close()
	mute.SetDeadline(time.Now())
	if got := identity.Reason(tls.Server(mute, server).Handshake()); got != identity.Timeout {
		t.Errorf("silence: got %q", got)
	}
	if got := identity.Reason(nil); got != "" {
		t.Errorf("nil: got %q", got)
	}
	if got := identity.Reason(io.EOF); got != "" {
		t.Errorf("EOF: got %q", got)
	}
}

// A client that knows nobody yet reads what it is given and shows nothing.
func TestBlindConfig(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	server := side(a.Leaf(t, identitytest.WorkloadID), a.Trust())
	_, ss, cerr, serr := handshake(t, identity.ServerConfig(server, tls.RequestClientCert), func() *tls.Config {
		c := identity.BlindConfig("x", func() time.Time { return now })
		c.NextProtos = []string{"test/1"}
		return c
	}())
	if cerr != nil || serr != nil || len(ss.PeerCertificates) != 0 {
		t.Errorf("client %v, server %v, %d certificates shown", cerr, serr, len(ss.PeerCertificates))
	}
}

// Tickets would let a peer back in without its chain being sent.
func TestConfigs(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	s := side(a.Leaf(t, identitytest.WorkloadID), a.Trust())
	for name, c := range map[string]*tls.Config{
		"server": identity.ServerConfig(s, tls.RequireAnyClientCert), "optional": identity.ServerConfig(s, tls.RequestClientCert),
		"other": identity.ServerConfig(s, tls.NoClientCert), "client": identity.ClientConfig(s, "x"),
	} {
		if c.MinVersion != tls.VersionTLS13 || !c.SessionTicketsDisabled || !c.DynamicRecordSizingDisabled || c.VerifyConnection == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if c := identity.ServerConfig(s, tls.NoClientCert); c.ClientAuth != tls.RequireAnyClientCert {
		t.Errorf("an unknown mode became %v, want a certificate demanded", c.ClientAuth)
	}
	if identity.ClientConfig(s, "x").ClientSessionCache != nil {
		t.Error("the client keeps sessions")
	}
}

// Only this package may tell crypto/tls not to verify: it verifies itself.
func TestInsecureSkipVerifyLivesHere(t *testing.T) {
	set := regexp.MustCompile(`InsecureSkipVerify\s*[:=]`)
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && set.Match(text) && path != filepath.Join("..", "identity", "tls.go") {
			t.Errorf("%s sets InsecureSkipVerify", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkHandshake(b *testing.B) {
	a := identitytest.New(b, "home.test", now)
	s := side(a.Leaf(b, identitytest.WorkloadID), a.Trust())
	server, client := identity.ServerConfig(s, tls.RequireAnyClientCert), identity.ClientConfig(s, "x")
	b.ReportAllocs()
	for b.Loop() {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(theirs, server).Handshake() }()
		if err := tls.Client(ours, client).Handshake(); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		ours.Close()
	}
}
