package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

const (
	defaultKeyLife = 90 * 24 * time.Hour
	maxKeyFind     = 10_000 // ids of one question
)

func (s *Server) keyRoutes(mux *http.ServeMux) {
	log := s.o.Log
	admin.Handle(mux, log, "POST /v1/key/create", told(s.createKey))
	admin.Handle(mux, log, "POST /v1/key/rotate", told(s.rotateKey))
	admin.Handle(mux, log, "POST /v1/key/revoke", told(s.revokeKey))
	admin.Handle(mux, log, "POST /v1/key/list", told(s.listKeys))
	admin.Handle(mux, log, "POST /v1/key/find", told(s.findKeys))
}

// createKey writes an APIKey and makes its first secret.
func (s *Server) createKey(ctx context.Context, r admin.KeyCreate) (admin.KeyMade, error) {
	now := time.Now()
	r.Namespace = cmp.Or(r.Namespace, "default")
	if len(r.Audiences)+len(r.Routes) == 0 {
		return admin.KeyMade{}, s.noReach(r)
	}
	life := cmp.Or(r.Expires, defaultKeyLife)
	if life < time.Minute || life > apikey.MaxLife {
		return admin.KeyMade{}, &admin.Problem{Code: "usage", Exit: 2, Message: "--expires is outside 1m to 365d", Hints: []string{"countersign key create " + r.Name + " --expires 90d"}}
	}
	key := apikey.Record{
		Namespace: r.Namespace, Name: r.Name, Env: apikey.Env(cmp.Or(r.Env, string(apikey.Live))), Owner: s.ownerOf(ctx, r),
		Scopes: r.Scopes, Audiences: r.Audiences, Routes: r.Routes, LimitClass: r.LimitClass,
		Expires: now.Add(life).UTC().Truncate(time.Second), RevokeOnLeak: true,
	}
	for _, c := range r.CIDRs {
		p, err := netip.ParsePrefix(c)
		if a, addrErr := netip.ParseAddr(c); err != nil && addrErr == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return admin.KeyMade{}, &admin.Problem{Code: "usage", Exit: 2, Message: fmt.Sprintf("--cidr %q is not a block of addresses", c), Hints: []string{"countersign key create " + r.Name + " --cidr 203.0.113.0/24"}}
		}
		key.CIDRs = append(key.CIDRs, p.Masked())
	}
	secret, err := apikey.Mint(rand.Reader, cmp.Or(key.Env, apikey.Live))
	if err != nil {
		return admin.KeyMade{}, &admin.Problem{Code: "usage", Exit: 2, Message: fmt.Sprintf("--env %q is neither live nor test", r.Env)}
	}
	if key, err = key.First(secret.Secret(nil)); err != nil {
		return admin.KeyMade{}, err
	}
	text, err := key.Document()
	if err != nil {
		return admin.KeyMade{}, err
	}
	file := "key " + r.Name
	objects, faults := resource.Decode([]resource.File{{Name: file, Data: text}}, resource.Options{RootNamespace: s.meta.RootNamespace})
	if resource.Stops(faults) {
		return admin.KeyMade{}, faulty("creating", []admin.File{{Name: file}}, faults)
	}
	objects[0].Places = resource.Places{}
	reply, err := s.writeKey(ctx, &key, secret.ID(), func(known map[string]catalog.Record) (catalog.Change, error) {
		if _, ok := known[catalog.Key("APIKey", key.Namespace, key.Name)]; ok {
			return catalog.Change{}, &admin.Problem{Code: "exists", Message: objects[0].ID() + " exists", Hints: []string{"countersign key show " + key.Name + inNamespace(key.Namespace), "countersign key rotate " + key.Name + inNamespace(key.Namespace)}}
		}
		return catalog.Change{Object: objects[0]}, nil
	})
	if err != nil {
		return admin.KeyMade{}, err
	}
	made := keyMade(&key, secret, reply.Revision)
	v := s.world.load()
	made.Notes = v.keyNotes(&key)
	if !slices.ContainsFunc(v.ReqAuth, func(a policy.RequestAuthentication) bool { return a.APIKeys == string(key.Env) }) {
		made.Notes = append(made.Notes, fmt.Sprintf("no Gateway takes %s keys yet: annotate a RequestAuthentication on one with countersign.dev/api-keys: %s", key.Env, key.Env))
	}
	return made, nil
}

func inNamespace(ns string) string {
	if ns == "default" {
		return ""
	}
	return " -n " + ns
}

// noReach says what a key could be for.
func (s *Server) noReach(r admin.KeyCreate) error {
	v := s.world.load()
	p := &admin.Problem{Code: "no_reach", Exit: 2, Message: "key create needs --audience or --route: the key would reach nothing"}
	seen := map[string]bool{}
	for i := range v.Edge.Routes {
		rt := &v.Edge.Routes[i]
		if rt.Namespace != r.Namespace {
			continue
		}
		p.Details = append(p.Details, admin.Detail{Label: "route", Value: rt.Name.String()})
		for _, rule := range rt.Rules {
			for _, b := range rule.Backends {
				if b.Ref.Namespace == r.Namespace && !seen[b.Ref.Name.Name] {
					seen[b.Ref.Name.Name] = true
					p.Hints = append(p.Hints, "countersign key create "+r.Name+" --audience "+b.Ref.Name.Name+inNamespace(r.Namespace))
				}
			}
		}
	}
	const most = 8
	p.Details = p.Details[:min(len(p.Details), most)]
	if p.Hints = p.Hints[:min(len(p.Hints), 3)]; len(p.Hints) == 0 {
		p.Hints = []string{"countersign key create " + r.Name + " --audience api" + inNamespace(r.Namespace)}
	}
	return p
}

// ownerOf is the owner of a new key as records name it. A plain word is a service account of the namespace.
func (s *Server) ownerOf(ctx context.Context, r admin.KeyCreate) string {
	switch {
	case r.Owner == "":
		return actorOf(ctx)
	case strings.Contains(r.Owner, ":"):
		return r.Owner
	}
	return "spiffe://" + s.td.Name() + "/ns/" + r.Namespace + "/sa/" + r.Owner
}

func keyMade(key *apikey.Record, secret apikey.Key, revision int64) admin.KeyMade {
	return admin.KeyMade{
		ID: secret.ID(), Secret: secret.Reveal(), Namespace: key.Namespace, Name: key.Name, Env: string(key.Env), Owner: key.Owner,
		Expires: key.Expires, Revision: revision,
	}
}

// writeKey commits one change of a key, and records before that a secret is issued.
func (s *Server) writeKey(ctx context.Context, key *apikey.Record, id string, change func(map[string]catalog.Record) (catalog.Change, error)) (admin.ApplyReply, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	ch, err := change(known)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	rec := &audit.Record{
		Kind: audit.KindIssue, IssuedKind: audit.IssuedKey, IssuedFor: key.Principal(), APIKeyID: id, Actor: actorOf(ctx),
		Decision: audit.Allow, Layer: audit.LayerIssue, Result: audit.ResultOK, NotAfter: key.Expires,
	}
	b := batch{verb: "key", doing: "writing " + ch.Object.ID(), known: known, rev: rev, changes: []catalog.Change{ch}}
	if id != "" {
		if _, err := s.canEnforce(b); err != nil { // nothing is issued that is refused
			return admin.ApplyReply{}, err
		}
		if err := s.recorder.Record(ctx, rec); err != nil {
			return admin.ApplyReply{}, fmt.Errorf("recording an API key: %w", err)
		}
	}
	return s.commit(ctx, b)
}

// rotateKey gives a key a new secret; the one before counts for the overlap.
func (s *Server) rotateKey(ctx context.Context, r admin.KeyRotate) (admin.KeyMade, error) {
	r.Namespace = cmp.Or(r.Namespace, "default")
	if r.Overlap < 0 || r.Overlap > apikey.MaxLife {
		return admin.KeyMade{}, &admin.Problem{Code: "usage", Exit: 2, Message: "--overlap is outside 0s to 365d"}
	}
	at := s.world.load().records[catalog.Key("APIKey", r.Namespace, r.Name)]
	if at.Kind == "" {
		return admin.KeyMade{}, s.noKey(ctx, r.Namespace, r.Name)
	}
	key, err := s.apiKeys.of(at)
	if err != nil {
		return admin.KeyMade{}, err
	}
	secret, err := apikey.Mint(rand.Reader, key.Env)
	if err != nil {
		return admin.KeyMade{}, err
	}
	reply, err := s.writeKey(ctx, &key, secret.ID(), func(known map[string]catalog.Record) (catalog.Change, error) {
		was, ok := known[catalog.Key("APIKey", r.Namespace, r.Name)]
		if !ok {
			return catalog.Change{}, s.noKey(ctx, r.Namespace, r.Name)
		}
		if key, err = s.apiKeys.of(was); err != nil {
			return catalog.Change{}, err
		}
		if key, err = key.Rotate(secret.Secret(nil), time.Now().Truncate(time.Second), r.Overlap.Truncate(time.Second)); err != nil {
			return catalog.Change{}, err
		}
		o, err := key.Rewrite(was.Object)
		return catalog.Change{Object: o}, err
	})
	if err != nil {
		return admin.KeyMade{}, err
	}
	made := keyMade(&key, secret, reply.Revision)
	for _, x := range key.Secrets {
		if x.ID != secret.ID() {
			made.Before, made.Until = x.ID, x.Until
		}
	}
	if key.Disabled {
		made.Notes = append(made.Notes, "the key is disabled: neither secret is taken")
	}
	return made, nil
}

func (s *Server) noKey(ctx context.Context, namespace, name string) error {
	known, _, err := s.applied(ctx)
	if err != nil {
		return err
	}
	return keyWords(notFound(admin.Ref{Kind: "APIKey", Namespace: namespace, Name: name}, known))
}

// keyWords has a hint name the command that lists keys.
func keyWords(err error) error {
	if p, ok := errors.AsType[*admin.Problem](err); ok && p.Code == "not_found" {
		p.Hints = []string{"countersign keys -A"}
	}
	return err
}

// revokeKey takes one secret out; with the last the key goes.
func (s *Server) revokeKey(ctx context.Context, r admin.KeyRevoke) (admin.ApplyReply, error) {
	holder := s.world.load().apiKeys.Holder(r.ID)
	if holder == nil {
		return admin.ApplyReply{}, s.noID(r.ID)
	}
	last := len(holder.Secrets) == 1
	if !r.Confirmed {
		what := fmt.Sprintf("revoke %s of %s: whoever uses it is refused at once", r.ID, holder.Principal())
		if last {
			what = fmt.Sprintf("revoke %s, the only secret of %s: the key is deleted", r.ID, holder.Principal())
		}
		return admin.ApplyReply{}, &admin.Problem{Code: "needs_yes", Message: what, Exit: 2}
	}
	return s.takeOut(ctx, holder, r.ID)
}

func (s *Server) noID(id string) error {
	if len(id) > 10 || strings.ContainsAny(id, "_") {
		return &admin.Problem{Code: "secret_argument", Exit: 2, Message: "key revoke takes the ID of a key, never the key", Hints: []string{"countersign keys -A"}}
	}
	if s.keyNotes.revoked([]string{id})[id] {
		return &admin.Problem{Code: "not_found", Message: fmt.Sprintf("%s was revoked before", id), Hints: []string{"countersign keys -A"}}
	}
	return &admin.Problem{Code: "not_found", Message: fmt.Sprintf("no API key has a secret %q", id), Hints: []string{"countersign keys -A"}}
}

// takeOut revokes one secret of a key.
func (s *Server) takeOut(ctx context.Context, holder *apikey.Record, id string) (admin.ApplyReply, error) {
	return s.writeKey(ctx, holder, "", func(known map[string]catalog.Record) (catalog.Change, error) {
		was, ok := known[catalog.Key("APIKey", holder.Namespace, holder.Name)]
		if !ok {
			return catalog.Change{}, s.noID(id)
		}
		key, err := s.apiKeys.of(was)
		if err != nil {
			return catalog.Change{}, err
		}
		if key, err = key.Revoke(id); err != nil {
			return catalog.Change{}, s.noID(id)
		}
		if len(key.Secrets) == 0 {
			return catalog.Change{Object: was.Object, Remove: true}, nil
		}
		o, err := key.Rewrite(was.Object)
		return catalog.Change{Object: o}, err
	})
}

func (s *Server) listKeys(ctx context.Context, q admin.KeyQuery) (admin.KeyList, error) {
	v, now := s.world.load(), time.Now()
	out := admin.KeyList{Keys: []admin.KeyRow{}}
	for _, name := range slices.Sorted(maps.Keys(v.records)) {
		rec := v.records[name]
		if rec.Kind != "APIKey" || q.Namespace != "" && rec.Namespace != q.Namespace || q.Name != "" && rec.Name != q.Name {
			continue
		}
		key, err := s.apiKeys.of(rec)
		if err != nil {
			return admin.KeyList{}, err
		}
		out.Keys = append(out.Keys, s.keyRows(v, &key, rec.Created, now)...)
	}
	if q.Name != "" && len(out.Keys) == 0 {
		return out, s.noKey(ctx, cmp.Or(q.Namespace, "default"), q.Name)
	}
	return out, nil
}

func (s *Server) keyRows(v *view, key *apikey.Record, created time.Time, now time.Time) (out []admin.KeyRow) {
	note := s.keyNotes.note(key.Namespace, key.Name)
	for i, x := range key.Secrets {
		row := admin.KeyRow{
			ID: x.ID, Namespace: key.Namespace, Name: key.Name, Env: string(key.Env), Owner: key.Owner,
			Scopes: append([]string{}, key.Scopes...), Audiences: key.Audiences, Routes: key.Routes, LimitClass: key.LimitClass,
			Expires: key.Expires.UTC(), Until: x.Until, Created: created.UTC(), CreatedBy: note.CreatedBy, LastUsed: s.keyNotes.lastUsed(x.ID),
			State: string(key.State(i, now)),
		}
		for _, c := range key.CIDRs {
			row.CIDRs = append(row.CIDRs, c.String())
		}
		if n, ok := note.Secrets[x.ID]; ok {
			row.Created, row.Exposed, row.Where = n.Created, n.Exposed, n.Where
		}
		if i == len(key.Secrets)-1 {
			row.Notes = v.keyNotes(key)
		}
		out = append(out, row)
	}
	return out
}

func (s *Server) findKeys(_ context.Context, q admin.KeyFind) (admin.KeyStates, error) {
	if len(q.IDs) > maxKeyFind {
		return admin.KeyStates{}, &admin.Problem{Code: "too_large", Message: fmt.Sprintf("%d ids at once, at most %d", len(q.IDs), maxKeyFind)}
	}
	out := admin.KeyStates{States: map[string]string{}}
	keys, now := s.world.load().apiKeys, time.Now()
	gone := s.keyNotes.revoked(q.IDs)
	for _, id := range q.IDs {
		switch {
		case keys.Still(id, now) != nil:
			out.States[id] = "active"
		case keys.Holder(id) != nil || gone[id]:
			out.States[id] = "revoked"
		default:
			out.States[id] = "unknown"
		}
	}
	return out, nil
}
