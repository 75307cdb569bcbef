package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
)

// put replaces a file of the watched directory at once.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func policies(n int, spec string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(policyDoc(fmt.Sprintf("p%04d", i), "shop", spec))
	}
	return b.String()
}

// A set of many transactions comes into force in one revision of the world, at the start before anybody is told of
// anything, and later; so does its end.
func TestDirectoryIsOneSet(t *testing.T) {
	dir, n := t.TempDir(), 3*catalog.MaxChanges+1
	put(t, dir, "all.yaml", policies(n, "{}"))
	r := newPlace(t).run(func(o *Options) { o.Watch = dir })
	count := func() (plain, ruled int) {
		for _, p := range r.world.load().Policies {
			switch {
			case p.Namespace != "shop":
			case len(p.Rules) == 0:
				plain++
			default:
				ruled++
			}
		}
		return plain, ruled
	}
	if plain, ruled := count(); plain != n || ruled != 0 {
		t.Fatalf("at the start: %d and %d policies, want %d", plain, ruled, n)
	}
	whole := func(until func(plain, ruled int) bool) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			_, newer := r.world.watch()
			plain, ruled := count()
			if plain+ruled != 0 && plain != n && ruled != n {
				t.Fatalf("half of a set is in force: %d and %d", plain, ruled)
			}
			if until(plain, ruled) {
				return
			}
			select {
			case <-newer:
			case <-timeout:
				t.Fatalf("%d and %d policies are in force", plain, ruled)
			}
		}
	}
	put(t, dir, "all.yaml", policies(n, "{rules: [{}]}"))
	whole(func(_, ruled int) bool { return ruled == n })
	put(t, dir, "all.yaml", "")
	whole(func(plain, ruled int) bool { return plain+ruled == 0 })
}

// What a person applied the directory takes over; what it gives up goes; what is not its own stays.
func TestDirectoryOwns(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", policyDoc("mine", "shop", "{}"))
	r := newPlace(t).run(func(o *Options) { o.Watch = dir })
	r.applied(policyDoc("theirs", "shop", "{}"))
	put(t, dir, "b.yaml", policyDoc("theirs", "shop", "{}"))
	kept := func() error {
		_, err := r.remove(t.Context(), admin.DeleteRequest{Refs: []admin.Ref{{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "theirs"}}, DryRun: true})
		return err
	}
	until(t, "the directory to take it over", func() bool { return code(kept()) == "in_directory" })
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, "it to go", func() bool { return code(kept()) == "not_found" })
}
