package node

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/snapshot"
)

const (
	maxRuns      = 4096 // on one node
	maxListeners = 16   // descriptors that one run may hand over
	maxPorts     = 32   // of one program
	maxLine      = 64 << 10
)

// run is one program started by `countersign run`: its session on node.sock, its identity, its
// listeners in the proxy and its place in the registry.
type run struct {
	n        *Node
	req      admin.RunRequest
	entry    entry.Entry
	instance string
	proc     *attest.Process // the run process, proven by its own connection
	facts    attest.Run
	conn     *net.UnixConn

	out     sync.Mutex // guards writes to conn
	mu      sync.Mutex // guards the next four; held while the server is told of them
	state   string
	offered bool // the program began and has a port: it belongs into the registry
	up      bool // registered
	ended   bool // it never comes back

	stop    func()
	cancel  context.CancelFunc
	last    atomic.Pointer[admin.RunMessage] // why the session was ended from here
	began   bool                             // the program's pid was told
	working sync.WaitGroup
	notes   notes
	called  atomic.Bool // a connection came to the proxy listener
}

// noticed is a listener that remembers whether anybody came.
type noticed struct {
	net.Listener
	came *atomic.Bool
}

func (l noticed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.came.Store(true)
	}
	return c, err
}

// serveRun answers POST /v1/run: the session lasts as long as the program.
func (n *Node) serveRun(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	var req admin.RunRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		admin.WriteError(w, n.o.Log, &admin.Problem{Code: "bad_request", Message: "reading the request: " + err.Error(), Status: http.StatusBadRequest})
		return
	}
	n.sessions.Add(1)
	defer n.sessions.Done()
	proc := admin.ProcessOf(r.Context())
	e, err := n.admitRun(r.Context(), req, proc)
	if err == nil {
		_, err = n.svids.demand(r.Context(), e)
	}
	if err == nil {
		err = n.o.Lineage.add(proc)
	}
	if err != nil {
		admin.WriteError(w, n.o.Log, runProblem(req, err))
		return
	}
	id, err := identity.ForWorkload(n.td, e.Namespace, e.ServiceAccount)
	if err != nil {
		admin.WriteError(w, n.o.Log, err)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		admin.WriteError(w, n.o.Log, err)
		return
	}
	defer conn.Close()
	defer proc.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &run{
		n: n, req: req, entry: e, instance: newInstanceID(), proc: proc, conn: conn.(*net.UnixConn), cancel: cancel,
		facts: attest.Run{UID: proc.UID(), PID: proc.PID()}, state: snapshot.Starting,
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: countersign-run\r\n\r\n"); err != nil {
		return
	}
	x.send(admin.RunMessage{Granted: &admin.RunGranted{SPIFFEID: id.String(), WorkloadAPI: n.listen.WorkloadAPI, Explain: true}})
	stopped := context.AfterFunc(ctx, func() { x.conn.SetReadDeadline(time.Now()) })
	defer stopped()
	x.serve(ctx)
}

func newInstanceID() string {
	var b [7]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))[:10]
}

// admitRun decides whether this caller may run this name, and finds or makes its Workload.
func (n *Node) admitRun(ctx context.Context, req admin.RunRequest, proc *attest.Process) (entry.Entry, error) {
	if err := identity.CheckLabel(req.Name); err != nil {
		return entry.Entry{}, &admin.Problem{Code: "name_invalid", Exit: 2, Message: fmt.Sprintf("name %q: a name is a-z, 0-9 and -, at most 63 bytes", req.Name)}
	}
	if err := identity.CheckLabel(req.Namespace); err != nil {
		return entry.Entry{}, &admin.Problem{Code: "name_invalid", Exit: 2, Message: fmt.Sprintf("namespace %q: a-z, 0-9 and -, at most 63 bytes", req.Namespace)}
	}
	if len(req.Secret) < 32 || len(req.Listen)+1 > maxListeners {
		return entry.Entry{}, &admin.Problem{Code: "bad_request", Message: "the run has no secret, or too many listeners", Status: http.StatusBadRequest}
	}
	if len(req.Ports) > maxPorts || slices.ContainsFunc(req.Ports, func(p admin.RunPort) bool { return p.Number == 0 }) {
		return entry.Entry{}, &admin.Problem{Code: "bad_request", Message: fmt.Sprintf("a run has at most %d ports, each 1 to 65535", maxPorts), Status: http.StatusBadRequest}
	}
	n.mu.Lock()
	many := len(n.runs) >= maxRuns
	n.mu.Unlock()
	if many {
		return entry.Entry{}, &admin.Problem{Code: "too_many", Message: fmt.Sprintf("%d programs run here already", maxRuns)}
	}
	rev, err := n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Ensure{Ensure: &control.Ensure{
		Namespace: req.Namespace, Name: req.Name, ServiceAccount: req.ServiceAccount, Uid: proc.UID(), Labels: req.Labels,
	}}})
	if err != nil {
		return entry.Entry{}, err
	}
	e, err := n.waitEntry(ctx, req.Namespace, req.Name, rev)
	if err != nil {
		return entry.Entry{}, err
	}
	found := foundOf(req, proc)
	if len(entry.Match([]entry.Entry{e}, found, n.snap.Load().Selectors, time.Now())) > 0 {
		return e, nil
	}
	return entry.Entry{}, &admin.Problem{
		Code: "no_entry", Message: fmt.Sprintf("starting %s: %s", req.Name, whyNot(e, found, n.snap.Load().Selectors, n.o.Name)),
		Details: admin.Details{{Label: "selectors", Value: strings.Join(found, "  ")}},
		Hints:   []string{fmt.Sprintf("countersign get workloads %s -n %s -o yaml", req.Name, req.Namespace)},
	}
}

// whyNot says why an entry is not earned, in a sentence.
func whyNot(e entry.Entry, found, node []string, name string) string {
	id := e.Namespace + "/" + e.Name
	near := entry.Explain([]entry.Entry{e}, found, node, time.Now())
	switch {
	case len(near) == 0:
		return id + " does not match this program"
	case near[0].Reason == entry.EntryExpired:
		return fmt.Sprintf("%s expired %s", id, e.Expires.UTC().Format(time.DateOnly))
	case near[0].Reason == entry.NodeNotAdmitted:
		return fmt.Sprintf("%s matches, but not on node %s", id, name)
	}
	return fmt.Sprintf("%s does not match this program: %s is missing", id, strings.Join(near[0].Missing, ", "))
}

// foundOf are the facts of a run's program, as far as they are those of its run.
func foundOf(req admin.RunRequest, proc *attest.Process) []string {
	return append([]string{"run:" + req.Namespace + "/" + req.Name}, proc.Facts().Selectors...)
}

// waitEntry waits until the Workload as of revision rev, or a later one of it, is here.
func (n *Node) waitEntry(ctx context.Context, ns, name string, rev int64) (entry.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		changed := n.Changed()
		if e, ok := n.entry(ns + "/" + name); ok && e.Revision >= rev {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return entry.Entry{}, fmt.Errorf("waiting for revision %d: %w", rev, context.Cause(ctx))
		case <-changed:
		}
	}
}

// runProblem gives a refusal of the server the words of cli.md 9.4.
func runProblem(req admin.RunRequest, err error) error {
	var refused *control.Refused
	if !errors.As(err, &refused) {
		return err
	}
	p := &admin.Problem{Code: refused.Code, Message: fmt.Sprintf("starting %s: %s", req.Name, refused.Text), Exit: 125}
	switch {
	case refused.Hint != "":
		p.Hints = []string{refused.Hint}
	case refused.Code == "name_owned":
		p.Hints = []string{"countersign run my-" + req.Name + " -- " + strings.Join(req.Command, " ")}
	}
	return p
}

// serve takes the listeners, then lines, until the run ends or the node does.
func (x *run) serve(ctx context.Context) {
	listeners, err := x.takeListeners()
	if err != nil {
		x.n.o.Log.Warn("a run handed over no listeners", "workload", x.name(), "error", err)
		x.send(admin.RunMessage{Refused: &admin.Problem{Code: "listeners", Message: fmt.Sprintf("starting %s: %v", x.req.Name, err), Exit: 125}})
		return
	}
	if err := x.start(ctx, listeners); err != nil {
		x.n.o.Log.Error("a run could not be served", "workload", x.name(), "error", err)
		x.send(admin.RunMessage{Refused: &admin.Problem{Code: "internal", Message: fmt.Sprintf("starting %s: internal error; the log has the details", x.req.Name), Exit: 125}})
		return
	}
	defer x.end(context.WithoutCancel(ctx))
	if ctx.Err() != nil { // taking the listeners set its own deadline
		return
	}
	x.send(admin.RunMessage{Ready: true})
	x.working.Go(func() { x.sendNotes(ctx) })
	if x.req.PID != 0 {
		x.begin(ctx, x.req.PID)
	}
	lines := bufio.NewScanner(x.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var m admin.RunMessage
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			return
		}
		switch {
		case m.Started != 0:
			x.begin(ctx, m.Started)
		case m.Ended != nil:
			x.n.o.Log.Info("program ended", "workload", x.name(), "status", *m.Ended)
			called := x.called.Load()
			x.send(admin.RunMessage{Called: &called})
			x.n.happened("ended", fmt.Sprintf("%s   ended with status %d", x.shown(), *m.Ended), "")
			return
		}
	}
	switch last := x.last.Load(); {
	case last != nil:
		x.send(*last)
	case ctx.Err() != nil:
		x.send(admin.RunMessage{Draining: true})
	default: // killed: what is left of the program has no identity from here on
		x.n.o.Log.Warn("run ended without a word", "workload", x.name(), "pid", x.proc.PID())
		x.n.happened("ended", x.shown()+"   ended with its run, which was killed", "")
	}
}

func (x *run) name() string { return x.req.Namespace + "/" + x.req.Name }

func (x *run) shown() string { return admin.Bare(x.req.Namespace, x.req.Name, "default") }

// start puts the run into the proxy.
func (x *run) start(ctx context.Context, ls []net.Listener) error {
	id, err := identity.ForWorkload(x.n.td, x.entry.Namespace, x.entry.ServiceAccount)
	if err != nil {
		return err
	}
	var ports []proxy.Port
	for _, p := range x.req.Ports {
		ports = append(ports, proxy.Port{Number: p.Number, Protocol: p.Protocol})
	}
	name := x.name()
	stop, err := x.n.proxy.Start(ctx, proxy.Run{
		Namespace: x.req.Namespace, Name: x.req.Name, Instance: x.instance, ID: id, Labels: x.entry.Labels,
		Ports: ports, Secret: x.req.Secret, Facts: x.facts, Outbound: noticed{ls[0], &x.called}, Listen: ls[1:], Event: x.event, Explain: true,
		Certificate: func() *proxy.SVID {
			if v := x.n.svids.current(name); v != nil {
				return &v.SVID
			}
			return nil
		},
	})
	if err != nil {
		for _, l := range ls {
			l.Close()
		}
		return err
	}
	x.stop = stop
	x.n.mu.Lock()
	x.n.runs[x.instance] = x
	x.n.svids.hold(x.name())
	x.n.mu.Unlock()
	x.n.endRunsWithout(x.n.snap.Load()) // the Workload may have gone since it was looked at
	return nil
}

// begin takes the program's pid, once: it must be below run, and from now on its port is checked.
func (x *run) begin(ctx context.Context, pid int) {
	if x.began {
		return
	}
	x.began = true
	if ok, err := attest.Below(pid, x.proc.PID()); err != nil || !ok {
		// A program that has ended already is below nobody; the next line says how it ended.
		x.n.o.Log.Debug("program is not below its run", "workload", x.name(), "pid", pid, "error", err)
		return
	}
	port := ""
	if len(x.req.Ports) > 0 {
		port = fmt.Sprintf(", port %d", x.req.Ports[0].Number)
	}
	id := x.n.svids.current(x.name())
	if id != nil {
		x.n.o.Log.Info("program started", "workload", x.name(), "id", id.ID, "pid", pid)
		x.n.happened("started", fmt.Sprintf("%s   %s   pid %d%s", x.shown(), id.ID, pid, port), "")
	}
	if len(x.req.Ports) == 0 {
		return // it is called by nobody: no name, no instance
	}
	x.mu.Lock()
	x.offered = true
	x.mu.Unlock()
	x.report(ctx)
	x.working.Go(func() { x.check(ctx) })
}

// ports are what the instance is called by: the first http port is also called as port 80
// (cli.md, run).
func (x *run) ports() []*control.Port {
	var out []*control.Port
	for i, p := range x.req.Ports {
		if i == 0 && p.Number != 80 {
			out = append(out, &control.Port{Number: 80, Target: uint32(p.Number), Protocol: p.Protocol})
		}
		out = append(out, &control.Port{Number: uint32(p.Number), Target: uint32(p.Number), Protocol: p.Protocol})
	}
	return out
}

// report registers the instance, signed by the owner's key over this very connection. It
// says whether the registry holds it now, or it is not wanted there.
func (x *run) report(ctx context.Context) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.offered || x.ended {
		return true
	}
	v := x.n.svids.current(x.name())
	if v == nil {
		return false
	}
	for range 2 { // a second time on a new connection: the signature is bound to one
		exporter, err := x.n.client.Exporter()
		if err != nil {
			return false
		}
		key, ok := v.TLS.PrivateKey.(*ecdsa.PrivateKey)
		if !ok {
			return false
		}
		sig, err := ecdsa.SignASN1(rand.Reader, key, control.Registration(x.instance, exporter))
		if err != nil {
			x.n.o.Log.Error("signing a registration", "workload", x.name(), "error", err)
			return false
		}
		_, err = x.n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Up{Up: &control.Up{
			Id: x.instance, Entry: x.name(), Ports: x.ports(), State: x.state, Chain: v.Chain, Signature: sig,
		}}})
		if err == nil {
			x.up = true
			return true
		}
		x.n.o.Log.Warn("an instance was not registered", "workload", x.name(), "error", err)
	}
	return false
}

// end takes the run out of everything at once: it leaves the registry, its connections are
// cut, its descendants have no identity any more.
func (x *run) end(ctx context.Context) {
	x.n.mu.Lock()
	delete(x.n.runs, x.instance)
	x.n.svids.release(x.name())
	x.n.mu.Unlock()
	x.cancel()
	x.working.Wait()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	x.mu.Lock()
	up := x.up
	x.up, x.ended = false, true
	x.mu.Unlock()
	if up {
		x.n.reportGone(ctx, x.instance)
	}
	x.stop()
	x.n.notify()
}

func (x *run) sendNotes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case note := <-x.notes.wait():
			x.send(admin.RunMessage{Note: note})
		}
	}
}

func (x *run) send(m admin.RunMessage) {
	b, err := json.Marshal(m)
	if err != nil {
		return
	}
	x.out.Lock()
	defer x.out.Unlock()
	x.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	if _, err := x.conn.Write(append(b, '\n')); err != nil {
		x.cancel()
	}
}

func (n *Node) allRuns() []*run {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*run
	for _, x := range n.runs {
		out = append(out, x)
	}
	return out
}

// reportAll tells a server that was newly reached what runs here. What it holds of an earlier
// life of this node goes first; on a later attachment of the same life only what ended
// meanwhile does, so that nobody who is called goes missing for a moment.
func (n *Node) reportAll(ctx context.Context) {
	n.mu.Lock()
	gone := n.gone
	n.gone = nil
	n.mu.Unlock()
	for _, id := range gone {
		n.reportGone(ctx, id)
	}
	for _, x := range n.allRuns() {
		x.report(ctx)
	}
}

// reportGone takes an instance out of the registry, or every one of this node with an empty id.
// What the server does not hear now it hears when it is reached again.
func (n *Node) reportGone(ctx context.Context, id string) {
	_, err := n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Gone{Gone: &control.Gone{Id: id}}})
	if err == nil {
		return
	}
	n.o.Log.Warn("an instance was not taken out of the registry", "instance", id, "error", err)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = append(n.gone, id)
}

// swapped tells the proxy that the SVID of an entry was renewed.
func (n *Node) swapped(name string) {
	for _, x := range n.allRuns() {
		if x.name() == name {
			n.proxy.Renewed(x.req.Namespace, x.req.Name, x.instance)
		}
	}
	n.gateways.swapped(name)
}

// endRunsWithout ends the sessions of runs that the entries no longer give their identity: the
// Workload was deleted, narrowed, or gives another one. A run whose labels changed is only
// interrupted: it opens a new session at once, and policy then selects it by the new ones.
func (n *Node) endRunsWithout(s *held) {
	for _, x := range n.allRuns() {
		i := slices.IndexFunc(s.Entries, func(e entry.Entry) bool { return e.Namespace+"/"+e.Name == x.name() })
		switch {
		case i < 0:
			x.quit("workload_deleted", "its Workload was deleted")
		case s.Entries[i].ServiceAccount != x.entry.ServiceAccount,
			len(entry.Match(s.Entries[i:i+1], foundOf(x.req, x.proc), s.Selectors, time.Now())) == 0:
			x.quit("workload_changed", "its Workload no longer gives it one")
		case !maps.Equal(s.Entries[i].Labels, x.entry.Labels):
			x.cancel()
		}
	}
}

// quit ends the session for good; nothing here waits for a run that does not read.
func (x *run) quit(code, why string) {
	x.last.Store(&admin.RunMessage{Refused: &admin.Problem{Code: code, Message: fmt.Sprintf("%s has no identity any more: %s", x.shown(), why)}})
	x.cancel()
}
