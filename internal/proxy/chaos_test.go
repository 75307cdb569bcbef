package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"countersign.dev/internal/audit"
)

// Every response carries its own request's tag, whatever clients, policies and certificates do
// meanwhile (dataplane.md 22.4, in small).
func TestTaggedEcho(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		tag := r.Header.Get("X-Tag")
		w.Header().Set("X-Tag", tag)
		if strings.HasSuffix(tag, "7") {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, tag+"\n")
		if r.ContentLength < 0 || strings.HasSuffix(tag, "3") {
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(w, r.Body)
	})})
	m.renew(m.web, webID, 5*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	var good, wrong atomic.Int64
	wait.Go(func() { // a second and a half is enough, unless the machine has much else to do
		for began := time.Now(); ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			if time.Since(began) > 1500*time.Millisecond && good.Load() >= 20 {
				cancel()
			}
		}
	})
	for worker := range 8 {
		wait.Go(func() {
			client := m.client()
			for n := 0; ctx.Err() == nil; n++ {
				tag := fmt.Sprintf("%d-%d", worker, n)
				text := bytes.Repeat([]byte(tag), rand.IntN(3000))
				var body io.Reader = bytes.NewReader(text)
				if n%2 == 0 {
					body = io.MultiReader(body)
				}
				one, drop := context.WithTimeout(ctx, time.Second)
				if n%11 == 0 {
					time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, drop)
				}
				req, _ := http.NewRequestWithContext(one, "POST", "http://api/"+tag, body)
				req.Header.Set("X-Tag", tag)
				resp, err := client.Do(req)
				if err == nil {
					got, readErr := io.ReadAll(resp.Body)
					resp.Body.Close()
					switch {
					case resp.StatusCode == 200 && readErr == nil && string(got) != tag+"\n"+string(text),
						resp.StatusCode == 200 && resp.Header.Get("X-Tag") != tag:
						wrong.Add(1)
					case resp.StatusCode == 200 && readErr == nil:
						good.Add(1)
					}
				}
				drop()
			}
		})
	}
	wait.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			select {
			case <-ctx.Done():
			case <-time.After(15 * time.Millisecond):
			}
			switch i % 3 {
			case 0:
				m.policies("", nobody())
			case 1:
				m.policies("", allowAll())
			default:
				m.renew(m.web, webID, 5*time.Second)
				m.a.Renewed("default", "web", "web1")
			}
		}
	})
	wait.Wait()
	if wrong.Load() > 0 || good.Load() < 20 {
		t.Errorf("%d right, %d wrong", good.Load(), wrong.Load())
	}
	for _, r := range append(m.a.all(), m.b.all()...) {
		eventually(t, "every exchange ended", func() bool { return r.live.count() == 0 })
	}
}

// The deadline of a call is its caller's to reach: a server that ends it first, with a reset, must
// not look like a fault of ours.
func TestGRPCDeadline(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}, 64)
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); method == "/svc/Stream" {
			if err := stream.SendHeader(nil); err != nil {
				return err
			}
		}
		<-stream.Context().Done()
		ended <- struct{}{}
		<-t.Context().Done() // its reset is the server's, not an answer of ours
		return nil
	}))
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	m := newMesh(t, setup{protocol: "grpc"})
	m.retarget(ln.Addr().String())
	tunnel := func(context.Context, string, string) (net.Conn, error) { return m.connect("api:80"), nil }

	// A caller with no clock of its own sees what is sent to it.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: tunnel}
	defer tr.CloseIdleConnections()
	for _, path := range []string{"/svc/Stream", "/svc/Unary"} {
		for range 5 {
			up, feed := io.Pipe()
			req, _ := http.NewRequest("POST", "http://api"+path, up)
			for name, value := range map[string]string{"Content-Type": "application/grpc", "Te": "trailers", "Grpc-Timeout": "20m"} {
				req.Header.Set(name, value)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if got := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status"); err != nil || got != "4" {
				t.Errorf("%s: status %q, %v", path, got, err)
			}
			_ = feed.Close()
			_ = resp.Body.Close()
			<-ended
		}
	}
	rec := m.b.record(func(r *audit.Record) bool { return r.Error == "upstream_timeout" })
	if rec.Decision != audit.Failed {
		t.Errorf("record %+v", rec)
	}

	conn, err := grpc.NewClient("passthrough:///api:80", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return tunnel(ctx, "", "") }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, method := range []string{"/svc/Stream", "/svc/Unary"} {
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+i)*time.Millisecond)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err == nil {
				err = stream.RecvMsg(new(healthpb.HealthCheckResponse))
			}
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: %v", method, err)
			}
			cancel()
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/svc/Stream")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	for len(ended) > 0 {
		<-ended
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the program never heard of the cancel")
	}
	m.b.record(func(r *audit.Record) bool { return r.Status == 499 })
}

// A real gRPC client and server, as grpc-go uses a proxy: CONNECT, HTTP/2 inside.
func TestGRPC(t *testing.T) {
	srv := grpc.NewServer()
	up := health.NewServer()
	up.SetServingStatus("orders", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(srv, up)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)

	m := newMesh(t, setup{protocol: "grpc"})
	m.retarget(ln.Addr().String())
	conn, err := grpc.NewClient("passthrough:///api:80", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return m.connect("api:80"), nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	for range 30 {
		resp, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "orders"})
		if err != nil || resp.Status != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("got %v, %v", resp, err)
		}
		if _, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
			t.Fatalf("a trailers-only reply became %v", err)
		}
	}
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		resp, err := watch.Recv()
		if err != nil || resp.Status != want {
			t.Fatalf("got %v, %v", resp, err)
		}
		up.SetServingStatus("orders", healthpb.HealthCheckResponse_NOT_SERVING)
	}
	m.policies("", nobody())
	if _, err := watch.Recv(); err == nil {
		t.Error("the stream outlived its permission")
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "orders"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}
