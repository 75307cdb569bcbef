package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/snapshot"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// ServerOptions are what a server needs to speak with nodes.
type ServerOptions struct {
	House       House
	Side        identity.Side // its own SVID, and trust in the own domain alone
	TrustDomain string
	Log         *slog.Logger
}

// Serve answers nodes on ln until ctx ends.
func Serve(ctx context.Context, ln net.Listener, o ServerOptions) error {
	cfg := identity.ServerConfig(o.Side, tls.RequestClientCert)
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(256),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second,
			MaxConnectionAge: maxAge, MaxConnectionAgeGrace: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
	)
	RegisterControlServer(g, &service{o: o})
	stopped := context.AfterFunc(ctx, g.Stop)
	defer stopped()
	if err := g.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving nodes: %w", err)
	}
	g.Stop() // waits for the handlers
	return nil
}

type service struct {
	UnimplementedControlServer
	o ServerOptions
}

func (s *service) Roots(context.Context, *RootsRequest) (*RootsReply, error) {
	b, err := s.o.House.Roots()
	if err != nil {
		return nil, s.fail("giving the roots", err)
	}
	return &RootsReply{Bundle: b}, nil
}

func (s *service) Join(ctx context.Context, r *JoinRequest) (*JoinReply, error) {
	j, err := s.o.House.Join(ctx, Joining{Name: r.Name, Secret: r.Secret, CSR: r.Csr, Inbound: r.Inbound, Version: r.Version})
	if err != nil {
		return nil, s.fail("letting a node in", err)
	}
	return &JoinReply{Name: j.Name, Chain: j.Chain, Bundle: j.Bundle}, nil
}

// node proves the caller of every other method.
func (s *service) node(ctx context.Context) (name string, cs tls.ConnectionState, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", cs, status.Error(codes.Unauthenticated, "no connection")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", cs, status.Error(codes.Unauthenticated, "not over TLS")
	}
	who, err := identity.PeerOf(info.State, s.o.Side.Trust(), s.o.Side.Now())
	if err == nil {
		name, err = roleOf(who, s.o.TrustDomain, "node-")
	}
	if err != nil {
		return "", cs, status.Error(codes.Unauthenticated, err.Error())
	}
	return name, info.State, nil
}

func (s *service) Issue(ctx context.Context, r *IssueRequest) (*IssueReply, error) {
	node, _, err := s.node(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.Wants) > maxWants {
		return nil, status.Errorf(codes.InvalidArgument, "%d certificate requests, at most %d", len(r.Wants), maxWants)
	}
	reply := &IssueReply{}
	for _, w := range r.Wants {
		chain, err := s.o.House.Issue(ctx, node, w)
		got := &Got{Chain: chain}
		if err != nil {
			got = &Got{Refusal: s.refusal("issuing an SVID", err)}
		}
		reply.Gots = append(reply.Gots, got)
	}
	return reply, nil
}

func (s *service) Report(ctx context.Context, r *ReportRequest) (*ReportReply, error) {
	node, cs, err := s.node(ctx)
	if err != nil {
		return nil, err
	}
	exporter, err := exporterOf(cs)
	if err != nil {
		return nil, s.fail("reading a report", err)
	}
	rev, err := s.o.House.Report(ctx, node, r, exporter)
	if err != nil {
		return &ReportReply{Refusal: s.refusal("taking a report", err)}, nil
	}
	return &ReportReply{Revision: rev}, nil
}

// DeltaAggregatedResources sends one frame at a time and waits for its answer: what a node
// holds is always known exactly, and changes that come meanwhile make one frame.
func (s *service) DeltaAggregatedResources(stream grpc.BidiStreamingServer[DeltaRequest, DeltaResponse]) error {
	ctx := stream.Context()
	node, _, err := s.node(ctx)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetNode().GetId() != node || first.GetTypeUrl() != typeURL {
		return status.Errorf(codes.InvalidArgument, "node %q asked as %q for %q", node, first.GetNode().GetId(), first.GetTypeUrl())
	}
	s.o.House.Watch(node, Event{Attached: true})
	defer s.o.House.Watch(node, Event{})
	var (
		cutter  snapshot.Cutter
		held    snapshot.Resources
		heldRev int64
	)
	for {
		w, newer := s.o.House.World()
		now, err := cutter.Of(w, node)
		if err != nil {
			return s.fail("cutting a snapshot", err)
		}
		f := snapshot.Diff(w.Epoch, heldRev, w.Revision, held, now)
		if heldRev != 0 && f.Empty() {
			s.o.House.Watch(node, Event{Attached: true, Enforced: w.Revision})
		} else {
			refused, err := sendFrame(stream, f)
			if err != nil {
				return err
			}
			if refused != "" {
				s.o.Log.Warn("node refused a revision", "node", node, "revision", w.Revision, "why", refused)
				s.o.House.Watch(node, Event{Attached: true, Enforced: heldRev, Refused: refused})
			} else {
				held, heldRev = now, w.Revision
				s.o.House.Watch(node, Event{Attached: true, Enforced: w.Revision})
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-newer:
		}
	}
}

// sendFrame sends f in parts and returns the reason if the node does not enforce it.
func sendFrame(stream grpc.BidiStreamingServer[DeltaRequest, DeltaResponse], f snapshot.Frame) (refused string, err error) {
	version := fmt.Sprintf("%s/%d-%d", f.Epoch, f.From, f.To)
	names := slices.Sorted(maps.Keys(f.Put))
	for part := 0; ; part++ {
		m := &DeltaResponse{TypeUrl: typeURL, SystemVersionInfo: version}
		size := 0
		for len(names) > 0 && size < maxPart {
			b := f.Put[names[0]]
			m.Resources = append(m.Resources, &Resource{
				Name: names[0], Version: strconv.FormatInt(f.To, 10),
				Resource: &Content{TypeUrl: typeURL, Value: b},
			})
			size += len(b) + len(names[0])
			names = names[1:]
		}
		last := len(names) == 0
		if last {
			m.RemovedResources = f.Removed
		} else {
			m.SystemVersionInfo += "+"
		}
		m.Nonce = m.SystemVersionInfo + "#" + strconv.Itoa(part)
		if err := stream.Send(m); err != nil {
			return "", err
		}
		answer, err := stream.Recv()
		if err != nil {
			return "", err
		}
		if answer.ResponseNonce != m.Nonce {
			return "", status.Errorf(codes.InvalidArgument, "nonce %q acknowledged, %q was sent", answer.ResponseNonce, m.Nonce)
		}
		if d := answer.ErrorDetail; d != nil {
			return cut("refused "+strconv.FormatInt(f.To, 10)+": "+d.Message, maxReason), nil
		}
		if last {
			return "", nil
		}
	}
}

func (s *service) refusal(doing string, err error) *Refusal {
	var r *Refused
	if errors.As(err, &r) {
		return &Refusal{Code: r.Code, Text: r.Text, Hint: r.Hint}
	}
	s.o.Log.Error(doing, "error", err)
	return &Refusal{Code: "internal", Text: "internal error"}
}

// fail is the answer of a method that has no place for a refusal.
func (s *service) fail(doing string, err error) error {
	r := s.refusal(doing, err)
	st, detailErr := status.New(codes.PermissionDenied, r.Text).WithDetails(r)
	if detailErr != nil {
		return status.Error(codes.PermissionDenied, r.Text)
	}
	return st.Err()
}

func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
