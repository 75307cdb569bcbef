package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	maxMessage   = 1 << 20 // bytes in
	maxStreams   = 256     // of one connection; Envoy opens one for each secret
	handshakeFor = 5 * time.Second
	drainFor     = 2 * time.Second
)

// Server answers workloads from a Source.
type Server struct {
	source Source
	log    *slog.Logger
	said   said
}

// NewServer makes a server; Serve runs it.
func NewServer(src Source, log *slog.Logger) *Server {
	return &Server{source: src, log: log, said: said{at: map[process]mark{}}}
}

// Serve answers on ln until ctx ends, then lets go of every caller and returns nil.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	rooms := newRooms()
	g := grpc.NewServer(
		grpc.Creds(attestation{rooms}),
		grpc.ConnectionTimeout(handshakeFor),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(unaryHeader),
		grpc.StreamInterceptor(streamHeader),
		grpc.WaitForHandlers(true),
	)
	svc := &service{server: s, rooms: rooms, stopping: ctx.Done()}
	defer svc.sends.Wait()
	workload.RegisterSpiffeWorkloadAPIServer(g, svc)
	healthpb.RegisterHealthServer(g, health.NewServer())
	var wait sync.WaitGroup
	defer wait.Wait()
	ended := make(chan struct{})
	defer close(ended)
	wait.Go(func() {
		select {
		case <-ended:
			g.Stop()
		case <-ctx.Done():
			// GOAWAY to all, whose streams end by themselves; whoever stays is cut.
			cut := time.AfterFunc(drainFor, g.Stop)
			defer cut.Stop()
			g.GracefulStop()
		}
	})
	err := g.Serve(ln)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serving the Workload API: %w", err)
}

const headerName = "workload.spiffe.io"

// checkHeader is step 1 of identity.md 6.2, before anything else and also for calls that are
// not implemented: browsers and proxies that are tricked into a request do not send it (SPIFFE
// Workload Endpoint, 6). Not asked of the health service.
func checkHeader(ctx context.Context, method string) error {
	if !strings.HasPrefix(method, "/"+workload.SpiffeWorkloadAPI_ServiceDesc.ServiceName+"/") {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(headerName); len(v) != 1 || v[0] != "true" {
		return status.Errorf(codes.InvalidArgument, `metadata %q must be "true", once`, headerName)
	}
	return nil
}

func unaryHeader(ctx context.Context, req any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := checkHeader(ctx, call.FullMethod); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func streamHeader(srv any, ss grpc.ServerStream, call *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := checkHeader(ss.Context(), call.FullMethod); err != nil {
		return err
	}
	return handle(srv, ss)
}

// service is the SPIFFE service. What it does not define answers Unimplemented: the JWT and
// WIT calls (identity.md 6, first line).
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	server   *Server
	rooms    *rooms
	stopping <-chan struct{}
	sends    sync.WaitGroup // of stream.send
}

// FetchX509SVID streams the caller's SVIDs with its trust domain's bundle (identity.md 6.3).
func (s *service) FetchX509SVID(_ *workload.X509SVIDRequest, out grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return follow(s, out, svidResponse)
}

// FetchX509Bundles streams the bundle alone, to whoever has an identity.
func (s *service) FetchX509Bundles(_ *workload.X509BundlesRequest, out grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return follow(s, out, bundlesResponse)
}
