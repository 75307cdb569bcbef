package workloadapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/attest"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authority signs the SVIDs of these tests.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.sign("spiffe://example.org", nil)
	return a
}

func (a *authority) sign(id string, parent *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		a.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{uri}, BasicConstraintsValid: true, IsCA: parent == nil, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	signer, issuer := key, tmpl
	if parent == nil {
		tmpl.KeyUsage = x509.KeyUsageCertSign
	} else {
		signer, issuer = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// state is one identity, freshly signed.
func (a *authority) state(name, hint string) State {
	key, cert := a.sign("spiffe://example.org/ns/default/sa/"+name, a)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return State{
		SVIDs:       []SVID{{ID: cert.URIs[0].String(), Chain: [][]byte{cert.Raw}, Key: der, Hint: hint}},
		TrustDomain: "example.org", Bundle: [][]byte{a.cert.Raw},
	}
}

// node is a Source whose answer a test sets.
type node struct {
	mu      sync.Mutex
	state   func(attest.Facts) (State, error)
	asked   int
	changed chan struct{}
}

func newNode(state func(attest.Facts) (State, error)) *node {
	return &node{state: state, changed: make(chan struct{})}
}

func (n *node) State(_ context.Context, f attest.Facts, p *attest.Process) (State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if p == nil || p.PID() != f.PID {
		return State{}, errors.New("facts of another process")
	}
	return n.state(f)
}

func (n *node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// set changes the answer and says so.
func (n *node) set(state State, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = func(attest.Facts) (State, error) { return state, err }
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) times() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// logged is a log that tests read.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) await(t *testing.T, part string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !strings.Contains(l.String(), part); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("no %q in the log:\n%s", part, l)
		}
	}
}

// start serves src on a socket of its own until the test ends.
func start(t testing.TB, src Source) (path string, log *logged, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "workload.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	log = &logged{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(src, slog.New(slog.NewTextHandler(log, nil))).Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		os.RemoveAll(dir)
	})
	t.Cleanup(stop)
	return path, log, stop
}

// dial is the bare client, for what go-spiffe does not let one do.
func dial(t testing.TB, path string) (workload.SpiffeWorkloadAPIClient, *grpc.ClientConn) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn), conn
}

func withHeader(ctx context.Context, values ...string) context.Context {
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, headerName, v)
	}
	return ctx
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}
