package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/store"
)

// All faults at once, each with its place, and nothing is changed.
func TestApplyFaults(t *testing.T) {
	r := newPlace(t).run()
	before := r.revision()
	_, err := r.apply(t.Context(), applyOf(false,
		policyDoc("good", "shop", "{}"),
		policyDoc("bad", "shop", "{rules: [{bogus: 1}]}")+peerAuthDoc("default", "shop", "{mtls: {mode: STRIKT}}"),
		"kind: [",
	))
	p, ok := err.(*admin.Problem)
	if !ok || p.Code != "faults" || len(p.Faults) < 3 || !strings.Contains(p.Message, "nothing was changed") {
		t.Fatalf("got %+v", err)
	}
	files := map[string]bool{}
	for _, f := range p.Faults {
		files[f.File] = true
		if f.Line == 0 || f.Text == "" {
			t.Errorf("a fault without its place: %+v", f)
		}
	}
	if !files["b.yaml"] || !files["c.yaml"] {
		t.Errorf("faults of %v", files)
	}
	if now := r.revision(); now != before {
		t.Errorf("revision %d became %d", before, now)
	}
}

// created, unchanged at the same revision, changed, deleted; a dry run writes nothing.
func TestApplyAndDelete(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	results := func(reply admin.ApplyReply) (out []string) {
		for _, o := range reply.Objects {
			out = append(out, o.Result+" "+o.Kind+"/"+o.Namespace+"/"+o.Name)
		}
		return out
	}
	docs := []string{policyDoc("p", "shop", "{}"), workloadDoc("web", "shop", "{selectors: ['run:shop/web'], nodes: any}")}
	q := applyOf(false, docs...)
	q.DryRun = true
	before := r.revision()
	reply, err := r.apply(ctx, q)
	want := []string{"created AuthorizationPolicy/shop/p", "created Workload/shop/web"}
	if err != nil || !slices.Equal(results(reply), want) || !reply.DryRun || r.revision() != before {
		t.Fatalf("dry run: %+v, %v", reply, err)
	}
	reply = r.applied(docs...)
	if !slices.Equal(results(reply), want) || reply.Revision <= before || r.Revision() < reply.Revision {
		t.Fatalf("got %+v, known revision %d", reply, r.Revision())
	}
	again := r.applied(docs...)
	if again.Objects[0].Result != catalog.Unchanged || again.Revision != reply.Revision {
		t.Errorf("again: %+v, want revision %d", again, reply.Revision)
	}
	if got := r.applied(policyDoc("p", "shop", "{rules: [{}]}")).Objects[0].Result; got != catalog.Changed {
		t.Errorf("got %s", got)
	}
	if _, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{{Kind: "AuthorizationPolicy", Namespace: "default", Name: "p"}}}); code(err) != "other_namespace" {
		t.Errorf("in another namespace: %v", err)
	}
	if _, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{{Kind: "AuthorizationPolicy", Namespace: "default", Name: "q"}}}); code(err) != "not_found" {
		t.Errorf("unknown: %v", err)
	}
	if reply, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{{Kind: "AuthorizationPolicy", Namespace: "default", Name: "q"}}, IgnoreNotFound: true}); err != nil || len(reply.Objects) != 0 {
		t.Errorf("ignored: %+v, %v", reply, err)
	}
	gone, err := r.remove(ctx, admin.DeleteRequest{Files: applyOf(false, docs...).Files, Refs: []admin.Ref{{Kind: "Workload", Namespace: "shop", Name: "web"}}})
	if err != nil || len(gone.Objects) != 2 {
		t.Errorf("by file and by name: %+v, %v", gone, err)
	}
	list, err := r.objects(ctx, admin.Query{Namespace: "shop"})
	if err != nil || len(list.Objects) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if _, err := r.objects(ctx, admin.Query{Kind: "AuthorizationPolicy", Namespace: "shop", Names: []string{"p"}}); code(err) != "not_found" {
		t.Errorf("a name that is gone: %v", err)
	}
}

// What opens the mesh is asked for twice (cli.md 7), by whatever way it is opened.
func TestNeedsYes(t *testing.T) {
	root := "istio-system"
	nothing := admin.Ref{Kind: "AuthorizationPolicy", Namespace: root, Name: "allow-nothing"}
	r := newPlace(t).run()
	ctx := t.Context()
	for name, try := range map[string]func(yes bool) error{
		"PERMISSIVE": func(yes bool) error {
			_, err := r.apply(ctx, applyOf(yes, peerAuthDoc("default", root, "{mtls: {mode: PERMISSIVE}}")))
			return err
		},
		"DISABLE": func(yes bool) error {
			_, err := r.apply(ctx, applyOf(yes, peerAuthDoc("default", root, "{mtls: {mode: DISABLE}}")))
			return err
		},
		"the last default deleted": func(yes bool) error {
			_, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{nothing}, Confirmed: yes})
			return err
		},
		"deleted and named twice": func(yes bool) error {
			_, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{nothing, nothing}, Confirmed: yes})
			return err
		},
		"made a DENY": func(yes bool) error {
			_, err := r.apply(ctx, applyOf(yes, policyDoc("allow-nothing", root, "{action: DENY, rules: [{to: [{operation: {methods: [TRACE]}}]}]}")))
			return err
		},
		"made to select": func(yes bool) error {
			_, err := r.apply(ctx, applyOf(yes, policyDoc("allow-nothing", root, "{selector: {matchLabels: {app: x}}}")))
			return err
		},
	} {
		r.applied(policyDoc("allow-nothing", root, "{}"), peerAuthDoc("default", root, "{mtls: {mode: STRICT}}"))
		before := r.revision()
		if err := try(false); code(err) != "needs_yes" || r.revision() != before {
			t.Errorf("%s: got %v at revision %d, was %d", name, err, r.revision(), before)
		}
		if err := try(true); err != nil || r.revision() == before {
			t.Errorf("%s, confirmed: got %v", name, err)
		}
	}
	r.applied(policyDoc("allow-nothing", root, "{}"), policyDoc("second", root, "{}"), peerAuthDoc("default", root, "{mtls: {mode: PERMISSIVE}}"))
	if _, err := r.apply(ctx, applyOf(false, peerAuthDoc("default", root, "{mtls: {mode: PERMISSIVE}}"))); err != nil {
		t.Errorf("what is PERMISSIVE already: %v", err)
	}
	if _, err := r.remove(ctx, admin.DeleteRequest{Refs: []admin.Ref{nothing}}); err != nil {
		t.Errorf("not the last one: %v", err)
	}
	if _, err := r.apply(ctx, applyOf(false, peerAuthDoc("default", "shop", "{mtls: {mode: PERMISSIVE}}"))); err != nil {
		t.Errorf("PERMISSIVE of one namespace: %v", err)
	}
	if !r.ClosedByDefault() {
		t.Error("the mesh is open")
	}
}

// People who apply at once: every batch is written whole, none is lost.
func TestConcurrentApplies(t *testing.T) {
	r := newPlace(t).run()
	const people, objects = 8, 5
	var wg sync.WaitGroup
	for p := range people {
		wg.Go(func() {
			var docs []string
			for o := range objects {
				docs = append(docs, policyDoc(fmt.Sprintf("p%d-%d", p, o), "shop", "{}"), policyDoc(fmt.Sprintf("shared-%d", o), "shop", fmt.Sprintf("{rules: [{to: [{operation: {paths: ['/%d']}}]}]}", p)))
			}
			if _, err := r.apply(t.Context(), applyOf(false, docs...)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := r.objects(t.Context(), admin.Query{Kind: "AuthorizationPolicy", Namespace: "shop"})
	if err != nil || len(list.Objects) != people*objects+objects {
		t.Fatalf("%d objects, %v", len(list.Objects), err)
	}
	specs := map[string]bool{}
	for _, o := range list.Objects {
		if strings.HasPrefix(o.Name, "shared-") {
			_, spec, _ := strings.Cut(o.JSON, `"paths"`)
			specs[spec] = true
		}
	}
	if len(specs) != 1 {
		t.Errorf("two batches are mixed: %v", specs)
	}
}

// A batch beyond one transaction is refused with a way out.
func TestTooLarge(t *testing.T) {
	r := newPlace(t).run()
	var many, big strings.Builder
	for i := range catalog.MaxChanges + 1 {
		many.WriteString(policyDoc(fmt.Sprintf("p%d", i), "shop", "{}"))
	}
	for i := range 20 {
		big.WriteString(policyDoc(fmt.Sprintf("p%d", i), "shop", "{rules: [{to: [{operation: {paths: ['/"+strings.Repeat("a', '/", 1500)+strings.Repeat("b", 4000)+"']}}]}]}"))
	}
	before := r.revision()
	for name, docs := range map[string]string{"many": many.String(), "large": strings.ReplaceAll(big.String(), "/a'", "/"+strings.Repeat("c", 60)+"'")} {
		_, err := r.apply(t.Context(), applyOf(false, docs))
		if p, ok := err.(*admin.Problem); !ok || p.Code != "too_large" || len(p.Hints) == 0 {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
	if r.revision() != before {
		t.Error("something was written")
	}
}

// A value that cannot be read keeps the last good world, says so to whoever writes, and lets
// go once it is mended (rule I).
func TestUnreadableValue(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	r.applied(policyDoc("p", "shop", "{}"))
	good := r.world.load()
	key := catalog.Key("AuthorizationPolicy", "shop", "broken")
	put := func(ops ...store.Op) {
		t.Helper()
		if _, err := p.st.Commit(t.Context(), store.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	put(store.Put(key, []byte(`{"v":1,"object":{}}`)), store.Delete(catalog.Key("AuthorizationPolicy", "istio-system", "allow-nothing")))
	_, err := r.apply(t.Context(), applyOf(false, policyDoc("q", "shop", "{}")))
	if err == nil {
		t.Fatal("apply went on as if nothing were")
	}
	if now := r.world.load(); now.Revision != good.Revision || !r.ClosedByDefault() {
		t.Fatalf("revision %d is in force, closed %v; want the last good one, %d", now.Revision, r.ClosedByDefault(), good.Revision)
	}
	put(store.Delete(key), store.Put("meta/other", []byte("x")))
	if err := r.world.waitFor(t.Context(), r.revision()); err != nil {
		t.Fatal(err)
	}
	if r.ClosedByDefault() {
		t.Error("the mended world is not in force")
	}
	_ = r.stop()
	put(store.Put(key, []byte(`{`)))
	s, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.serve(s); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("started over it: got %v, want an error that names it", err)
	}
}
