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
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var wait sync.WaitGroup
	var good, wrong atomic.Int64
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
