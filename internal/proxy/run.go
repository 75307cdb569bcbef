package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
)

// Program is what the kernel says about a run's program. All of it is asked on new connections
// only, may take some 100 µs, and may be called from many goroutines at once.
type Program interface {
	// Caller is nil if the client's socket of c is the run's, and our end was still
	// ESTABLISHED after the look-up.
	Caller(c *net.TCPConn) error
	// Port is nil if whoever answers on c, a connection dialled to the program's port, is of
	// the run.
	Port(c *net.TCPConn) error
}

// secretCaller is a Program that is content with less where the caller showed the run's secret
// (dataplane.md 25.2): the uid on Linux, nothing where the kernel tells nothing.
type secretCaller interface {
	CallerWithSecret(c *net.TCPConn) error
}

// Port is one port of a program.
type Port struct {
	Number   uint16
	Protocol string // http, http2, grpc
}

// SVID is the certificate a run has now.
type SVID struct {
	TLS                *tls.Certificate
	Serial             []byte
	NotAfter, IssuedAt time.Time
	Generation         uint64 // goes up with every renewal
}

// Run is a program with an identity, and the listeners that serve it.
type Run struct {
	Namespace, Name, Instance string
	ID                        spiffeid.ID
	Labels                    map[string]string
	Ports                     []Port
	Secret                    string       // of its proxy variables
	Certificate               func() *SVID // nil if it has none now
	Facts                     Program
	Outbound                  net.Listener   // the proxy listener; nil: none
	Listen                    []net.Listener // `run --listen`: for callers outside the mesh
	Doors                     []Door         // of a Gateway, which has no program
	Event                     func(Event)    // what its `run` may tell people; never blocks; nil: nobody
	Explain                   bool           // events may carry reasons
}

// Event is one of the notes of cli.md 9.4, for the program's terminal.
type Event struct {
	Code         string // call_refused, no_service, no_egress, no_instance, no_token, upstream_away, upstream_bad
	From, To     string
	Method, Path string
	Decision     string // the whole decision id
	Text         string // code's own: "1 starting", the port nothing answers on, why there is no token, what was wrong
}

// run is a Run being served.
type run struct {
	Run
	p     *Proxy
	key   ServiceKey
	dst   policy.Destination
	text  string // its SPIFFE ID
	label string // "ns/name"

	program atomic.Pointer[ruling]
	tokens  atomic.Pointer[tokenRules]
	since   atomic.Int64 // of the last renewal, Unix ns
	pool    pool
	live    live
	open    links
	out     *face // proxy listener
	tunnel  *face // inside of CONNECT tunnels
	own     *face // `run --listen`
	front   *face // doors
	doors   []*door
	loops   sync.WaitGroup
	done    context.CancelFunc

	unproven greetings    // of its own listeners
	warned   atomic.Int64 // when it was last said that its port is not its own, Unix ns
}

// ruling is the program of policies for a run under one view.
type ruling struct {
	v       *view
	program *policy.Program
}

func newRun(p *Proxy, cfg Run) (*run, error) {
	ns, sa, ok := identity.Split(cfg.ID)
	switch {
	case !ok:
		return nil, fmt.Errorf("identity %q is not a workload's", cfg.ID)
	case cfg.Certificate == nil || cfg.Facts == nil && len(cfg.Doors) == 0:
		return nil, errors.New("no certificate or no facts about its program")
	}
	if cfg.Event == nil {
		cfg.Event = func(Event) {}
	}
	r := &run{
		Run: cfg, p: p, key: ServiceKey{cfg.Namespace, cfg.Name}, text: cfg.ID.String(),
		dst: policy.Destination{Namespace: ns, ServiceAccount: sa, Labels: cfg.Labels, Gateway: len(cfg.Doors) > 0},
	}
	r.label = r.key.String()
	r.pool.init(r)
	r.open.init()
	for _, d := range cfg.Doors {
		r.doors = append(r.doors, newDoor(r, d))
	}
	return r, nil
}

// serves reports whether the registry, or as long as it says nothing its name, makes this run
// an instance of a service.
func (r *run) serves(svc *Service, key ServiceKey) bool {
	if svc != nil && svc.instance(r.Instance) != nil {
		return true
	}
	return r.key == key
}

// policy is the run's program under v, worked out once per view.
func (r *run) policy(v *view) *policy.Program {
	if at := r.program.Load(); at != nil && at.v == v {
		return at.program
	}
	at := &ruling{v, v.Compiled.For(r.dst)}
	r.program.Store(at)
	return at.program
}

// port is the workload port and protocol behind a port of a service; 0 asks for the first.
func (r *run) port(svc *Service, number uint16) (uint16, string, bool) {
	if svc != nil && len(svc.Ports) > 0 {
		for _, sp := range svc.Ports {
			if number != 0 && sp.Number != number {
				continue
			}
			if inst := svc.instance(r.Instance); inst != nil {
				return inst.portOf(sp), sp.Protocol, true
			}
			return sp.Target, sp.Protocol, true
		}
		return 0, "", false
	}
	for _, own := range r.Ports {
		if number == 0 || own.Number == number {
			return own.Number, own.Protocol, true
		}
	}
	return 0, "", false
}

func (r *run) start(ctx context.Context) {
	ctx, r.done = context.WithCancel(ctx)
	if r.Outbound != nil {
		r.tunnel = newFace(r.p, r.p.outbound, faceOptions{idle: programIdle, h2c: true})
		r.out = newFace(r.p, r.p.outbound, faceOptions{idle: programIdle})
		r.loops.Go(func() { r.acceptPrograms(ctx, r.Outbound) })
	}
	if len(r.Listen) > 0 {
		r.own = newFace(r.p, r.p.inbound, faceOptions{idle: meshIdle, h2: true, h2c: true})
		for _, l := range r.Listen {
			r.loops.Go(func() { r.acceptOwn(ctx, l) })
		}
	}
	if len(r.doors) > 0 {
		r.front = newFace(r.p, r.p.front, faceOptions{idle: edgeIdle, h2: true, h2c: true, edge: true})
		for _, d := range r.doors {
			r.loops.Go(func() { d.accept(ctx) })
		}
	}
}

// stop ends everything of the run and waits for it.
func (r *run) stop() {
	r.done()
	for _, l := range append(slices.Clone(r.Listen), r.Outbound) {
		if l != nil {
			_ = l.Close()
		}
	}
	for _, d := range r.doors {
		_ = d.Listener.Close()
	}
	r.live.cutAll(cutStopped)
	r.open.close()
	r.loops.Wait()
	for _, f := range []*face{r.out, r.own, r.tunnel, r.front} { // the proxy listener's handlers open tunnels
		if f != nil {
			f.close()
		}
	}
	r.open.wait()
	r.pool.close()
}

// renew notes the time of a renewal, and retires what was made with the SVID before.
func (r *run) renew() {
	r.since.Store(r.p.now().UnixNano())
	r.pool.renewed()
}

// margin is m of dataplane.md 12.3: a minute, or a tenth of a shorter life.
func (s *SVID) margin() time.Duration {
	return max(0, min(time.Minute, s.NotAfter.Sub(s.IssuedAt)/10))
}

// recheck puts v in force for what is under way (dataplane.md 12.5).
func (r *run) recheck(v *view) {
	r.live.sweep(func(x *exchange) *cut { return x.judge(v) })
	r.open.each(func(l *link) { l.recheck(v) })
}
