package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// dumpPage is how many keys a dump reads at once.
const dumpPage = 500

// call bounds one call by its deadline and by the engine's life; done ends it.
func (e *Etcd) call(ctx context.Context, doing string) (bounded context.Context, done func(), err error) {
	if err := ctx.Err(); err != nil { // etcd would still propose a write
		return nil, nil, e.failed(ctx, doing, err)
	}
	if !e.enter() {
		return nil, nil, e.failed(ctx, doing, context.Canceled)
	}
	ctx, cancel := withDeadline(ctx)
	stop := context.AfterFunc(e.life, cancel)
	return ctx, func() { stop(); cancel(); e.leave() }, nil
}

// Get implements Store.
func (e *Etcd) Get(ctx context.Context, key string) (KV, error) {
	if err := checkKey(key); err != nil {
		return KV{}, err
	}
	ctx, done, err := e.call(ctx, "reading "+key)
	if err != nil {
		return KV{}, err
	}
	defer done()
	r, err := e.client.Get(ctx, e.prefix+key)
	if err != nil {
		return KV{}, e.failed(ctx, "reading "+key, err)
	}
	if len(r.Kvs) == 0 {
		return KV{}, fmt.Errorf("reading %q: %w", key, ErrNotFound)
	}
	return e.kv(r.Kvs[0]), nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix string) ([]KV, int64, error) {
	ctx, done, err := e.call(ctx, "listing "+prefix)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	r, err := e.client.Get(ctx, e.prefix+prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, e.failed(ctx, "listing "+prefix, err)
	}
	return e.kvs(r.Kvs), r.Header.Revision, nil
}

// Commit implements Store.
func (e *Etcd) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.check(); err != nil {
		return Result{}, err
	}
	if err := e.room.check(e.dir); err != nil {
		return Result{}, err
	}
	ctx, done, err := e.call(ctx, "committing")
	if err != nil {
		return Result{}, err
	}
	defer done()
	cmps := make([]clientv3.Cmp, len(t.If))
	for i, c := range t.If {
		target := clientv3.ModRevision(e.prefix + c.Key)
		if c.Field == Create {
			target = clientv3.CreateRevision(e.prefix + c.Key)
		}
		cmps[i] = clientv3.Compare(target, "=", c.N)
	}
	r, err := e.client.Txn(ctx).If(cmps...).Then(e.ops(t.Then)...).Else(e.ops(t.Else)...).Commit()
	if err != nil {
		return Result{}, e.failed(ctx, "committing", err)
	}
	results := make([]OpResult, len(r.Responses))
	for i, op := range r.Responses {
		switch op := op.Response.(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			results[i].KVs = e.kvs(op.ResponseRange.Kvs)
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			results[i].Deleted = op.ResponseDeleteRange.Deleted
		}
	}
	if !r.Succeeded {
		return Result{Rev: r.Header.Revision, Else: results}, fmt.Errorf("committing: %w", ErrConflict)
	}
	return Result{Rev: r.Header.Revision, Then: results}, nil
}

func (e *Etcd) ops(ops []Op) []clientv3.Op {
	out := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		key := e.prefix + op.Key
		switch op.Verb {
		case VerbPut:
			out[i] = clientv3.OpPut(key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		case VerbDelete:
			out[i] = clientv3.OpDelete(key)
		case VerbDeletePrefix:
			out[i] = clientv3.OpDelete(key, clientv3.WithPrefix())
		case VerbGet:
			out[i] = clientv3.OpGet(key)
		}
	}
	return out
}

// Status implements Store.
func (e *Etcd) Status(ctx context.Context) (Status, error) {
	_, done, err := e.call(ctx, "asking for the status")
	if err != nil {
		return Status{}, err
	}
	defer done()
	s := e.etcd.Server
	return Status{Size: s.Backend().Size(), Revision: s.KV().Rev(), Members: len(s.Cluster().Members())}, nil
}

// Compact implements Keeper.
func (e *Etcd) Compact(ctx context.Context, rev int64) error {
	ctx, done, err := e.call(ctx, "compacting")
	if err != nil {
		return err
	}
	defer done()
	if _, err := e.client.Compact(ctx, rev); err != nil {
		return e.failed(ctx, "compacting", err)
	}
	return nil
}

// Defragment implements Keeper. It is not interrupted by ctx once begun.
func (e *Etcd) Defragment(ctx context.Context) error {
	ctx, done, err := e.call(ctx, "defragmenting")
	if err != nil {
		return err
	}
	defer done()
	if err := e.etcd.Server.Backend().Defrag(); err != nil {
		return e.failed(ctx, "defragmenting", err)
	}
	return nil
}

// Dump implements Dumper.
func (e *Etcd) Dump(ctx context.Context, w io.Writer) (int64, error) {
	page, rev, err := e.page(ctx, e.prefix, 0)
	if err != nil {
		return 0, err
	}
	return rev, writeDump(w, e.cluster, rev, func(yield func(KV, error) bool) {
		for len(page) > 0 {
			for _, kv := range page {
				if !yield(kv, nil) {
					return
				}
			}
			if len(page) < dumpPage {
				return
			}
			next := e.prefix + page[len(page)-1].Key + "\x00"
			if page, _, err = e.page(ctx, next, rev); err != nil {
				yield(KV{}, err)
				return
			}
		}
	})
}

// page reads at most dumpPage keys from the key `from` on, at revision rev (0: now).
func (e *Etcd) page(ctx context.Context, from string, rev int64) ([]KV, int64, error) {
	ctx, done, err := e.call(ctx, "reading for a dump")
	if err != nil {
		return nil, 0, err
	}
	defer done()
	r, err := e.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(e.prefix)),
		clientv3.WithLimit(dumpPage), clientv3.WithRev(rev))
	if err != nil {
		return nil, 0, e.failed(ctx, "reading for a dump", err)
	}
	return e.kvs(r.Kvs), r.Header.Revision, nil
}

func (e *Etcd) kv(kv *mvccpb.KeyValue) KV {
	return KV{
		Key: strings.TrimPrefix(string(kv.Key), e.prefix), Value: kv.Value,
		Create: kv.CreateRevision, Mod: kv.ModRevision, Lease: kv.Lease,
	}
}

func (e *Etcd) kvs(in []*mvccpb.KeyValue) []KV {
	if len(in) == 0 {
		return nil
	}
	out := make([]KV, len(in))
	for i, kv := range in {
		out[i] = e.kv(kv)
	}
	return out
}

// failed turns an error of etcd into one of ours.
func (e *Etcd) failed(ctx context.Context, doing string, err error) error {
	kind := ErrUnavailable
	switch {
	case e.fault.err() != nil:
		return unavailable(doing, e.fault.err())
	case e.life.Err() != nil:
		return fmt.Errorf("%s: %w: closed", doing, ErrUnavailable)
	case ctx.Err() != nil:
		return unavailable(doing, context.Cause(ctx))
	case errors.Is(err, rpctypes.ErrCompacted):
		kind = ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		kind = ErrNoSpace
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		kind = ErrTooLarge
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrLeaseNotFound),
		errors.Is(err, rpctypes.ErrDuplicateKey), errors.Is(err, rpctypes.ErrTooManyOps):
		kind = ErrInvalid
	}
	return fmt.Errorf("%s: %w: %v", doing, kind, err)
}
