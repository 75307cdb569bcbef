package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/control"
	"countersign.dev/internal/store"
)

// Bounds of what a node says of keys at once.
const (
	maxUsed    = 10_000
	maxExposed = 64
)

// keyUses takes what a node says of the API keys that its Gateways saw.
func (h house) keyUses(ctx context.Context, node string, u *control.KeyUses) error {
	s := h.s
	if len(u.Used) > maxUsed || len(u.Exposed) > maxExposed {
		return &control.Refused{Code: "bad_report", Text: fmt.Sprintf("%d keys used, %d exposed: at most %d and %d at once", len(u.Used), len(u.Exposed), maxUsed, maxExposed)}
	}
	v := s.world.load()
	var used []string
	for _, id := range u.Used {
		if v.apiKeys.Holder(id) != nil {
			used = append(used, id)
		}
	}
	s.keyNotes.use(used, time.Now())
	for _, e := range u.Exposed {
		holder := v.apiKeys.Holder(e.Id)
		if holder == nil {
			continue
		}
		if err := s.exposed(ctx, holder, e.Id, "a URL at Gateway "+e.Gateway, node); err != nil {
			return err
		}
	}
	return nil
}

// exposed marks a secret that others may have seen, and ends it if its key says so (tokens.md 14.3, 14.6).
func (s *Server) exposed(ctx context.Context, holder *apikey.Record, id, where, node string) error {
	if err := s.markExposed(ctx, holder, id, where); err != nil {
		return err
	}
	rec := &audit.Record{
		Kind: audit.KindKey, Action: "exposed", Object: "APIKey/" + holder.Namespace + "/" + holder.Name, APIKeyID: id, Actor: "node:" + node,
		Decision: audit.Allow, Layer: audit.LayerToken, Reason: "key_in_url", Result: audit.ResultOK,
	}
	if err := s.recorder.Record(ctx, rec); err != nil {
		return fmt.Errorf("recording an exposed API key: %w", err)
	}
	if !holder.RevokeOnLeak {
		s.o.Log.Warn("an API key stood in a URL: whoever keeps addresses has it", "key", holder.Principal(), "id", id, "hint", "countersign key rotate "+holder.Name+inNamespace(holder.Namespace)+" --overlap 0s")
		return nil
	}
	_, err := s.takeOut(ctx, holder, id)
	if p, ok := errors.AsType[*admin.Problem](err); ok && p.Code == "in_directory" { // whose owner alone changes it
		s.o.Log.Warn("an API key stood in a URL, and its file still has it", "key", holder.Principal(), "id", id, "hint", "take the secret out of the file")
		return nil
	}
	if err != nil {
		return fmt.Errorf("revoking an exposed API key: %w", err)
	}
	s.o.Log.Warn("an API key stood in a URL and is revoked", "key", holder.Principal(), "id", id)
	return nil
}

// markExposed notes beside the key where its secret was seen first.
func (s *Server) markExposed(ctx context.Context, holder *apikey.Record, id, where string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	n := s.keyNotes.note(holder.Namespace, holder.Name)
	x := n.Secrets[id]
	if !x.Exposed.IsZero() {
		return nil
	}
	n.Secrets = maps.Clone(n.Secrets)
	if n.Secrets == nil {
		n.Secrets = map[string]secretNote{}
	}
	x.Exposed, x.Where = time.Now().UTC().Truncate(time.Second), where
	n.Secrets[id] = x
	op, err := n.op(holder.Namespace, holder.Name)
	if err != nil {
		return err
	}
	res, err := s.o.Store.Commit(ctx, store.Txn{Then: []store.Op{op}})
	if err != nil {
		return fmt.Errorf("marking an API key as exposed: %w", err)
	}
	return s.world.waitFor(ctx, res.Rev) // what follows reads it
}

const (
	remindEvery = time.Hour
	maxReminded = 100 // lines of one round
	unusedKey   = 30 * 24 * time.Hour
)

// remindOfKeys says once of each key that it ends in 14, 7 and 1 days, and that nobody has used it for 30, until ctx
// ends. It also forgets the keys that are long gone.
func (s *Server) remindOfKeys(ctx context.Context) error {
	said := map[string]bool{}
	tick := time.NewTicker(remindEvery)
	defer tick.Stop()
	for {
		lines := 0
		for _, r := range s.reminders(s.world.load(), time.Now()) {
			if key := r.key + " " + r.what; !said[key] && lines < maxReminded {
				said[key] = true
				lines++
				s.o.Log.Warn("an API key "+r.what, "key", r.key, "hint", r.hint)
			}
		}
		for _, key := range s.keyNotes.forgotten(time.Now()) {
			if _, err := s.o.Store.Commit(ctx, store.Txn{Then: []store.Op{store.Delete(key)}}); err != nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

type reminder struct{ key, what, hint string }

func (s *Server) reminders(v *view, now time.Time) (out []reminder) {
	for _, name := range slices.Sorted(maps.Keys(v.records)) {
		rec := v.records[name]
		if rec.Kind != "APIKey" {
			continue
		}
		key, err := s.apiKeys.of(rec)
		if err != nil || key.Disabled || !now.Before(key.Expires) {
			continue
		}
		left := key.Expires.Sub(now)
		for _, days := range []int{1, 7, 14} {
			if left <= time.Duration(days)*24*time.Hour {
				out = append(out, reminder{key.Principal(), fmt.Sprintf("ends in less than %s", count(days, "day")), "write a later expires: countersign get apikey " + key.Name + inNamespace(key.Namespace) + " -o yaml"})
				break
			}
		}
		last := rec.Created
		for _, x := range key.Secrets {
			if at := s.keyNotes.lastUsed(x.ID); at.After(last) {
				last = at
			}
		}
		if now.Sub(last) >= unusedKey {
			out = append(out, reminder{key.Principal(), "was not used for 30 days", "countersign delete apikey " + key.Name + inNamespace(key.Namespace)})
		}
	}
	return out
}
