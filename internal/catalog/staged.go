package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"countersign.dev/internal/store"
)

// A set beyond one transaction is staged: first all of it is written beside the objects, part by part; then one key,
// Moving, says that it is complete; then the parts are moved to where they belong, and Moving goes with the last. While
// Moving is there the objects are half old and half new, and nobody may take them for a state of the mesh. What was
// staged whole is carried to its end, also after a crash; what was not is forgotten.
const (
	staged = "staged/"
	// Moving is there while the objects are between two states.
	Moving = staged + "moving"
	parts  = staged + "part/"
)

const (
	// MaxSet bounds what one set may change.
	MaxSet = 20_000

	partOps   = store.MaxOps - 2   // beside those that clear up
	partBytes = store.MaxValue / 2 // of keys and values: staged they are a third longer
)

// Staged reports whether a key is of a set on its way.
func Staged(key string) bool { return strings.HasPrefix(key, parts) }

// CommitSet is Commit for a plan of any size. Only one caller at a time may write objects: what a large plan was judged
// against is not compared again. The revision is that of its end.
func (c *Catalog) CommitSet(ctx context.Context, p Plan) (int64, error) {
	if len(p.Txn.Then) <= MaxChanges && bytesOf(p.Txn.Then) < store.MaxCommit/2 {
		return c.Commit(ctx, p)
	}
	c.whole.Lock()
	defer c.whole.Unlock()
	switch before, err := c.finishLocked(ctx); {
	case err != nil:
		return 0, err
	case before != 0: // p was judged against something else
		return 0, ErrConflict
	}
	var n int
	for rest := p.Txn.Then; len(rest) > 0; n++ {
		size := partOf(rest)
		b, err := json.Marshal(rest[:size])
		if err != nil {
			return 0, fmt.Errorf("staging the objects: %w", err)
		}
		if _, err := c.st.Commit(ctx, store.Txn{Then: []store.Op{store.Put(fmt.Sprintf("%s%06d", parts, n), b)}}); err != nil {
			return 0, fmt.Errorf("staging the objects: %w", err)
		}
		rest = rest[size:]
	}
	c.unfinished.Store(true)
	if _, err := c.st.Commit(ctx, store.Txn{If: []store.Cmp{store.Absent(Moving)}, Then: []store.Op{store.Put(Moving, []byte("{}"))}}); err != nil {
		return 0, fmt.Errorf("staging the objects: %w", err)
	}
	return c.finishLocked(ctx)
}

func bytesOf(ops []store.Op) (n int) {
	for _, o := range ops {
		n += len(o.Key) + len(o.Value)
	}
	return n
}

// partOf is how many operations the next part takes; one at least.
func partOf(ops []store.Op) int {
	size := 0
	for i, o := range ops {
		if size += len(o.Key) + len(o.Value); i > 0 && (size > partBytes || i == partOps) {
			return i
		}
	}
	return len(ops)
}

// Finish moves what a set left staged to its place, or forgets what was not staged whole. It gives the revision at
// which the objects are whole, 0 if there was nothing to move.
func (c *Catalog) Finish(ctx context.Context) (rev int64, err error) {
	c.whole.Lock()
	defer c.whole.Unlock()
	return c.finishLocked(ctx)
}

func (c *Catalog) finishLocked(ctx context.Context) (rev int64, err error) {
	kvs, _, err := c.st.List(ctx, staged)
	if err != nil {
		return 0, fmt.Errorf("reading the staged objects: %w", err)
	}
	if len(kvs) == 0 {
		c.unfinished.Store(false)
		return 0, nil
	}
	if !slices.ContainsFunc(kvs, func(kv store.KV) bool { return kv.Key == Moving }) {
		if _, err := c.st.Commit(ctx, store.Txn{Then: []store.Op{store.DeletePrefix(parts)}}); err != nil {
			return 0, fmt.Errorf("clearing the staged objects: %w", err)
		}
		c.unfinished.Store(false)
		return 0, nil
	}
	kvs = slices.DeleteFunc(kvs, func(kv store.KV) bool { return kv.Key == Moving })
	for i, kv := range kvs { // in the order of their keys
		done := []store.Op{store.Delete(kv.Key)}
		if i == len(kvs)-1 {
			done = append(done, store.Delete(Moving))
		}
		if rev, err = c.move(ctx, kv.Value, done...); err != nil {
			return 0, err
		}
	}
	c.unfinished.Store(false)
	return rev, nil
}

func (c *Catalog) move(ctx context.Context, part []byte, done ...store.Op) (int64, error) {
	var ops []store.Op
	if part != nil {
		if err := json.Unmarshal(part, &ops); err != nil {
			return 0, fmt.Errorf("reading the staged objects: %w", err)
		}
	}
	res, err := c.st.Commit(ctx, store.Txn{Then: append(ops, done...)})
	if err != nil {
		return 0, fmt.Errorf("moving the staged objects: %w", err)
	}
	return res.Rev, nil
}
