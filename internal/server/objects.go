package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
	"golang.org/x/sync/errgroup"
)

// apply takes all documents or none.
func (s *Server) apply(ctx context.Context, r admin.ApplyRequest) (admin.ApplyReply, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	objects, faults := resource.Decode(sources(r.Files), s.decoding(r, known))
	if resource.Stops(faults) {
		return admin.ApplyReply{}, faulty("applying", r.Files, faults)
	}
	var changes []catalog.Change
	for _, o := range objects {
		changes = append(changes, catalog.Change{Object: o})
	}
	if !r.Confirmed && !r.DryRun {
		if err := s.opensTheMesh(known, changes); err != nil {
			return admin.ApplyReply{}, err
		}
	}
	reply, err := s.commit(ctx, batch{verb: "apply", doing: "applying " + named(r.Files), known: known, rev: rev, changes: changes, dryRun: r.DryRun})
	reply.Warnings = append(reply.Warnings, faults...)
	return reply, err
}

func sources(in []admin.File) []resource.File {
	var out []resource.File
	for _, f := range in {
		out = append(out, resource.File{Name: f.Name, Data: []byte(f.Data)})
	}
	return out
}

func (s *Server) decoding(r admin.ApplyRequest, known map[string]catalog.Record) resource.Options {
	o := resource.Options{
		Namespace: r.Namespace, RootNamespace: s.meta.RootNamespace, IgnoreUnknownKinds: r.IgnoreUnknownKinds,
		CertificateDirs: s.o.CertificateDirs,
		Stored: func(kind, namespace, name string) (resource.Object, bool) {
			rec, ok := known[catalog.Key(kind, namespace, name)]
			return rec.Object, ok
		},
	}
	switch nodes := s.world.load().nodes; len(nodes) {
	case 0:
		o.OneNode = s.o.Home
	case 1:
		for name := range nodes {
			o.OneNode = name
		}
	}
	return o
}

func faulty(doing string, in []admin.File, faults []resource.Fault) error {
	errs := 0
	for _, f := range faults {
		if f.Severity == resource.Error {
			errs++
		}
	}
	return &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s %s: %s; nothing was changed", doing, named(in), count(errs, "fault")), Faults: faults}
}

func named(in []admin.File) string {
	if len(in) == 1 {
		return in[0].Name
	}
	return count(len(in), "file")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// opensTheMesh asks for a second word before a mesh-wide mode weaker than STRICT, and before
// the last mesh-wide ALLOW policy goes, by whatever it becomes (cli.md 7).
func (s *Server) opensTheMesh(known map[string]catalog.Record, changes []catalog.Change) error {
	for _, ch := range changes {
		o := ch.Object
		was := known[catalog.Key(o.Kind, o.Namespace, o.Name)]
		if ch.Remove || o.Kind != "PeerAuthentication" || o.Namespace != s.meta.RootNamespace || string(was.JSON) == string(o.JSON) {
			continue
		}
		p, err := resource.PeerAuthentication(o, 0)
		if err != nil {
			return err
		}
		if p.Mode == policy.Permissive || p.Mode == policy.Disable {
			return &admin.Problem{Code: "needs_yes", Message: fmt.Sprintf("%s lets callers in without a certificate everywhere", o.ID()), Exit: 2}
		}
	}
	if s.closed(known, nil) && !s.closed(known, changes) {
		return &admin.Problem{Code: "needs_yes", Message: "every call without its own policy will be allowed", Exit: 2}
	}
	return nil
}

// closed reports whether a mesh-wide ALLOW policy refuses what no other allows, after changes.
func (s *Server) closed(known map[string]catalog.Record, changes []catalog.Change) bool {
	refuses := func(o resource.Object) bool {
		if o.Kind != "AuthorizationPolicy" || o.Namespace != s.meta.RootNamespace {
			return false
		}
		p, err := resource.Policy(o)
		return err == nil && p.Action == policy.Allow && len(p.Selector) == 0
	}
	written := map[string]bool{}
	for _, ch := range slices.Backward(changes) { // of two for one object the last
		key := catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)
		if !written[key] && !ch.Remove && refuses(ch.Object) {
			return true
		}
		written[key] = true
	}
	for key, r := range known {
		if r.Kind == "AuthorizationPolicy" && !written[key] && refuses(r.Object) {
			return true
		}
	}
	return false
}

// after gives the objects as changes leave them.
func after(known map[string]catalog.Record, changes []catalog.Change) map[string]catalog.Record {
	out := maps.Clone(known)
	for _, ch := range changes {
		key := catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)
		if ch.Remove {
			delete(out, key)
			continue
		}
		r := out[key]
		if !same(r.Object, ch.Object) {
			r.Meaning = nil
		}
		r.Object = ch.Object
		out[key] = r
	}
	return out
}

// same reports whether two objects say the same, of the same place.
func same(a, b resource.Object) bool {
	return string(a.JSON) == string(b.JSON) && a.Private.Equal(b.Private) &&
		a.Places.Object() == b.Places.Object() && slices.Equal(a.Places.Rules, b.Places.Rules)
}

// batch is what one request wants of the objects that it was judged against.
type batch struct {
	verb, doing string // in records; in what people read: apply, applying shop.yaml
	known       map[string]catalog.Record
	rev         int64
	changes     []catalog.Change
	dryRun      bool
	directory   string // the watched one; empty: a person
}

// commit writes changes with what they end, records who did what, and waits until this server
// knows it.
func (s *Server) commit(ctx context.Context, b batch) (admin.ApplyReply, error) {
	if err := s.inDirectory(b); err != nil {
		return admin.ApplyReply{}, err
	}
	plan, err := s.catalog.PrepareSet(b.known, b.changes, time.Now())
	var ended endings
	if err == nil {
		ended, err = s.endings(ctx, b.known, b.changes)
	}
	if err == nil && b.directory == "" {
		err = plan.Room(ended.ops())
	}
	var many catalog.TooMany
	if errors.As(err, &many) {
		return admin.ApplyReply{}, &admin.Problem{Code: "too_large", Message: b.doing + ": " + many.Error() + "; nothing was changed", Hints: []string{"apply them in several steps"}}
	}
	if err != nil {
		return admin.ApplyReply{}, err
	}
	reply := admin.ApplyReply{Objects: []admin.Result{}, Revision: b.rev, DryRun: b.dryRun}
	for i, ch := range b.changes {
		o := ch.Object
		reply.Objects = append(reply.Objects, admin.Result{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Result: plan.Results[i]})
	}
	warn, err := s.canEnforce(b)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	if b.verb == "apply" {
		reply.Notes = certificateNotes(b.changes, plan.Results)
	}
	if b.dryRun || !plan.Changes() {
		reply.Warnings = warn()
		return reply, nil
	}
	if err := s.recordChange(ctx, b, reply.Objects); err != nil {
		return admin.ApplyReply{}, err
	}
	ops, err := s.end(ctx, ended)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	plan.Txn.Then = append(plan.Txn.Then, ops...)
	write := s.catalog.Commit
	if b.directory != "" {
		write = s.catalog.CommitSet
	}
	reply.Revision, err = write(ctx, plan)
	if errors.Is(err, catalog.ErrConflict) {
		return admin.ApplyReply{}, &admin.Problem{Code: "conflict", Message: b.doing + ": the objects changed meanwhile; nothing was changed", Hints: []string{"countersign get ap -A"}}
	}
	if errors.Is(err, store.ErrTooLarge) {
		return admin.ApplyReply{}, &admin.Problem{Code: "too_large", Message: fmt.Sprintf("%s: %v; nothing was changed", b.doing, store.ErrTooLarge), Hints: []string{"apply them in several steps"}}
	}
	if err != nil {
		return admin.ApplyReply{}, err
	}
	reply.Warnings = warn() // while nodes put it in force: it may take as long as that
	return reply, s.world.waitFor(ctx, reply.Revision)
}

// canEnforce refuses what this server would store and then could not put in force: from then
// on nothing would come through any more. What comes through and cannot work warn tells of.
func (s *Server) canEnforce(b batch) (warn func() []resource.Fault, err error) {
	then := after(b.known, b.changes)
	rank(then, b)
	v, err := s.decodeAll(then)
	if err != nil {
		return nil, err
	}
	if err := impersonators(b, then, v); err != nil {
		return nil, err
	}
	if err := s.heldNames(b, then, v); err != nil {
		return nil, err
	}
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, DefaultMode: policy.Strict,
		Policies: v.Policies, PeerAuth: v.PeerAuth, RequestAuth: v.ReqAuth,
	})
	if len(faults) > 0 {
		f := faults[0]
		return nil, &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s: %s: %s; nothing was changed", f.Policy, f.Field, f.Text)}
	}
	v.compiled = compiled
	warnings, err := s.consented(b, then, v)
	if err != nil {
		return nil, err
	}
	more, err := s.canTakeKeys(b, then, v)
	if err != nil {
		return nil, err
	}
	return func() []resource.Fault { return slices.Concat(warnings, more, s.edgeWarnings(b, then, v)) }, nil
}

// rank makes what a batch writes younger than all else, the new objects last: of two that
// claim one name the one that came with the batch has the fault.
func rank(objects map[string]catalog.Record, b batch) {
	for i, ch := range b.changes {
		key := catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)
		r, ok := objects[key]
		was, had := b.known[key]
		switch {
		case !ok || ch.Remove:
			continue
		case !had:
			r.First, r.Meaning = b.rev+2+int64(i), nil
		case string(was.JSON) != string(ch.Object.JSON):
			r.First, r.Meaning = b.rev+1, nil
		}
		objects[key] = r
	}
}

func (s *Server) decodeAll(objects map[string]catalog.Record) (*view, error) {
	v := newView(&snapshot.World{})
	for _, key := range ordered(objects, s.world.load().order) {
		if err := addObject(v, objects[key]); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// consented refuses what speaks for another namespace without its word, and a name that is
// taken in the mesh (security.md 4). Taking a consent back is no fault: what hung on it is out
// of force with the same revision.
func (s *Server) consented(b batch, then map[string]catalog.Record, now *view) (warnings []resource.Fault, err error) {
	written := map[string]bool{}
	for _, ch := range b.changes {
		written[ch.Object.ID()] = !ch.Remove
	}
	told := func(f grant.Fault, severity string) resource.Fault {
		r := then[catalog.Key(f.Kind, f.Namespace, f.Name)]
		return resource.Fault{
			File: r.Places.File, Line: r.Places.Line, Column: r.Places.Col, Code: f.Code, Resource: r.ID(), Field: f.Field, Text: f.Text, Hint: f.Hint, Severity: severity,
		}
	}
	directory, found := grant.New(s.grantObjects(now))
	old := map[grant.Fault]bool{}
	if len(found) > 0 {
		known := maps.Clone(b.known)
		rank(known, b)
		before, err := s.decodeAll(known)
		if err != nil {
			return nil, err
		}
		for _, f := range s.grantFaults(before) {
			old[f] = true
		}
	}
	var faults []resource.Fault
	for _, f := range found {
		hung := f.Kind == "DelegationPolicy" || strings.HasPrefix(f.Field, "spec.targets")
		if old[f] || f.Code == noConsent && hung && !written[f.Kind+"/"+f.Namespace+"/"+f.Name] {
			continue
		}
		faults = append(faults, told(f, resource.Error))
	}
	if len(faults) > 0 {
		return nil, &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s: %s; nothing was changed", b.doing, count(len(faults), "fault")), Faults: faults}
	}
	for _, c := range now.clients {
		if !written["OAuthClient/"+c.Namespace+"/"+c.Name] {
			continue
		}
		for _, f := range directory.Warnings(&c) {
			warnings = append(warnings, told(f, resource.Warning))
		}
	}
	return bounded(warnings), nil
}

// maxWarnings bounds those of one batch between objects.
const maxWarnings = 200

// noConsent is E308 of istio-semantics.md 11.
const noConsent = "E308"

func (s *Server) grantFaults(v *view) []grant.Fault {
	_, faults := grant.New(s.grantObjects(v))
	return faults
}

func (s *Server) grantObjects(v *view) grant.Objects {
	o := grant.Objects{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, NoImplicit: s.o.Tokens.NoImplicit,
		Clients: v.clients, Audiences: v.Audiences, Issuers: v.Issuers, Delegations: v.delegations,
	}
	if s.tokens != nil {
		o.Issuer = s.tokens.issuer
	}
	o.Services = s.world.load().services()
	return o
}

// actorOf is who asks, as records name him.
func actorOf(ctx context.Context) string {
	if p := admin.ProcessOf(ctx); p != nil {
		return fmt.Sprintf("unix:uid:%d", p.UID())
	}
	return "server"
}

// recordChange writes who changes what before it is changed.
func (s *Server) recordChange(ctx context.Context, b batch, results []admin.Result) error {
	actor := actorOf(ctx)
	if b.directory != "" {
		actor = "directory:" + b.directory
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(1) // in their order
	if len(results) > catalog.MaxChanges {
		g.SetLimit(256) // which share a sync of the disk
	}
	for _, r := range results {
		if r.Result == catalog.Unchanged {
			continue
		}
		g.Go(func() error {
			rec := &audit.Record{
				Kind: audit.KindAdmin, Actor: actor, Action: b.verb, Object: r.Kind + "/" + r.Namespace + "/" + r.Name,
				Summary: r.Result, Decision: audit.Allow, Layer: audit.LayerAdmin, Result: audit.ResultOK,
			}
			if err := s.recorder.Record(ctx, rec); err != nil {
				return fmt.Errorf("recording a change: %w", err)
			}
			s.o.Log.Info("object "+r.Result, "object", rec.Object, "actor", actor)
			return nil
		})
	}
	return g.Wait()
}

// remove deletes objects by name, or those that files name.
func (s *Server) remove(ctx context.Context, r admin.DeleteRequest) (admin.ApplyReply, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	refs, what := r.Refs, count(len(r.Refs), "object")
	if len(refs) == 1 {
		what = refs[0].Kind + "/" + refs[0].Namespace + "/" + refs[0].Name
	}
	if len(r.Files) > 0 {
		what = named(r.Files)
		objects, faults := resource.Decode(sources(r.Files), s.decoding(admin.ApplyRequest{Namespace: r.Namespace}, known))
		if resource.Stops(faults) {
			return admin.ApplyReply{}, faulty("deleting", r.Files, faults)
		}
		for _, o := range objects {
			refs = append(refs, admin.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
		}
	}
	var changes []catalog.Change
	said := map[admin.Ref]bool{}
	for _, ref := range refs {
		if resource.ClusterScoped(ref.Kind) {
			ref.Namespace = ""
		}
		rec, ok := known[catalog.Key(ref.Kind, ref.Namespace, ref.Name)]
		switch {
		case said[ref]:
			continue
		case ok:
			said[ref] = true
			changes = append(changes, catalog.Change{Object: rec.Object, Remove: true})
		case !r.IgnoreNotFound:
			return admin.ApplyReply{}, notFound(ref, known)
		}
	}
	if !r.Confirmed && !r.DryRun {
		if err := s.opensTheMesh(known, changes); err != nil {
			return admin.ApplyReply{}, err
		}
	}
	return s.commit(ctx, batch{verb: "delete", doing: "deleting " + what, known: known, rev: rev, changes: changes, dryRun: r.DryRun})
}

func notFound(ref admin.Ref, known map[string]catalog.Record) error {
	id := ref.Kind + "/" + ref.Namespace + "/" + ref.Name
	k, _ := resource.LookupKind(ref.Kind)
	for _, key := range slices.Sorted(maps.Keys(known)) {
		r := known[key]
		if r.Kind == ref.Kind && r.Name == ref.Name {
			return &admin.Problem{
				Code: "other_namespace", Message: fmt.Sprintf("%s does not exist; %s/%s does", id, r.Namespace, r.Name),
				Hints: []string{fmt.Sprintf("countersign get %s %s -n %s", k.Short, r.Name, r.Namespace)},
			}
		}
	}
	return &admin.Problem{Code: "not_found", Message: id + " does not exist", Hints: []string{"countersign get " + k.Short}}
}

// objects lists what is applied.
func (s *Server) objects(ctx context.Context, q admin.Query) (admin.Objects, error) {
	known, _, err := s.applied(ctx)
	if err != nil {
		return admin.Objects{}, err
	}
	if resource.ClusterScoped(q.Kind) {
		q.Namespace = ""
	}
	if q.Kind == "GatewayClass" || q.Kind == "" && q.Namespace == "" && (q.Form == "json" || q.Form == "yaml") {
		known = s.withBuiltIn(known)
	}
	out := admin.Objects{Objects: []admin.Object{}}
	edge := sync.OnceValue(s.edge)
	for _, key := range slices.Sorted(maps.Keys(known)) {
		r := known[key]
		if q.Kind != "" && r.Kind != q.Kind || q.Namespace != "" && r.Namespace != q.Namespace {
			continue
		}
		if len(q.Names) > 0 && !slices.Contains(q.Names, r.Name) {
			continue
		}
		o, err := s.shown(r, q.Form, edge)
		if err != nil {
			return admin.Objects{}, err
		}
		out.Objects = append(out.Objects, o)
	}
	for _, name := range q.Names {
		found := slices.ContainsFunc(out.Objects, func(o admin.Object) bool { return o.Name == name })
		if !found {
			return admin.Objects{}, notFound(admin.Ref{Kind: q.Kind, Namespace: q.Namespace, Name: name}, known)
		}
	}
	return out, nil
}

// withBuiltIn adds the class that needs no document, where there is none of its name (gateway.md 2).
func (s *Server) withBuiltIn(known map[string]catalog.Record) map[string]catalog.Record {
	o := builtInClass()
	key := catalog.Key(o.Kind, o.Namespace, o.Name)
	if _, written := known[key]; written {
		return known
	}
	known = maps.Clone(known)
	known[key] = catalog.Record{Object: o, Created: s.started.Truncate(time.Second), Generation: 1}
	return known
}

var builtInClass = sync.OnceValue(func() resource.Object {
	const document = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: countersign}\nspec: {controllerName: countersign.dev/gateway}\n"
	objects, _ := resource.Decode([]resource.File{{Name: "built in", Data: []byte(document)}}, resource.Options{})
	return objects[0]
})

func (s *Server) shown(r catalog.Record, form string, edge func() *edgeStatus) (admin.Object, error) {
	more := resource.Served{Created: r.Created, Version: fmt.Sprint(r.Last)}
	columns := resource.Row(r.Object, s.meta.RootNamespace, s.td.Name())
	switch r.Kind {
	case "GatewayClass", "Gateway", "HTTPRoute", "RateLimit":
		more.Generation = r.Generation
		var word string
		var err error
		if word, more.Status, err = edge().of(r); err != nil {
			return admin.Object{}, fmt.Errorf("writing the status of %s: %w", r.ID(), err)
		}
		if n := len(columns); n > 0 {
			columns[n-1] = word
		}
	default:
		if word, ok := s.ready(s.world.load(), r); ok {
			columns = []string{word}
		}
	}
	var y, j []byte
	var err error
	if form == "" || form == "yaml" {
		if y, err = more.YAML(r.Object); err != nil {
			return admin.Object{}, fmt.Errorf("writing %s: %w", r.ID(), err)
		}
	}
	if form == "" || form == "json" {
		if j, err = more.JSON(r.Object); err != nil {
			return admin.Object{}, fmt.Errorf("writing %s: %w", r.ID(), err)
		}
	}
	return admin.Object{
		Kind: r.Kind, APIVersion: r.APIVersion, Namespace: r.Namespace, Name: r.Name, Created: r.Created,
		Revision: r.Last, Columns: columns, YAML: string(y), JSON: strings.TrimSpace(string(j)),
	}, nil
}
