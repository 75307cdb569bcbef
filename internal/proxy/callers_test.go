package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/policy"
)

const partnerID = "spiffe://partner.test/ns/far/sa/app"

// guests is a house whose TLS door asks its callers for SVIDs.
type guests struct {
	*house
	partner *identitytest.Authority
	asks    atomic.Pointer[Callers]
}

func newGuests(t *testing.T, want *Callers) *guests {
	t.Helper()
	g := &guests{house: newHouse(t, setup{}, toAPI()), partner: identitytest.New(t, "partner.test", time.Now())}
	g.asks.Store(want)
	var r *run
	for _, at := range g.a.all() {
		if at.Instance == "edge1" {
			r = at
		}
	}
	for _, d := range r.doors {
		if d.Certificate != nil {
			d.Callers = g.asks.Load // before the first caller
		}
	}
	g.change(func(s *State) { s.Trust = g.ca.Trust(g.partner) })
	g.admit(policy.Rule{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/web", "partner.test/ns/far/sa/app"}}}})
	return g
}

// call is one request with that certificate; the error is that of the handshake, which a server of TLS 1.3 tells late.
func (g *guests) call(cert *tls.Certificate, version uint16, fields ...string) (status int, body string, decision string, err error) {
	g.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(g.ca.Root)
	cfg := &tls.Config{RootCAs: roots, ServerName: "shop.test", MaxVersion: version}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	c, err := tls.Dial("tcp", g.https, cfg)
	if err != nil {
		return 0, "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.test\r\n"+strings.Join(append(fields, "Connection: close"), "\r\n")+"\r\n\r\n"); err != nil {
		return 0, "", "", err
	}
	r := bufio.NewReader(c)
	if _, err := r.Peek(1); err != nil {
		return 0, "", "", err
	}
	status, body, h := answerOf(g.t, r)
	return status, body, h.Get("X-Decision-Id"), nil
}

// T3, T5: a door that wants a good SVID sends an alert for any other certificate, and takes the verified one as the peer.
func TestSecDoorCallers(t *testing.T) {
	g := newGuests(t, &Callers{TrustDomains: []string{"cluster.local", "partner.test"}})
	other := identitytest.New(t, "cluster.local", time.Now()) // the same name, another key
	good := g.ca.Leaf(t, webID)
	leaf := func(edit func(*x509.Certificate)) *tls.Certificate { return g.ca.Leaf(t, webID, edit) }
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		reason string // of the record; "": it is taken
		status int
	}{
		"own":             {good, "", 200},
		"federated":       {g.partner.Leaf(t, partnerID), "", 200},
		"nobody's policy": {g.ca.Leaf(t, otherID), "", 403},
		"none":            {nil, identity.NoClientCert, 0},
		"foreign":         {other.Leaf(t, webID), identity.UnknownCA, 0},
		"unknown domain":  {identitytest.New(t, "else.test", time.Now()).Leaf(t, "spiffe://else.test/ns/a/sa/b"), identity.WrongTrustDomain, 0},
		"expired": {leaf(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), identity.Expired, 0},
		"no SPIFFE ID": {leaf(func(c *x509.Certificate) { c.ExtraExtensions, c.DNSNames = nil, []string{"web.test"} }), identity.BadSAN, 0},
		"an authority": {leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), identity.CALeaf, 0},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			status, body, id, err := g.call(c.cert, version)
			if c.reason != "" {
				if err == nil || !strings.Contains(err.Error(), "remote error") {
					t.Errorf("%s: %d %q, %v; want an alert", name, status, body, err)
				}
				g.a.record(func(r *audit.Record) bool {
					return r.Kind == audit.KindConnection && r.Reason == c.reason && r.DstID == edgeID
				})
				continue
			}
			if err != nil || status != c.status {
				t.Errorf("%s: %d %q, %v; want %d", name, status, body, err, c.status)
				continue
			}
			if status == 200 && !strings.Contains(body, "URI="+edgeID) {
				t.Errorf("%s: the service does not see the Gateway\n%s", name, body)
			}
			if status == 403 {
				if rec := g.a.record(func(r *audit.Record) bool { return r.ID == id }); rec.PeerID != otherID {
					t.Errorf("%s: the record names %q", name, rec.PeerID)
				}
			}
		}
	}
	// A trust domain that is known, but not asked for here.
	g.asks.Store(&Callers{TrustDomains: []string{"cluster.local"}})
	if status, _, _, err := g.call(g.partner.Leaf(t, partnerID), tls.VersionTLS13); err == nil {
		t.Errorf("another door's trust domain: %d", status)
	}
}

// T4: where certificates are only asked for, one that is not good is no identity at all.
func TestSecDoorCallersOptional(t *testing.T) {
	g := newGuests(t, &Callers{Optional: true, TrustDomains: []string{"cluster.local"}})
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		status int
	}{
		"own":       {g.ca.Leaf(t, webID), 200},
		"none":      {nil, 403},
		"foreign":   {identitytest.New(t, "cluster.local", time.Now()).Leaf(t, webID), 403},
		"federated": {g.partner.Leaf(t, partnerID), 403},
	} {
		status, body, id, err := g.call(c.cert, tls.VersionTLS13)
		if err != nil || status != c.status {
			t.Errorf("%s: %d %q, %v; want %d", name, status, body, err, c.status)
		}
		if c.status == 403 {
			if rec := g.a.record(func(r *audit.Record) bool { return r.ID == id }); rec.PeerID != "" || rec.PeerFP != [16]byte{} {
				t.Errorf("%s: the record names %q", name, rec.PeerID)
			}
		}
	}
}

// Tokens that are bound to a certificate count on a connection that proved it, and on no other.
func TestSecDoorBoundToken(t *testing.T) {
	g := newGuests(t, &Callers{Optional: true, TrustDomains: []string{"cluster.local"}})
	g.a.Proxy.exchange = (&exchanger{token: g.own.edge()}).exchange
	g.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Audience = apiID
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
	})
	g.admit(policy.Rule{From: []policy.Source{{RequestPrincipals: []string{"*"}}}})
	bound := bearerLine(g.own.ours()) // to web, by its name
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		status int
	}{"web": {g.ca.Leaf(t, webID), 200}, "another": {g.ca.Leaf(t, otherID), 401}, "nobody": {nil, 401}} {
		if status, body, _, err := g.call(c.cert, tls.VersionTLS13, bound); err != nil || status != c.status {
			t.Errorf("%s: %d %q, %v; want %d", name, status, body, err, c.status)
		}
	}
}

// What a door asks of callers counts for those that are there: who no longer would come in goes.
func TestSecDoorCallersChange(t *testing.T) {
	for name, change := range map[string]func(g *guests){
		"now required": func(g *guests) {
			g.asks.Store(&Callers{TrustDomains: []string{"partner.test"}})
			g.change(func(*State) {})
		},
		"authority gone": func(g *guests) {
			g.change(func(s *State) { s.Trust = identitytest.New(t, "cluster.local", time.Now()).Trust(g.partner) })
		},
	} {
		g := newGuests(t, &Callers{Optional: true, TrustDomains: []string{"cluster.local", "partner.test"}})
		roots := x509.NewCertPool()
		roots.AddCert(g.ca.Root)
		cert := g.ca.Leaf(t, webID)
		c, err := tls.Dial("tcp", g.https, &tls.Config{RootCAs: roots, ServerName: "shop.test",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		r := bufio.NewReader(c)
		ask := func() (int, error) {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"); err != nil {
				return 0, err
			}
			if _, err := r.Peek(1); err != nil {
				return 0, err
			}
			status, _, _ := answerOf(t, r)
			return status, nil
		}
		if status, err := ask(); status != 200 {
			t.Fatalf("%s: %d, %v", name, status, err)
		}
		change(g)
		if status, err := ask(); err == nil {
			t.Errorf("%s: %d on the old connection", name, status)
		}
	}
}

// An SVID ends: nothing new begins on its connection.
func TestDoorCallerExpires(t *testing.T) {
	now := time.Now()
	x := &exchange{p: &Proxy{}, now: now, link: &link{state: &tls.ConnectionState{}, peer: identity.Peer{NotAfter: now}}}
	x.r = httptest.NewRequest("GET", "/", nil)
	if no := x.stranger(); no != refuseExpired {
		t.Errorf("%+v", no)
	}
}

// T6: no session is resumed, so that every connection is judged by the bundle of its time: one whose authority is gone
// is refused though it was let in before.
func TestSecT6NothingIsResumed(t *testing.T) {
	g := newGuests(t, &Callers{TrustDomains: []string{"cluster.local", "partner.test"}})
	cert := g.partner.Leaf(t, partnerID)
	roots := x509.NewCertPool()
	roots.AddCert(g.ca.Root)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g.change(func(s *State) { s.Trust = g.ca.Trust(g.partner) })
		cache := tls.NewLRUClientSessionCache(1)
		call := func() (resumed bool, err error) {
			c, err := tls.Dial("tcp", g.https, &tls.Config{RootCAs: roots, ServerName: "shop.test", MaxVersion: version, ClientSessionCache: cache,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
			if err != nil {
				return false, err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
			_, err = c.Read(make([]byte, 1)) // with the tickets before it, were there any
			return c.ConnectionState().DidResume, err
		}
		for range 2 {
			if resumed, err := call(); resumed || err != nil {
				t.Errorf("version %x: resumed %v, %v", version, resumed, err)
			}
		}
		g.change(func(s *State) { s.Trust = g.ca.Trust() })
		if resumed, err := call(); resumed || err == nil {
			t.Errorf("version %x, its authority is gone: resumed %v, %v", version, resumed, err)
		}
	}
}
