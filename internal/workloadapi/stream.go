package workloadapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/attest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	makeFor   = 5 * time.Second       // for SVIDs to be made
	startFor  = 2 * time.Second       // held while the node has no snapshot
	refuseFor = time.Second           // held before the first refusal: go-spiffe would wait 1, 2, 3 … s
	gather    = 50 * time.Millisecond // changes within it are one message
	sendFor   = 30 * time.Second      // without progress of a reader
)

var (
	errStarting = status.Error(codes.Unavailable, "node is starting")
	errStopping = status.Error(codes.Unavailable, "node is stopping")
	errNoSVID   = status.Error(codes.Unavailable, "SVID cannot be made now")
	errSlow     = status.Error(codes.Unavailable, "reader made no progress")
	errEnded    = status.Error(codes.Canceled, "calling process has ended")
)

// stream is one call under way.
type stream[R any] struct {
	*service
	out    grpc.ServerStreamingServer[R]
	render func(State) (*R, error)
	caller *caller
	facts  attest.Facts // as of the call: whoever changes afterwards gets no further message

	begun time.Time
	last  [sha256.Size]byte // of the last message sent; a hash, so that no key is kept for it
	sent  bool
}

// follow sends the caller's state, and again whenever it changed, until one of both ends. The
// steps are those of identity.md 6.2 after the header.
func follow[R any](s *service, out grpc.ServerStreamingServer[R], render func(State) (*R, error)) error {
	c, facts, err := callerOf(out.Context()) // step 3; steps 2 and 5 need its facts
	if err != nil {
		return s.notAttested(c, err)
	}
	st := &stream[R]{service: s, out: out, render: render, caller: c, facts: facts, begun: time.Now()}
	for {
		changed := s.server.source.Changed() // before State, so that no change falls between
		hold, err := st.next(changed)
		if err != nil {
			return err
		}
		if err := st.wait(changed, hold); err != nil {
			return err
		}
	}
}

// next asks for the state and sends it. With nothing sent yet it may ask for some patience
// instead: hold is how much longer a change may take to come.
func (st *stream[R]) next(changed <-chan struct{}) (hold time.Duration, err error) {
	ctx, cancel := context.WithTimeout(st.out.Context(), makeFor)
	defer cancel()
	state, err := st.server.source.State(ctx, st.facts, st.caller.process)
	if err != nil {
		return 0, st.unavailable(err)
	}
	passed := time.Since(st.begun)
	switch {
	case state.Starting: // step 2
		if passed < startFor {
			return startFor - passed, nil
		}
		return 0, errStarting
	case state.Refusal != nil: // step 5
		if !st.sent && passed < refuseFor {
			return refuseFor - passed, nil
		}
		st.rooms.stranger(st.caller)
		st.server.logRefusal(st.facts, *state.Refusal, changed)
		return 0, refusalStatus(st.facts, *state.Refusal)
	}
	st.rooms.known(st.caller)
	return 0, st.deliver(state)
}

// unavailable logs why no SVID could be made and tells the caller that much.
func (st *stream[R]) unavailable(err error) error {
	if st.out.Context().Err() != nil {
		return status.FromContextError(st.out.Context().Err()).Err()
	}
	st.server.log.Warn("SVID cannot be made now", "pid", st.facts.PID, "uid", st.facts.UID, "exe", st.facts.Exe, "err", err)
	return errNoSVID
}

// deliver sends a message unless it equals the last one. The process is looked at between the
// making of the message and its sending (security.md S1, sec-stream-recheck).
func (st *stream[R]) deliver(state State) error {
	r, err := st.render(state)
	if err != nil {
		return st.unavailable(err)
	}
	hash, err := hashOf(r)
	if err != nil {
		return st.unavailable(err)
	}
	if st.sent && hash == st.last {
		return nil
	}
	if err := st.caller.unchanged(st.facts); err != nil {
		return st.notAttested(st.caller, err)
	}
	if err := st.send(r); err != nil {
		return err
	}
	st.last, st.sent = hash, true
	return nil
}

func hashOf(message any) (h [sha256.Size]byte, err error) {
	m, ok := message.(proto.Message)
	if !ok {
		return h, fmt.Errorf("%T is no message", message)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return h, err
	}
	defer clear(b) // it holds keys
	return sha256.Sum256(b), nil
}

// send blocks while the reader takes nothing, so that at most one message of a stream waits
// here and the next one is made from the newest state. A reader that does not move for 30 s
// loses the stream: the return from the call ends the blocked write.
func (st *stream[R]) send(r *R) error {
	done := make(chan error, 1)
	st.sends.Go(func() { done <- st.out.Send(r) }) // ends with the call at the latest
	timer := time.NewTimer(sendFor)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errSlow
	case <-st.stopping:
		return errStopping
	case <-st.caller.process.Done():
		return errEnded
	}
}

// wait blocks until the state may have changed, or for hold if that is set.
func (st *stream[R]) wait(changed <-chan struct{}, hold time.Duration) error {
	var patience <-chan time.Time
	if hold > 0 {
		timer := time.NewTimer(hold)
		defer timer.Stop()
		patience = timer.C
	}
	if err := st.until(changed, patience); err != nil || !st.sent {
		return err
	}
	timer := time.NewTimer(gather)
	defer timer.Stop()
	return st.until(nil, timer.C)
}

// until blocks for one of two things to happen; the end of anything is an error.
func (st *stream[R]) until(changed <-chan struct{}, timer <-chan time.Time) error {
	select {
	case <-changed:
		return nil
	case <-timer:
		return nil
	case <-st.out.Context().Done():
		return status.FromContextError(st.out.Context().Err()).Err()
	case <-st.caller.process.Done():
		return errEnded
	case <-st.stopping:
		return errStopping
	}
}

// notAttested logs why a caller is not believed and tells it nothing of it.
func (s *service) notAttested(c *caller, err error) error {
	if c == nil {
		s.server.log.Error("call without a connection", "err", err)
		return status.Error(codes.Internal, "internal error")
	}
	s.server.logNotAttested(c, err)
	if errors.Is(err, attest.ErrGone) {
		return errEnded
	}
	return errNotAttested
}
