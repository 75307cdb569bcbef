package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/attest"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	spiffe "github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// The unmodified go-spiffe client takes SVID and bundle, and a second identity keeps its order.
func TestFetchX509Context(t *testing.T) {
	a := newAuthority(t)
	st := a.state("web", "")
	st.SVIDs = append(st.SVIDs, a.state("api", "second").SVIDs...)
	st.SVIDs = append(st.SVIDs, a.state("aux", "second").SVIDs...) // not unique: dropped
	src := newNode(func(f attest.Facts) (State, error) {
		if f.PID != os.Getpid() || int(f.UID) != os.Geteuid() {
			return State{}, fmt.Errorf("facts %+v", f)
		}
		return st, nil
	})
	path, _, _ := start(t, src)
	got, err := spiffe.FetchX509Context(limited(t), spiffe.WithAddr("unix://"+path))
	if err != nil {
		t.Fatal(err)
	}
	var ids, hints []string
	for _, v := range got.SVIDs {
		ids, hints = append(ids, v.ID.Path()), append(hints, v.Hint)
	}
	if fmt.Sprint(ids) != "[/ns/default/sa/web /ns/default/sa/api /ns/default/sa/aux]" || fmt.Sprintf("%q", hints) != `["" "second" ""]` {
		t.Errorf("got %v with hints %q", ids, hints)
	}
	td := spiffeid.RequireTrustDomainFromString("example.org")
	bundle, err := got.Bundles.GetX509BundleForTrustDomain(td)
	if err != nil || len(bundle.X509Authorities()) != 1 || !bundle.X509Authorities()[0].Equal(a.cert) {
		t.Errorf("bundle %v, %v", bundle, err)
	}
	set, err := spiffe.FetchX509Bundles(limited(t), spiffe.WithAddr("unix://"+path))
	if err != nil {
		t.Fatal(err)
	}
	if other, err := set.GetX509BundleForTrustDomain(td); err != nil || !other.Equal(bundle) {
		t.Errorf("bundles alone: %v, %v", other, err)
	}
}

// watcher hands updates of go-spiffe's watch to the test.
type watcher struct {
	updates chan string
	errs    chan error
}

func (w watcher) OnX509ContextUpdate(c *spiffe.X509Context) { w.updates <- c.DefaultSVID().Hint }
func (w watcher) OnX509ContextWatchError(err error) {
	select {
	case w.errs <- err:
	default:
	}
}

func (w watcher) want(t *testing.T, hint string) {
	t.Helper()
	select {
	case got := <-w.updates:
		if got != hint {
			t.Errorf("got update %q, want %q", got, hint)
		}
	case err := <-w.errs:
		t.Fatalf("waiting for %q: %v", hint, err)
	case <-time.After(patience):
		t.Fatalf("no update %q", hint)
	}
}

// Renewals reach a running watch; a burst is one message; equal states are none; the loss of
// all identities ends the stream.
func TestWatchRotation(t *testing.T) {
	a := newAuthority(t)
	first := a.state("web", "first")
	src := newNode(func(attest.Facts) (State, error) { return first, nil })
	path, log, _ := start(t, src)
	w := watcher{make(chan string, 8), make(chan error, 8)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = spiffe.WatchX509Context(ctx, w, spiffe.WithAddr("unix://"+path))
	}()
	defer func() { cancel(); <-done }()
	w.want(t, "first")
	for i := range 10 {
		src.set(a.state("web", fmt.Sprint("burst ", i)), nil)
	}
	w.want(t, "burst 9")
	same := a.state("web", "third")
	src.set(same, nil)
	w.want(t, "third")
	before := src.times()
	src.set(same, nil)
	for end := time.Now().Add(patience); src.times() == before; { // the stream looked again …
		if time.Now().After(end) {
			t.Fatal("the stream does not look")
		}
	}
	src.set(a.state("web", "fourth"), nil)
	w.want(t, "fourth") // … and sent nothing for it
	src.set(State{Refusal: &Refusal{Reason: "no_entry", Text: "no Workload matches this process"}}, nil)
	select {
	case err := <-w.errs:
		wantCode(t, "withdrawn", err, codes.PermissionDenied)
	case <-time.After(patience):
		t.Fatal("the stream did not end")
	}
	log.await(t, "reason=no_entry")
}

// identity.md 6.2 step 1: the header comes before everything, also for calls that do not exist.
func TestHeader(t *testing.T) {
	a := newAuthority(t)
	src := newNode(func(attest.Facts) (State, error) { return a.state("web", ""), nil })
	path, _, _ := start(t, src)
	client, conn := dial(t, path)
	svid := func(ctx context.Context) error {
		s, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	jwt := func(ctx context.Context) error {
		_, err := client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"a"}})
		return err
	}
	validate := func(ctx context.Context) error {
		_, err := client.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{})
		return err
	}
	jwtBundles := func(ctx context.Context) error {
		s, err := client.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	wit := func(ctx context.Context) error {
		s, err := client.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	for _, c := range []struct {
		name string
		call func(context.Context) error
		want codes.Code
	}{
		{"X.509", svid, codes.OK}, {"JWT", jwt, codes.Unimplemented}, {"JWT bundles", jwtBundles, codes.Unimplemented},
		{"validate", validate, codes.Unimplemented}, {"WIT", wit, codes.Unimplemented},
	} {
		for _, values := range [][]string{nil, {"false"}, {"True"}, {""}, {"true", "true"}, {"true", "false"}} {
			wantCode(t, fmt.Sprintf("%s with header %q", c.name, values), c.call(withHeader(limited(t), values...)), codes.InvalidArgument)
		}
		wantCode(t, c.name, c.call(withHeader(limited(t), "true")), c.want)
	}
	r, err := healthpb.NewHealthClient(conn).Check(limited(t), &healthpb.HealthCheckRequest{})
	if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
}

// The caller's own facts and nothing else; the log says all, once.
func TestNoIdentity(t *testing.T) {
	refusal := Refusal{Reason: "no_entry", Text: "no Workload matches this process", Detail: []string{"nearest shop/payments"}}
	src := newNode(func(attest.Facts) (State, error) { return State{Refusal: &refusal}, nil })
	path, log, _ := start(t, src)
	client, _ := dial(t, path)
	for range 2 {
		begun := time.Now()
		s, err := client.FetchX509SVID(withHeader(limited(t), "true"), &workload.X509SVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		wantCode(t, "no identity", err, codes.PermissionDenied)
		if d := time.Since(begun); d < 900*time.Millisecond {
			t.Errorf("refused after %v, before an entry could come", d)
		}
		text := status.Convert(err).Message()
		if want := fmt.Sprintf("no identity issued: no Workload matches this process (unix:uid:%d ", os.Geteuid()); !strings.HasPrefix(text, want) || strings.Contains(text, "shop/payments") || len(text) > 1024 {
			t.Errorf("text %q, want %q…", text, want)
		}
	}
	if n := strings.Count(log.String(), "no identity"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log)
	}
	for _, part := range []string{"reason=no_entry", fmt.Sprintf("unix:gid:%d", os.Getegid()), "nearest shop/payments", fmt.Sprintf("pid=%d", os.Getpid())} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("no %q in the log:\n%s", part, log)
		}
	}
}

// An entry that comes while a call is held is served at once.
func TestHeldUntilRegistered(t *testing.T) {
	a := newAuthority(t)
	for name, before := range map[string]State{
		"refused": {Refusal: &Refusal{Reason: "no_entry", Text: "no Workload matches this process"}}, "starting": {Starting: true},
	} {
		src := newNode(func(attest.Facts) (State, error) { return before, nil })
		path, _, _ := start(t, src)
		client, _ := dial(t, path)
		s, err := client.FetchX509SVID(withHeader(limited(t), "true"), &workload.X509SVIDRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for src.times() == 0 {
		}
		begun := time.Now()
		src.set(a.state("web", "now"), nil)
		r, err := s.Recv()
		if err != nil || r.Svids[0].Hint != "now" {
			t.Fatalf("%s: %v, %v", name, r, err)
		}
		if d := time.Since(begun); d > 500*time.Millisecond {
			t.Errorf("%s: served after %v", name, d)
		}
	}
}

func TestUnavailable(t *testing.T) {
	a := newAuthority(t)
	noBundle, noKey := a.state("web", ""), a.state("web", "")
	noBundle.Bundle, noKey.SVIDs[0].Key = nil, nil
	for name, c := range map[string]struct {
		state State
		err   error
		text  string
	}{
		"starting":  {State{Starting: true}, nil, "node is starting"},
		"error":     {State{}, errors.New("server secret.internal does not answer"), "SVID cannot be made now"},
		"nothing":   {State{}, nil, "SVID cannot be made now"},
		"no bundle": {noBundle, nil, "SVID cannot be made now"},
		"no key":    {noKey, nil, "SVID cannot be made now"},
		"outage":    {State{Refusal: &Refusal{Reason: "expired_outage", Text: "SVID ended 12:04:11"}}, nil, "no identity issued: SVID ended 12:04:11"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newNode(func(attest.Facts) (State, error) { return c.state, c.err })
			path, _, _ := start(t, src)
			client, _ := dial(t, path)
			s, err := client.FetchX509SVID(withHeader(limited(t), "true"), &workload.X509SVIDRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			wantCode(t, name, err, codes.Unavailable)
			if text := status.Convert(err).Message(); !strings.HasPrefix(text, c.text) {
				t.Errorf("text %q, want %q", text, c.text)
			}
		})
	}
}

// sec-stream-recheck: a process that becomes another program keeps its connection, and gets no
// further key over it.
func TestStreamRecheck(t *testing.T) {
	a := newAuthority(t)
	src := newNode(func(attest.Facts) (State, error) { return a.state("web", "first"), nil })
	path, log, _ := start(t, src)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other") // the same bytes, another inode
	if err := os.WriteFile(other, b, 0o755); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, exe, "fetch "+path)
	if got := c.answer(); got != "ok first" {
		t.Fatalf("first message: %q", got)
	}
	c.send("exec " + other)
	if got := c.answer(); got != "ok" {
		t.Fatalf("after exec: %q", got)
	}
	src.set(a.state("web", "second"), nil)
	log.await(t, "caller could not be attested")
	c.send("report")
	if got := c.answer(); !strings.HasSuffix(got, "second false") {
		t.Errorf("the other program was sent the next message: %q", got)
	}
	if !strings.Contains(log.String(), attest.ErrChanged.Error()) {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// The end of the process ends its streams, although another process holds the connection.
func TestProcessEnds(t *testing.T) {
	a := newAuthority(t)
	src := newNode(func(attest.Facts) (State, error) { return a.state("web", "first"), nil })
	path, _, _ := start(t, src)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := startChild(t, exe, "fetch "+path)
	c.answer()
	c.send("exit")
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	client, _ := dial(t, path)
	s, err := client.FetchX509SVID(withHeader(limited(t), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	src.set(a.state("web", "second"), nil)
	if r, err := s.Recv(); err != nil || r.Svids[0].Hint != "second" {
		t.Fatal(r, err)
	}
	if n := src.times(); n != 3 { // once for it, twice for us
		t.Errorf("the state was asked for %d times, also for the process that is gone", n)
	}
}

// A node that stops says so and waits for nobody.
func TestStop(t *testing.T) {
	a := newAuthority(t)
	src := newNode(func(attest.Facts) (State, error) { return a.state("web", ""), nil })
	path, _, stop := start(t, src)
	client, _ := dial(t, path)
	s, err := client.FetchX509SVID(withHeader(limited(t), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	_, err = s.Recv()
	wantCode(t, "after stop", err, codes.Unavailable)
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestTooLargeMessage(t *testing.T) {
	src := newNode(func(attest.Facts) (State, error) { return State{}, errors.New("not reached") })
	path, _, _ := start(t, src)
	client, _ := dial(t, path)
	_, err := client.FetchJWTSVID(withHeader(limited(t), "true"), &workload.JWTSVIDRequest{SpiffeId: strings.Repeat("a", maxMessage)})
	wantCode(t, "1 MiB", err, codes.ResourceExhausted)
}

// One process has 64 connections; the next ones are closed.
func TestConnectionsOfOneProcess(t *testing.T) {
	a := newAuthority(t)
	src := newNode(func(attest.Facts) (State, error) { return a.state("web", ""), nil })
	path, _, _ := start(t, src)
	var conns []net.Conn
	for range maxPerPID {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); err != nil || n != 1 { // the server's SETTINGS
			t.Fatal(n, err)
		}
		conns = append(conns, c)
	}
	extra, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if _, err := extra.Read(make([]byte, 1)); err == nil {
		t.Error("connection 65 was served")
	}
	for _, c := range conns {
		c.Close()
	}
	ctx := limited(t)
	for { // until the server has noticed
		_, err := spiffe.FetchX509SVID(ctx, spiffe.WithAddr("unix://"+path))
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("after they closed: %v", err)
		}
	}
}

func BenchmarkFetch(b *testing.B) {
	a := newAuthority(b)
	st := a.state("web", "")
	src := newNode(func(attest.Facts) (State, error) { return st, nil })
	path, _, _ := start(b, src)
	client, _ := dial(b, path)
	ctx := withHeader(context.Background(), "true")
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithCancel(ctx)
		s, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		cancel()
		if err != nil {
			b.Fatal(err)
		}
	}
}
