package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
)

// S20: callers that are not proven push out each other, never a proven one.
func TestSecLimitsNoLockout(t *testing.T) {
	m := newMesh(t, setup{})
	proven, r := m.raw("GET http://api/x HTTP/1.1\nHost: api\n\n")
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Fatalf("got %d", status)
	}
	var idle []net.Conn
	for range maxUnproven + 6 {
		c, _ := m.raw("")
		idle = append(idle, c)
	}
	for i, c := range idle[:6] {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("unproven connection %d is still served", i)
		}
	}
	_ = idle[len(idle)-1].SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := idle[len(idle)-1].Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("the newest was closed: %v", err)
	}
	_, _ = io.WriteString(proven, "GET http://api/x HTTP/1.1\r\nHost: api\r\n\r\n")
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Errorf("the proven one: got %d", status)
	}
}

// S20: connections that never say who they are close each other, the oldest first, on the shared
// port and on a listener of a run's own; nobody else is locked out.
func TestSecLimitsNoLockoutInbound(t *testing.T) {
	m := newMesh(t, setup{listen: true})
	own := m.api.cfg.Listen[0].Addr().String()
	for name, tc := range map[string]struct {
		addr string
		call func() (int, error)
	}{
		"shared port": {m.b.addr, func() (int, error) {
			status, _, _ := m.get("http://api/x")
			return status, nil
		}},
		"own listener": {own, func() (int, error) {
			pair := m.ca.Leaf(t, webID)
			conn, err := tls.Dial("tcp", own, identity.ClientConfig(identity.Side{
				Own: func(string) (*tls.Certificate, error) { return pair, nil }, Trust: func() *identity.Trust { return m.ca.Trust() }, Now: time.Now,
			}, "anything.example"))
			if err != nil {
				return 0, err
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: api\r\n\r\n")
			status, _, _ := answerOf(t, bufio.NewReader(conn))
			return status, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			const more = 8
			var silent []net.Conn
			for range maxHandshakes + more {
				c, _ := dialRaw(t, tc.addr, "")
				silent = append(silent, c)
			}
			for i, c := range silent[:more] {
				if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
					t.Errorf("silent connection %d is still held: %v", i, err)
				}
			}
			if status, err := tc.call(); status != 200 {
				t.Errorf("got %d, %v", status, err)
			}
			for _, c := range silent {
				_ = c.Close()
			}
		})
	}
}

// A node that closes before it has shown anything is away, not somebody else: the next instance
// is tried, and nobody reads of an impostor.
func TestHandshakeCutShort(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"closed": func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4<<10)) },
		"reset": func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1)) // the handshake has begun: before, the dialling itself fails
			_ = c.SetLinger(0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, setup{})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					end(c.(*net.TCPConn))
					_ = c.Close()
				}
			}()
			full := Instance{ID: "api0", Owner: apiID, Addr: ln.Addr().String(), State: "ready"}
			instances := func(list ...Instance) {
				m.change(func(s *State) {
					svc := *s.Services[ServiceKey{"default", "api"}]
					svc.Instances = list
					s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
				})
			}
			instances(full)
			for _, kind := range []string{"text/plain", "application/grpc"} {
				_, r := m.raw("POST http://api/x HTTP/1.1\nHost: api\nContent-Type: " + kind + "\nContent-Length: 4\n\nbody")
				status, body, h := answerOf(t, r)
				if kind == "text/plain" && (status != 502 || body != refuseReset.text) || kind != "text/plain" && h.Get("Grpc-Status") != "14" {
					t.Fatalf("%s: got %d %q %v", kind, status, body, h)
				}
				rec := m.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
				if rec.Error != "upstream_reset" || rec.Reason != "" || rec.Decision != audit.Failed {
					t.Errorf("%s: record %+v", kind, rec)
				}
			}
			instances(full, Instance{ID: "api1", Owner: apiID, Addr: m.b.addr, State: "ready"})
			for range 4 {
				if status, body, _ := m.get("http://api/x"); status != 200 {
					t.Fatalf("the next instance: got %d %q", status, body)
				}
			}
		})
	}
}

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}
