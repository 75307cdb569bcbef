package control

import (
	"context"
	"log/slog"
	"time"

	"countersign.dev/internal/revocation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// beatEvery is how often a server says that its log has not changed (tokens.md 13).
const beatEvery = time.Second

// maxEntries bounds the entries of one frame.
const maxEntries = 10_000

// Revoked is the log as one node follows it.
type Revoked struct {
	All   []revocation.Entry        // at Epoch, oldest first
	Epoch int64                     // store revision
	More  <-chan []revocation.Entry // each later change; closed: it fell behind and must begin anew
}

// Revocations sends the log and keeps it current.
func (s *service) Revocations(stream grpc.BidiStreamingServer[RevocationsAck, RevocationsFrame]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	node, _, err := s.node(ctx)
	if err != nil {
		return err
	}
	log := s.o.House.Revoked(ctx)
	if log == nil {
		return status.Error(codes.Unavailable, "the log of revoked tokens is not whole here")
	}
	epoch := log.Epoch
	if err := s.sendRevocations(stream, node, true, log.All, epoch); err != nil {
		return err
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		var fresh []revocation.Entry
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
		case more, ok := <-log.More:
			if !ok {
				return status.Error(codes.Unavailable, "the node fell behind the log of revoked tokens")
			}
			fresh = more
			for _, e := range fresh {
				epoch = max(epoch, e.Seq)
			}
		}
		if err := s.sendRevocations(stream, node, false, fresh, epoch); err != nil {
			return err
		}
	}
}

// sendRevocations sends one list in frames; an empty one is a beat.
func (s *service) sendRevocations(stream grpc.BidiStreamingServer[RevocationsAck, RevocationsFrame], node string, all bool, entries []revocation.Entry, epoch int64) error {
	for {
		n := min(len(entries), maxEntries)
		f := &RevocationsFrame{All: all, Entries: toWire(entries[:n]), Epoch: epoch, More: n < len(entries), TimeMs: time.Now().UnixMilli()}
		entries = entries[n:]
		if err := stream.Send(f); err != nil {
			return err
		}
		ack, err := stream.Recv()
		if err != nil {
			return err
		}
		if !f.More {
			s.o.House.Heard(node, ack.Epoch)
			return nil
		}
	}
}

func toWire(list []revocation.Entry) []*Revocation {
	out := make([]*Revocation, 0, len(list))
	for _, e := range list {
		out = append(out, &Revocation{Seq: e.Seq, Kind: e.Kind, Val: e.Val, Before: e.Before, Until: e.Until, At: e.At})
	}
	return out
}

// followRevocations keeps the node's copy of the log until ctx ends.
func (c *Client) followRevocations(ctx context.Context) {
	wait := firstWait
	for {
		began := time.Now()
		err := c.revocations(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			wait = firstWait
		}
		c.o.Log.Log(ctx, slog.LevelDebug, "the stream of revoked tokens ended", "error", refused(err), "again in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
	}
}

func (c *Client) revocations(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Revocations(ctx)
	if err != nil {
		return err
	}
	var list []revocation.Entry
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, e := range f.Entries {
			list = append(list, revocation.Entry{Seq: e.GetSeq(), Kind: e.GetKind(), Val: e.GetVal(), Before: e.GetBefore(), Until: e.GetUntil(), At: e.GetAt()})
		}
		if !f.More {
			if err := c.o.Revoked(f.All, list, time.UnixMilli(f.TimeMs)); err != nil {
				return err
			}
			list = nil
		}
		if err := stream.Send(&RevocationsAck{Epoch: f.Epoch}); err != nil {
			return err
		}
	}
}
