package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/files"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/node"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/server"
	"countersign.dev/internal/store"
	"countersign.dev/internal/telemetry"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	cluster           = "default"
	defaultInbound    = "127.0.0.1:7443"
	defaultHealth     = "127.0.0.1:7480"
	defaultTokens     = "127.0.0.1:7444"
	defaultTokensMTLS = "127.0.0.1:7445"
	drainTime         = 30 * time.Second
	wantedFiles       = 8192 // the Workload API alone takes up to 4,096 connections
)

// upOptions are the flags of up.
type upOptions struct {
	inbound     string
	trustDomain string
	passphrase  string
	config      string
	watch       string
	addresses   []string
	log         string
	logFormat   string
	svidTTL     time.Duration // demo and tests: of the configuration
	freePorts   bool          // demo: take any
}

func upCommand() *command {
	var o upOptions
	return &command{
		name: "up", view: true,
		summary:  "Start server, node and store on this machine, in one process.",
		examples: []string{"countersign up", "countersign up --dir /var/tmp/cs --inbound 127.0.0.1:7543", "countersign up --config up.yaml", "countersign up --watch /etc/countersign/mesh"},
		usage:    "[flags]",
		about: `The first start makes an authority, a trust domain and a policy that refuses
every call (allow-nothing); later starts go on with what is there. It listens on
loopback only, but for Gateways with --address, and runs until Ctrl-C, SIGTERM
or countersign down. What is below --watch DIR is applied as one set; who can
write there is an admin, and --yes lets it open the mesh.`,
		flags: func(f *flags) {
			f.list(&o.addresses, "address", "IP", "where Gateways listen, beside loopback; may be repeated")
			f.text(&o.inbound, "inbound", "ADDR:PORT", "where calls from other workloads arrive   [127.0.0.1:7443]")
			f.text(&o.watch, "watch", "DIR", "apply what is below DIR, whenever it changes")
			f.text(&o.trustDomain, "trust-domain", "TD", "of a new mesh, first start only            [cluster.local]")
			f.text(&o.passphrase, "passphrase-file", "F", "seal the keys with the passphrase in F     [a key file]")
			f.text(&o.config, "config", "F", "file with trustDomain, svidTTL, rootNamespace ...")
			f.text(&o.log, "log", "LEVEL", "debug, info, warn                          [info]")
			f.text(&o.logFormat, "log-format", "FORMAT", "text, json                                 [text]")
		},
		see: "countersign run, countersign status, countersign down",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			h, err := e.openHouse(ctx, o)
			if err != nil {
				return err
			}
			return h.serve(ctx, func(*house) { h.announce() })
		},
	}
}

// house is one running up: server and node, and what they stand on.
type house struct {
	e           *env
	o           upOptions
	data, run   string
	config      resource.Config
	tokenSet    server.TokenOptions // of the token service
	gateways    node.Addresses
	log         *slog.Logger
	locks       []*lock
	store       *store.Etcd
	nodeDir     *os.Root
	lineage     *node.Lineage // which processes are of a run, known before anybody may ask
	server      *server.Server
	node        atomic.Pointer[node.Node] // nil until the server is ready
	metrics     *telemetry.Metrics
	health      telemetry.Health
	memory      *memnet.Listener
	sockets     []net.Listener
	admin       *net.UnixListener
	local       node.Listeners
	pages       net.Listener
	tokens      net.Listener // the token service, public
	tokensMTLS  net.Listener
	began       time.Time
	taken       int // pid of an up that ended without cleaning up
	down        context.CancelFunc
	newestEvent sync.Map // kind → time of the last line, at most one a second
}

// openHouse takes the directory, the ports and the store. Nothing serves yet; an error leaves
// nothing behind.
func (e *env) openHouse(ctx context.Context, o upOptions) (h *house, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	data, err := e.dataDir()
	if err != nil {
		return nil, err
	}
	h = &house{e: e, o: o, data: data, run: e.runDir(data), began: time.Now()}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.config, err = e.readConfig(o); err != nil {
		return h, err
	}
	if h.tokenSet, err = e.tokenOptions(h.config.Token); err != nil {
		return h, err
	}
	h.log = telemetry.NewLog(e.logWriter(), o.level(e), o.logFormat)
	if h.o.watch, err = h.watched(o.watch); err != nil {
		return h, err
	}
	if h.gateways, err = h.gatewayAddresses(); err != nil {
		return h, err
	}
	hide()
	collectLess(collectAtMost)
	for _, step := range []func(context.Context) error{h.openDirs, h.openPorts, h.openStore, h.openRoles} {
		if err := step(ctx); err != nil {
			return h, h.words(err)
		}
	}
	return h, nil
}

func (o *upOptions) check() error {
	if o.log != "" {
		if _, err := telemetry.ParseLevel(o.log); err != nil {
			return usage(fmt.Sprintf("--log %q is not debug, info or warn", o.log), "countersign up --log info")
		}
	}
	if o.logFormat != "" && o.logFormat != "text" && o.logFormat != "json" {
		return usage(fmt.Sprintf("--log-format %q is not text or json", o.logFormat), "countersign up --log-format json")
	}
	if o.inbound != "" {
		if !isAddrPort(o.inbound) {
			return usage(fmt.Sprintf("--inbound %q is not ADDR:PORT", o.inbound), "countersign up --inbound 127.0.0.1:7443")
		}
	}
	for _, a := range o.addresses {
		if ip, err := netip.ParseAddr(a); err != nil || ip.Zone() != "" {
			return usage(fmt.Sprintf("--address %q is no IP address", a), "countersign up --address 192.0.2.1")
		}
	}
	if o.trustDomain != "" {
		if err := identity.CheckTrustDomain(o.trustDomain); err != nil {
			return usage(fmt.Sprintf("--trust-domain %q: %v", o.trustDomain, err), "countersign up --trust-domain prod.example")
		}
	}
	return nil
}

// level is what is logged: on a terminal the events of announce tell a person what is worth
// seeing, and the log keeps to warnings.
func (o *upOptions) level(e *env) string {
	if o.log == "" && isTerminal(e.err) {
		return "warn"
	}
	return o.log
}

func (e *env) logWriter() *os.File {
	if f, ok := e.err.(*os.File); ok {
		return f
	}
	return os.Stderr
}

// hide keeps the keys in this process out of core files and away from ptrace
// (identity.md 19, 27).
func hide() {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

// openDirs makes the directories, private, and takes the locks of both roles.
func (h *house) openDirs(context.Context) error {
	mode := os.FileMode(0o700)
	if strings.HasPrefix(h.run, h.data+"/") {
		mode = 0o711 // the Workload API in run/ is for every user
	}
	root, err := files.PrivateDir(h.data, mode)
	if err != nil {
		return err
	}
	root.Close()
	if err := os.Chmod(h.data, mode); err != nil {
		return fmt.Errorf("opening %s: %w", h.data, err)
	}
	for _, role := range []string{"server", "node"} {
		dir, err := files.PrivateDir(filepath.Join(h.data, role), 0o700)
		if err != nil {
			return err
		}
		dir.Close()
		l, err := takeLock(h.data, role)
		if err != nil {
			return err
		}
		h.locks = append(h.locks, l)
		h.taken = max(h.taken, l.taken)
	}
	if err := os.MkdirAll(h.run, 0o755); err != nil {
		return fmt.Errorf("opening %s: %w", h.run, err)
	}
	return os.Chmod(h.run, 0o755)
}

// openPorts takes every socket before anything is written to the store.
func (h *house) openPorts(ctx context.Context) error {
	var err error
	if h.local.Inbound, err = h.listen(ctx, "inbound", h.o.inbound, defaultInbound); err != nil {
		return err
	}
	if h.pages, err = h.listen(ctx, "health", "", defaultHealth); err != nil {
		return err
	}
	if h.tokens, err = h.listen(ctx, "tokens", h.config.Token.Listen, defaultTokens); err != nil {
		return err
	}
	if h.tokensMTLS, err = h.listen(ctx, "tokens-mtls", h.config.Token.MTLSListen, defaultTokensMTLS); err != nil {
		return err
	}
	unixSocket := func(name string, mode os.FileMode) (*net.UnixListener, error) {
		ln, err := admin.Listen(filepath.Join(h.run, name), mode)
		if err == nil {
			h.sockets = append(h.sockets, ln)
		}
		return ln, err
	}
	if h.admin, err = unixSocket("admin.sock", 0o600); err != nil {
		return err
	}
	if h.local.Node, err = unixSocket("node.sock", 0o600); err != nil {
		return err
	}
	if h.local.Workload, err = unixSocket("workload.sock", 0o666); err != nil {
		return err
	}
	h.local.WorkloadAPI = filepath.Join(h.run, "workload.sock")
	return nil
}

// openStore opens the sealing key, the store, and what seals values in it.
func (h *house) openStore(ctx context.Context) error {
	var err error
	if h.store, err = store.Embedded(ctx, store.EmbeddedOptions{Dir: filepath.Join(h.data, "store"), Cluster: cluster, Log: h.log}); err != nil {
		return err
	}
	return nil
}

// openRoles makes the server and the node: two parties that speak the control protocol.
func (h *house) openRoles(ctx context.Context) error {
	passphrase, err := h.e.passphrase(h.o.passphrase)
	if err != nil {
		return err
	}
	dir, err := files.PrivateDir(filepath.Join(h.data, "server"), 0o700)
	if err != nil {
		return err
	}
	rootKey, _, err := store.OpenSealKey(dir, passphrase)
	if err != nil {
		return err
	}
	sealer, err := store.NewSealer(ctx, h.store, cluster, rootKey)
	if err != nil {
		return err
	}
	if h.nodeDir, err = files.PrivateDir(filepath.Join(h.data, "node"), 0o700); err != nil {
		return err
	}
	if h.lineage, err = node.OpenLineage(h.nodeDir); err != nil {
		return err
	}
	h.metrics = telemetry.NewMetrics(version)
	h.server, err = server.Open(ctx, server.Options{
		Dir: dir, Store: h.store, Sealer: sealer, Cluster: cluster, Name: machineName(), Version: version,
		TrustDomain: h.config.TrustDomain, RootNamespace: h.config.RootNamespace, SVIDTTL: h.config.SVIDTTL,
		AllowAny: h.config.AllowAny, Metrics: h.metrics, Log: h.log, CertificateDirs: h.config.CertificateDirs,
		InRun: h.lineage.InRun, Tokens: h.tokenSet, Home: machineName(), Refuses: h.gateways.Refuses, OwnPorts: h.inTheWay(), Handed: h.handed(), Watch: h.o.watch, WatchConfirmed: h.e.yes,
	})
	if err != nil {
		return err
	}
	if h.config.TrustDomain != "" && h.config.TrustDomain != h.server.TrustDomain() {
		return &admin.Problem{
			Code: "trust_domain", Message: fmt.Sprintf("starting in %s: it is of trust domain %s, not %s", tilde(h.data), h.server.TrustDomain(), h.config.TrustDomain),
			Hints: []string{"countersign up --dir " + tilde(h.data) + "-" + h.config.TrustDomain + " --trust-domain " + h.config.TrustDomain},
		}
	}
	if root := h.config.RootNamespace; root != "" && root != h.server.RootNamespace() {
		return &admin.Problem{
			Code: "root_namespace", Message: fmt.Sprintf("starting in %s: its root namespace is %s, not %s", tilde(h.data), h.server.RootNamespace(), root),
			Hints: []string{"rootNamespace is of a new mesh alone: take the line out of " + h.o.config},
		}
	}
	h.memory = memnet.Listen("server")
	return nil
}

// machineName is the host's name as a DNS label.
func machineName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "local"
	}
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, host)
	label = strings.Trim(label[:min(len(label), 56)], "-")
	if label == "" {
		return "local"
	}
	return label
}

// serve runs everything until ctx ends, down is asked, or a part fails. ready is called once
// a program can be run.
func (h *house) serve(ctx context.Context, ready func(*house)) error {
	defer h.close()
	ctx, h.down = context.WithCancel(ctx)
	defer h.down()
	// The node drains and ends first: what ran here is taken out while the server still listens.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	nodeLife, endNode := context.WithCancel(life)
	defer endNode()
	serverReady, nodeReady, nodeDone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		return h.server.Run(life, server.Listeners{Nodes: h.memory, Admin: h.admin, Tokens: h.tokens, TokensMTLS: h.tokensMTLS}, func() { close(serverReady) })
	})
	g.Go(func() error { return h.servePages(life) })
	g.Go(func() error { return followHeap(life) })
	started := func() bool {
		select {
		case <-serverReady:
		case <-life.Done():
			return false
		}
		if err := h.openNode(life); err != nil {
			g.Go(func() error { return err })
			return false
		}
		g.Go(func() error {
			defer close(nodeDone)
			return h.node.Load().Run(nodeLife, h.local, func() { close(nodeReady) })
		})
		select {
		case <-nodeReady:
			return true
		case <-life.Done():
			return false
		}
	}()
	if started {
		ready(h)
		select {
		case <-ctx.Done():
			h.drain(life)
		case <-life.Done():
		}
		endNode()
		<-nodeDone
	}
	end()
	err := g.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return h.words(err)
	}
	if started {
		h.e.say("stopped; nothing was lost")
	}
	return nil
}

func (h *house) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	late := time.AfterFunc(time.Second, func() { h.e.say("draining %d workloads", h.node.Load().Running()) })
	defer late.Stop()
	if err := h.node.Load().Drain(ctx); err != nil {
		h.log.Warn("what was under way was cut", "error", err)
	}
}

// openNode lets the node in by the way that every machine takes: a join code, over the
// control protocol (identity.md 10.1).
func (h *house) openNode(ctx context.Context) error {
	code, err := h.server.Invite(ctx, machineName(), time.Minute)
	if err != nil {
		return err
	}
	n, err := node.New(node.Options{
		Dir: h.nodeDir, Lineage: h.lineage, Code: code, Name: machineName(), Dial: h.memory.Dial, Version: version, Metrics: h.metrics, Log: h.log,
		Down: h.down, Event: h.event, Egress: h.egress(), OwnPorts: h.ownPorts(), Addresses: h.gateways, CertificateDirs: h.config.CertificateDirs,
	})
	if err != nil {
		return err
	}
	h.node.Store(n)
	return nil
}

func (h *house) servePages(ctx context.Context) error {
	h.health.Add("store", func(ctx context.Context) error {
		_, err := h.store.Status(ctx)
		return err
	})
	h.health.Add("node", func(context.Context) error {
		if n := h.node.Load(); n == nil || !n.InTouch() {
			return errors.New("not in touch with the server")
		}
		return nil
	})
	return telemetry.Serve(ctx, h.pages, telemetry.Pages(h.metrics, &h.health), h.log)
}

// close gives everything back, in the order opposite to the taking.
func (h *house) close() {
	for _, ln := range h.sockets {
		ln.Close()
	}
	for _, ln := range []net.Listener{h.local.Inbound, h.pages, h.tokens, h.tokensMTLS} {
		if ln != nil {
			ln.Close()
		}
	}
	if h.memory != nil {
		h.memory.Close()
	}
	if h.lineage != nil {
		h.lineage.Close()
	}
	if h.store != nil {
		h.store.Close()
	}
	for _, l := range h.locks {
		l.release()
	}
	h.locks = nil
}

// announce says that everything is ready (cli.md 10.1).
func (h *house) announce() {
	if h.e.json {
		h.announceJSON()
		return
	}
	key, ends, made := h.server.Root()
	origin := "from this directory"
	if made {
		origin = "made now"
	}
	say := h.e.say
	if h.taken != 0 {
		say("note: pid %d ended without cleaning up; going on from revision %d", h.taken, h.server.Revision())
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < wantedFiles {
		say("note: %d files may be open at a time, which strangers can use up; before the next start: ulimit -n %d", limit.Cur, wantedFiles)
	}
	say("countersign %s   trust domain %s   %s", version, h.server.TrustDomain(), tilde(h.data))
	say("  authority  root %s until %s, %s", key, ends.UTC().Format(time.DateOnly), origin)
	say("  store      embedded, revision %d", h.server.Revision())
	say("  node       %s, inbound %s", machineName(), h.local.Inbound.Addr())
	say("  workloads  unix://%s", h.local.WorkloadAPI)
	say("  tokens     %s, by certificate %s", h.server.Issuer(), h.server.TokenMTLS())
	if h.server.ClosedByDefault() {
		say("  policy     every call is refused until a policy allows it (allow-nothing)")
	}
	took := time.Since(h.began)
	if h.server.Workloads() > 0 {
		say("ready in %s", seconds(took))
		return
	}
	say("ready in %s; next, in another terminal:\n", seconds(took))
	say("  countersign run api --port 8081 -- ./api")
	say("  countersign run web -- curl -sS http://api/")
	say("  countersign why\n")
}

func (h *house) announceJSON() {
	b, err := json.Marshal(map[string]any{
		"ready": true, "version": version, "trust_domain": h.server.TrustDomain(), "dir": h.data,
		"admin": "unix://" + filepath.Join(h.run, "admin.sock"), "node": "unix://" + filepath.Join(h.run, "node.sock"),
		"workload_api": "unix://" + h.local.WorkloadAPI, "inbound": h.local.Inbound.Addr().String(),
		"health": h.pages.Addr().String(), "issuer": h.server.Issuer(), "tokens": h.tokens.Addr().String(),
		"tokens_mtls": h.tokensMTLS.Addr().String(), "pid": os.Getpid(),
	})
	if err == nil {
		fmt.Fprintln(h.e.out, string(b))
	}
}

// event is one line a person who watches would like to see, at most one a second a kind.
func (h *house) event(x node.Happening) {
	if h.e.json || h.e.quiet || !isTerminal(h.e.err) {
		return
	}
	now := time.Now()
	if x.Kind == "refused" {
		if last, ok := h.newestEvent.Load(x.Kind); ok && now.Sub(last.(time.Time)) < time.Second {
			return
		}
		h.newestEvent.Store(x.Kind, now)
	}
	sign := map[string]string{"started": "+", "ended": "-", "refused": mark("✗"), "changed": "~"}[x.Kind]
	line := sign + " " + escape(x.Text)
	if x.Hint != "" {
		line += "   " + x.Hint
	}
	fmt.Fprintln(h.e.err, line)
}

// seconds is a short time with two digits: 0.31 s.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
