package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A table that is made of the one before decides as one that is made anew, whatever was added, changed and removed.
func TestCompilerAgain(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pick := func(of ...string) string { return of[rng.IntN(len(of))] }
		read := func(i int) HTTPRoute {
			r := routeOf(fmt.Sprint("r", i))
			m := prefix(pick("/", "/a", "/a/b", "/c"))
			switch rng.IntN(6) {
			case 0:
				m = regex(pick("/a.*", "/[a-c]/b", "("))
			case 1:
				m.PathType = Exact
			case 2:
				m = m.h("X=1")
			}
			r.Rules = []Rule{ruleNamed(fmt.Sprint("v", rng.IntN(1000)), m)}
			r.Created = time.Unix(1e9+int64(i%5), 0)
			return *r
		}
		var c Compiler
		var routes []HTTPRoute
		next := 0
		for range 60 {
			switch n := len(routes); {
			case n < 3 || rng.IntN(3) == 0:
				routes = append(routes, read(next))
				next++
			case rng.IntN(2) == 0:
				i := rng.IntN(n)
				var number int
				fmt.Sscanf(routes[i].Name.Name, "r%d", &number)
				routes[i] = read(number)
			default:
				i := rng.IntN(n)
				routes = slices.Delete(slices.Clone(routes), i, i+1)
			}
			routes = slices.Clone(routes) // as each snapshot has values of its own
			var effective []Effective
			for _, r := range oldestFirst(routes) {
				effective = append(effective, Effective{r, []string{[]string{"", "x.test", "*.test"}[len(r.Rules[0].Name)%3]}})
			}
			listeners := []Attached{{Listener: "a", Port: 80, Routes: effective}, {Listener: "b", Port: 81, Routes: effective}}
			again, faults := c.Compile(listeners)
			anew, want := Compile(listeners)
			if !slices.Equal(faults, want) {
				t.Fatalf("seed %d: faults %v, want %v", seed, faults, want)
			}
			for _, port := range []uint16{80, 81} {
				for _, host := range []string{"x.test", "y.test", "other"} {
					for _, path := range []string{"/", "/a", "/a/b", "/a/b/c", "/c", "/d"} {
						got, want := taker(again.Port(Name{}, port), host, asked(path)), taker(anew.Port(Name{}, port), host, asked(path))
						if got != want {
							t.Fatalf("seed %d, %s%s on %d: taken by %q, want %q", seed, host, path, port, got, want)
						}
					}
				}
			}
		}
	}
}

// What did not change is not compiled anew, also where routes come between others and go.
func TestCompilerKeeps(t *testing.T) {
	var routes []HTTPRoute
	for i := range 100 {
		r := routeOf(fmt.Sprint("r", i), ruleNamed("x", prefix(fmt.Sprint("/p", i))))
		r.Created = time.Unix(1e9+int64(10*i), 0)
		routes = append(routes, *r)
	}
	on := func(routes []HTTPRoute) []Attached {
		var out []Effective
		for _, r := range oldestFirst(routes) {
			out = append(out, Effective{r, []string{""}})
		}
		return []Attached{{Port: 80, Routes: out}}
	}
	var c Compiler
	c.Compile(on(routes))
	first := c.routes[&routes[50].Rules[0]]
	between := routeOf("between", ruleNamed("x", prefix("/between")))
	between.Created = time.Unix(1e9+5, 0)
	for what, next := range map[string][]HTTPRoute{
		"one goes":          slices.Delete(slices.Clone(routes), 3, 4),
		"one comes between": append(slices.Clone(routes), *between),
	} {
		c.Compile(on(next))
		if c.routes[&routes[50].Rules[0]] != first {
			t.Errorf("%s: another was compiled anew", what)
		}
	}
}
