package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/control"
	"countersign.dev/internal/snapshot"
)

const (
	checkTimeout = time.Second
	slowStart    = 5 * time.Second // after it a person hears that nothing listens yet
	portsNamed   = 8               // of those that it opened instead
	reportAgain  = 5 * time.Second // after the server did not take that a program is ready
)

// check is the TCP health check of a run without another: its first port must be reachable,
// and be the run's, once; then the program's life is the check (registry.md 11.3). Until
// it passes the port is tried in short steps, so that a program is called as soon as it can be.
func (x *run) check(ctx context.Context) {
	began := time.Now()
	told, foreign, ready := false, false, false
	for wait := 5 * time.Millisecond; ; wait = min(wait*2, 250*time.Millisecond) {
		open, err := x.reachable(ctx)
		if err != nil && !foreign {
			foreign = true
			x.n.o.Log.Warn("a program's port is held by somebody else", "workload", x.name(), "port", x.req.Ports[0].Number, "error", err)
		}
		if open {
			if note := x.listensWide(); note != nil && !ready {
				x.send(admin.RunMessage{Note: note})
			}
			ready = true
			if x.become(ctx, snapshot.Ready) {
				return
			}
			wait = reportAgain
		}
		if !told && time.Since(began) > slowStart {
			told = true
			x.send(admin.RunMessage{Note: x.notListening()})
		}
		select {
		case <-ctx.Done():
			return
		case <-x.proc.Done():
			return
		case <-time.After(wait):
		}
	}
}

// reachable dials as the proxy will: 127.0.0.1 first, then ::1, each proven the run's. The
// error says why what answers is not.
func (x *run) reachable(ctx context.Context) (open bool, foreign error) {
	port := strconv.Itoa(int(x.req.Ports[0].Number))
	for _, host := range []string{"127.0.0.1", "::1"} {
		d := net.Dialer{Timeout: checkTimeout}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			continue
		}
		err = x.facts.Port(c.(*net.TCPConn))
		c.Close()
		if err == nil {
			return true, nil
		}
		foreign = err
	}
	return false, foreign
}

// become changes the state of the instance, and says whether the registry has it.
func (x *run) become(ctx context.Context, state string) bool {
	x.mu.Lock()
	x.state = state
	up := x.up
	x.mu.Unlock()
	if !up {
		return x.report(ctx)
	}
	_, err := x.n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_State{State: &control.State{Id: x.instance, State: state}}})
	if err != nil && ctx.Err() == nil {
		x.n.o.Log.Warn("the state of an instance was not reported", "workload", x.name(), "state", state, "error", err)
		return x.report(ctx)
	}
	return true
}

func (x *run) notListening() *admin.RunNote {
	port := x.req.Ports[0].Number
	note := &admin.RunNote{
		Code: "not_listening", Key: "not_listening", Warn: true, Always: true,
		Text:  fmt.Sprintf("nothing of %s listens on %d yet", x.req.Name, port),
		Hints: []string{"countersign status"},
	}
	var open []string
	for _, other := range attest.ListeningBelow(x.proc.PID()) {
		if other != port && len(open) < portsNamed {
			open = append(open, strconv.Itoa(int(other)))
		}
	}
	if len(open) > 0 {
		note.Text += "; it listens on " + strings.Join(open, ", ")
		note.Hints = []string{fmt.Sprintf("countersign run %s --port %s -- %s", x.shown(), open[0], strings.Join(x.req.Command, " "))}
	}
	return note
}

// listensWide warns of a program that other machines can reach around the proxy.
func (x *run) listensWide() *admin.RunNote {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	port := x.req.Ports[0].Number
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		addr, ok := netip.AddrFromSlice(ip.IP)
		if !ok {
			continue
		}
		if s, err := attest.ListenSocket(netip.AddrPortFrom(addr.Unmap(), port)); err == nil && s.Found {
			return &admin.RunNote{
				Code: "listens_wide", Key: "listens_wide", Warn: true, Always: true,
				Text:  fmt.Sprintf("%s listens on every address, port %d, reachable around the proxy", x.req.Name, port),
				Hints: []string{"bind it to 127.0.0.1"},
			}
		}
	}
	return nil
}
