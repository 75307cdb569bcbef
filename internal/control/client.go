package control

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Between two tries to reach the server.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
)

// Dial makes a connection to a server.
type Dial func(ctx context.Context) (net.Conn, error)

// Pin is how a join code names a root: the SHA-256 of its SubjectPublicKeyInfo, in hex.
func Pin(root *x509.Certificate) string {
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Join brings a machine into the mesh (identity.md 10.1). The roots come first, over a
// connection that proves nothing and is used for nothing else; of them only those that the
// pin names are believed, and the connection that carries the secret is proven by them.
func Join(ctx context.Context, dial Dial, td spiffeid.TrustDomain, pin string, j Joining) (Joined, error) {
	roots, err := pinnedRoots(ctx, dial, td, pin)
	if err != nil {
		return Joined{}, err
	}
	trust := identity.NewTrust(td, roots)
	cfg := identity.ClientConfig(identity.Side{
		Trust: func() *identity.Trust { return trust },
		Now:   time.Now,
		Check: CheckServer(td.Name()),
	}, "")
	conn, err := connect(dial, credentials.NewTLS(cfg))
	if err != nil {
		return Joined{}, err
	}
	defer conn.Close()
	r, err := NewControlClient(conn).Join(ctx, &JoinRequest{Name: j.Name, Secret: j.Secret, Csr: j.CSR, Inbound: j.Inbound, Version: j.Version})
	if err != nil {
		return Joined{}, fmt.Errorf("joining %s: %w", td.Name(), refused(err))
	}
	return Joined{Name: r.Name, Chain: r.Chain, Bundle: r.Bundle}, nil
}

func pinnedRoots(ctx context.Context, dial Dial, td spiffeid.TrustDomain, pin string) (identity.Bundle, error) {
	conn, err := connect(dial, credentials.NewTLS(identity.BlindConfig("", time.Now)))
	if err != nil {
		return identity.Bundle{}, err
	}
	defer conn.Close()
	r, err := NewControlClient(conn).Roots(ctx, &RootsRequest{})
	if err != nil {
		return identity.Bundle{}, fmt.Errorf("asking for the roots of %s: %w", td.Name(), refused(err))
	}
	b, err := identity.ParseBundle(td, r.Bundle)
	if err != nil {
		return identity.Bundle{}, fmt.Errorf("reading the roots of %s: %w", td.Name(), err)
	}
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return identity.Bundle{}, &Refused{Code: "bad_code", Text: "the pin of the join code is no SHA-256"}
	}
	kept := b.Pinned([sha256.Size]byte(want))
	if len(kept.Roots) == 0 {
		return identity.Bundle{}, &Refused{Code: "server_untrusted", Text: "the server shows no root with the pin of the join code"}
	}
	return kept, nil
}

// ClientOptions are what a node needs to speak with its server.
type ClientOptions struct {
	Dial        Dial
	Node        string // its name
	TrustDomain string
	Side        identity.Side // its own SVID, and trust in the own domain alone
	// Apply puts a snapshot in force, whole, before it returns. An error keeps the last one.
	Apply func(*snapshot.Node) error
	// Attached is called once the first snapshot of a connection is in force, to report
	// anew what runs here.
	Attached func(context.Context)
	// Revoked puts a part of the log of revoked tokens in force before it returns; with all it
	// replaces what was there. An empty part is a beat; at is the server's clock when it was sent.
	// Nil: the log is not followed.
	Revoked func(all bool, entries []revocation.Entry, at time.Time) error
	Log     *slog.Logger
}

// Client is the node's half. Issue and Report may be called while Run runs.
type Client struct {
	o     ClientOptions
	conn  *grpc.ClientConn
	rpc   ControlClient
	state atomic.Pointer[tls.ConnectionState]
	up    atomic.Bool

	epoch    string // of what is enforced, also after the stream broke; Run's own, as is the rest
	enforced int64
	decoder  snapshot.Decoder
}

// NewClient prepares the node's half; nothing is dialled before Run or the first call.
func NewClient(o ClientOptions) (*Client, error) {
	o.Side.Check = CheckServer(o.TrustDomain)
	c := &Client{o: o}
	creds := stateCredentials{
		TransportCredentials: credentials.NewTLS(identity.ClientConfig(o.Side, "")),
		made:                 func(cs tls.ConnectionState) { c.state.Store(&cs) },
	}
	conn, err := connect(o.Dial, creds)
	if err != nil {
		return nil, err
	}
	c.conn, c.rpc = conn, NewControlClient(conn)
	return c, nil
}

// InTouch reports whether the stream stands.
func (c *Client) InTouch() bool { return c.up.Load() }

// Run keeps the stream until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	defer c.conn.Close()
	if c.o.Revoked != nil {
		following.Go(func() { c.followRevocations(ctx) })
	}
	wait := firstWait
	for {
		began := time.Now()
		err := c.stream(ctx)
		c.up.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 10*time.Second {
			wait = firstWait
		}
		level := slog.LevelWarn
		if wait == firstWait {
			level = slog.LevelInfo // one break mends itself; connections end by age, too
		}
		c.o.Log.Log(ctx, level, "the stream to the server ended", "error", refused(err), "again in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
	}
}

// stream takes frames until the stream ends. Only whole revisions are applied, and an
// acknowledgement is sent only after Apply returned.
func (c *Client) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&DeltaRequest{Node: &Node{Id: c.o.Node}, TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}}); err != nil {
		return err
	}
	var (
		held    snapshot.Resources
		heldRev int64
		pending = snapshot.Resources{}
		began   string // version of the parts that are pending
	)
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		version, more := strings.CutSuffix(m.SystemVersionInfo, "+")
		if len(pending) > 0 && version != began {
			return fmt.Errorf("parts of %q and of %q in one frame", began, version)
		}
		began = version
		for _, r := range m.Resources {
			pending[r.GetName()] = r.GetResource().GetValue()
		}
		answer := &DeltaRequest{TypeUrl: typeURL, ResponseNonce: m.Nonce}
		if !more {
			now, rev, err := c.enforce(version, pending, m.RemovedResources, held, heldRev)
			pending = snapshot.Resources{}
			if err != nil {
				answer.ErrorDetail = &Status{Code: int32(codes.FailedPrecondition), Message: cut(err.Error(), maxReason)}
			} else {
				held, heldRev = now, rev
			}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if !more && heldRev != 0 && c.up.CompareAndSwap(false, true) && c.o.Attached != nil {
			c.o.Attached(ctx)
		}
	}
}

func (c *Client) enforce(version string, put snapshot.Resources, removed []string, held snapshot.Resources, heldRev int64) (snapshot.Resources, int64, error) {
	f, err := parseVersion(version)
	if err != nil {
		return nil, 0, err
	}
	f.Put, f.Removed = put, removed
	if f.Epoch == c.epoch && f.To < c.enforced { // a server that is behind: never an older world
		return nil, 0, fmt.Errorf("revision %d is older than %d, which is enforced", f.To, c.enforced)
	}
	if f.From != 0 && f.Epoch != c.epoch {
		return nil, 0, fmt.Errorf("difference of epoch %q, this node is in %q", f.Epoch, c.epoch)
	}
	now, err := f.Apply(held, heldRev)
	if err != nil {
		return nil, 0, err
	}
	n, err := c.decoder.Decode(c.o.Node, f.Epoch, f.To, now)
	if err != nil {
		return nil, 0, err
	}
	if err := c.o.Apply(n); err != nil {
		return nil, 0, err
	}
	c.epoch, c.enforced = f.Epoch, f.To
	return now, f.To, nil
}

// parseVersion reads <epoch>/<from>-<to> in its one spelling.
func parseVersion(version string) (snapshot.Frame, error) {
	bad := fmt.Errorf("version %q is not <epoch>/<from>-<to>", version)
	epoch, span, ok := strings.Cut(version, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || epoch == "" {
		return snapshot.Frame{}, bad
	}
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if err1 != nil || err2 != nil || from < 0 || to < 1 || version != fmt.Sprintf("%s/%d-%d", epoch, from, to) {
		return snapshot.Frame{}, bad
	}
	return snapshot.Frame{Epoch: epoch, From: from, To: to}, nil
}

// Issue asks for one SVID.
func (c *Client) Issue(ctx context.Context, w *Want) (chain [][]byte, err error) {
	r, err := c.rpc.Issue(ctx, &IssueRequest{Wants: []*Want{w}})
	if err != nil {
		return nil, fmt.Errorf("asking for an SVID: %w", refused(err))
	}
	if len(r.Gots) != 1 {
		return nil, errors.New("asking for an SVID: no answer in the reply")
	}
	if ref := r.Gots[0].Refusal; ref != nil {
		return nil, ref.err()
	}
	return r.Gots[0].Chain, nil
}

// Exporter gives the keying material of the connection that the next report takes.
func (c *Client) Exporter() ([]byte, error) {
	cs := c.state.Load()
	if cs == nil {
		return nil, errors.New("no connection to the server yet")
	}
	return exporterOf(*cs)
}

// Report tells the server what runs here and returns the revision that holds it.
func (c *Client) Report(ctx context.Context, r *ReportRequest) (int64, error) {
	reply, err := c.rpc.Report(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("reporting: %w", refused(err))
	}
	if reply.Refusal != nil {
		return 0, reply.Refusal.err()
	}
	return reply.Revision, nil
}

func connect(dial Dial, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///server",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFrame)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDisableServiceConfig(),
	)
}

// refused takes the server's words out of a gRPC error.
func refused(err error) error {
	st, ok := status.FromError(err)
	if !ok || st == nil {
		return err
	}
	for _, d := range st.Details() {
		if r, ok := d.(*Refusal); ok {
			return r.err()
		}
	}
	if c := st.Code(); c == codes.Unavailable || c == codes.DeadlineExceeded {
		return &Refused{Code: "server_away", Text: "the server does not answer: " + st.Message(), Hint: "countersign status"}
	}
	return errors.New(st.Message())
}

func (s stateCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := s.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if t, ok := info.(credentials.TLSInfo); ok && err == nil {
		s.made(t.State)
	}
	return c, info, err
}

func (s stateCredentials) Clone() credentials.TransportCredentials {
	return stateCredentials{TransportCredentials: s.TransportCredentials.Clone(), made: s.made}
}
