package snapshot

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"countersign.dev/internal/route"
)

// What is made of the revision before is what would be made anew, whatever was added, changed and removed; and what did
// not change is not written or read a second time.
func TestAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	read := func(i int) route.HTTPRoute {
		name := route.Name{Namespace: []string{"a", "a-b", "b"}[i%3], Name: fmt.Sprint("r", i)}
		return route.HTTPRoute{Meta: route.Meta{Name: name, Created: time.Unix(1e9, 0).UTC()}, Rules: []route.Rule{{Name: fmt.Sprint("v", rng.IntN(1000))}}}
	}
	var (
		cutter  Cutter
		decoder Decoder
		held    Resources
		routes  []route.HTTPRoute
	)
	for step := range 200 {
		was := held
		switch n := len(routes); {
		case n < 5 || rng.IntN(3) == 0:
			routes = append(slices.Clone(routes), read(step))
		case rng.IntN(2) == 0:
			i := rng.IntN(n)
			routes = slices.Delete(slices.Clone(routes), i, i+1)
		default:
			i := rng.IntN(n)
			routes = slices.Clone(routes)
			var number int
			fmt.Sscanf(routes[i].Name.Name, "r%d", &number)
			routes[i] = read(number)
		}
		slices.SortFunc(routes, func(a, b route.HTTPRoute) int { return byName(a.Name, b.Name) })
		w := &World{Revision: int64(step + 1), Mesh: Mesh{TrustDomain: "t", PolicyRevision: fmt.Sprintf("%064d", 0)}, Edge: route.Objects{Routes: routes}}
		got, err := cutter.Of(w, "n")
		if err != nil {
			t.Fatal(err)
		}
		want, _ := Of(w, "n")
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d: cut anew otherwise", step)
		}
		f := Diff("e", int64(step), w.Revision, was, got)
		if step > 0 && len(f.Put)+len(f.Removed) > 1 {
			t.Fatalf("step %d: %d resources travel, and %d go", step, len(f.Put), len(f.Removed))
		}
		if held, err = f.Apply(was, int64(step)); err != nil {
			t.Fatal(err)
		}
		node, err := decoder.Decode("n", "e", w.Revision, held)
		if err != nil {
			t.Fatal(err)
		}
		anew, err := Decode("n", "e", w.Revision, want)
		if err != nil || !reflect.DeepEqual(node, anew) {
			t.Fatalf("step %d: read anew otherwise: %v", step, err)
		}
		if len(decoder.routes) != len(routes) {
			t.Fatalf("step %d: %d routes are kept of %d", step, len(decoder.routes), len(routes))
		}
	}
}
