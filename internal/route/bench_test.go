package route

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sized is n routes on hosts of 50 routes, eight candidates at the leaf that is asked for, and a request that takes
// the last of them in the middle of the table.
func sized(n int) (routes []Effective, host string, q *Request) {
	for i := range n {
		host := fmt.Sprintf("h%d.shop.test", i/50)
		path := fmt.Sprintf("/api/v1/service%d", i)
		r := routeOf(fmt.Sprint("r", i))
		var matches []Match
		for j := range 7 {
			matches = append(matches, prefix(path).by("GET").h(fmt.Sprintf("X-Tier=%d", j)))
		}
		r.Rules = []Rule{ruleNamed("tiers", matches...), ruleNamed("rest", prefix(path).by("GET"))}
		r.Created = time.Unix(int64(1e9+i), 0)
		routes = append(routes, on(r, host))
	}
	i := n / 2
	q = &Request{Method: "GET", Path: fmt.Sprintf("/api/v1/service%d/items/7", i), Query: "page=2", Header: http.Header{"X-Tier": {"none"}, "Accept": {"*/*"}}}
	return routes, fmt.Sprintf("h%d.shop.test", i/50), q
}

// flat is n routes of one hostname.
func flat(n int) (routes []Effective, host string, q *Request) {
	routes, _, q = sized(n)
	for i := range routes {
		routes[i].Hostnames = []string{"*.shop.test"}
	}
	return routes, "a.shop.test", q
}

// A look-up never allocates, whatever it finds.
func TestLookupDoesNotAllocate(t *testing.T) {
	routes, host, q := sized(100)
	extra := routeOf("extra", ruleNamed("query", prefix("/q").q("k=v w")), ruleNamed("lines", prefix("/l").h("A=1, 2")), ruleNamed("regex", regex("/r[0-9]+")))
	table, _ := Compile([]Attached{{Port: 80, Routes: append(routes, on(extra, ""))}})
	p := table.Port(Name{}, 80)
	for _, c := range []struct {
		name, host string
		q          *Request
		want       string
	}{
		{"prefix", host, q, "rest"},
		{"wider hostname", host, asked("/q?k=v+w"), "query"},
		{"query", "y.test", asked("/q?a=b&k=v%20w"), "query"},
		{"lines", "y.test", asked("/l", "A=1", "A=2"), "lines"},
		{"regex", "y.test", asked("/r12"), "regex"},
		{"escape", "y.test", asked("/q/%C3%A9?k=v+w"), "query"},
		{"nothing", "y.test", asked("/nothing"), ""},
	} {
		if got := taker(p, c.host, c.q); got != c.want {
			t.Errorf("%s: taken by %q, want %q", c.name, got, c.want)
		}
		if n := testing.AllocsPerRun(100, func() { p.Router(c.host).Lookup(c.host, c.q) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// measure runs one step over and over and reports its CPU time, which other users of the machine do not change much.
func measure(b *testing.B, step func()) {
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkLookup(b *testing.B) {
	for name, make := range map[string]func(int) ([]Effective, string, *Request){"hosts": sized, "one host": flat} {
		for _, n := range []int{10, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				routes, host, q := make(n)
				table, _ := Compile([]Attached{{Port: 80, Routes: routes}})
				p := table.Port(Name{}, 80)
				if taker(p, host, q) != "rest" {
					b.Fatal("the request is taken by another rule")
				}
				measure(b, func() { p.Router(host).Lookup(host, q) })
			})
		}
	}
}

// BenchmarkSpread asks for another route every time: what is looked at does not fit the caches.
func BenchmarkSpread(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			routes, _, q := sized(n)
			table, _ := Compile([]Attached{{Port: 80, Routes: routes}})
			p := table.Port(Name{}, 80)
			hosts, path := make([]string, (n+49)/50), []byte("/api/v1/service")
			for i := range hosts {
				hosts[i] = fmt.Sprintf("h%d.shop.test", i)
			}
			paths := strings.Builder{}
			ends := make([]int32, n+1)
			for i := range n {
				fmt.Fprintf(&paths, "%s%d/items/7", path, i)
				ends[i+1] = int32(paths.Len())
			}
			i := 0
			measure(b, func() {
				q.Path = paths.String()[ends[i]:ends[i+1]]
				host := hosts[i/50]
				p.Router(host).Lookup(host, q)
				i = (i + 1237) % n
			})
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			routes, _, _ := sized(n)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			table, _ := Compile([]Attached{{Port: 80, Routes: routes}})
			runtime.GC()
			runtime.ReadMemStats(&after)
			measure(b, func() { Compile([]Attached{{Port: 80, Routes: routes}}) })
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc), "table_bytes")
			runtime.KeepAlive(table)
		})
	}
}
