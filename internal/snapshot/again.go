package snapshot

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"countersign.dev/internal/route"
)

// Cutter gives the resources of one node, revision after revision. The zero Cutter is ready; it is for one goroutine.
type Cutter struct {
	world     *World
	resources Resources
}

// Of is Of. What did not change since the call before is not written anew.
func (c *Cutter) Of(w *World, node string) (Resources, error) {
	r, err := since(w, node, c.world, c.resources)
	if err == nil {
		c.world, c.resources = w, r
	}
	return r, err
}

// keepRoutes tells of a route, asked for in their order, whether it is the very one of before, and then takes what that
// was written as.
func keepRoutes(before *World, had, now Resources) func(string, *route.HTTPRoute) bool {
	if before == nil {
		return func(string, *route.HTTPRoute) bool { return false }
	}
	rest := before.Edge.Routes
	return func(name string, r *route.HTTPRoute) bool {
		for len(rest) > 0 && byName(rest[0].Name, r.Name) < 0 {
			rest = rest[1:]
		}
		if len(rest) == 0 || !rest[0].Is(r) {
			return false
		}
		b, ok := had[name]
		if ok {
			now[name] = b
		}
		return ok
	}
}

// byName is the order of World.
func byName(a, b route.Name) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Decoder reads resources, revision after revision. The zero Decoder is ready; it is for one goroutine. What it gives is
// shared by the nodes that it gave, and never changed.
type Decoder struct {
	keys   []string // of the last time, sorted
	routes map[string]readRoute
}

// readRoute is a route and the bytes it was read from.
type readRoute struct {
	bytes []byte
	value route.HTTPRoute
}

// order is the keys of r, sorted.
func (d *Decoder) order(r Resources) []string {
	keys := make([]string, 0, len(r))
	for _, key := range d.keys {
		if _, ok := r[key]; ok {
			keys = append(keys, key)
		}
	}
	if len(keys) != len(r) {
		keys = slices.AppendSeq(keys[:0], maps.Keys(r))
		slices.Sort(keys)
	}
	for key := range d.routes {
		if _, ok := r[key]; !ok {
			delete(d.routes, key)
		}
	}
	d.keys = keys
	return keys
}

func (d *Decoder) take(n *Node, key string, b []byte) error {
	if !strings.HasPrefix(key, "httproute/") || len(b) == 0 {
		return n.take(key, b)
	}
	if had, ok := d.routes[key]; ok && len(had.bytes) == len(b) && &had.bytes[0] == &b[0] { // nobody changes bytes of Resources
		n.Edge.Routes = append(n.Edge.Routes, had.value)
		return nil
	}
	var r route.HTTPRoute
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	if d.routes == nil {
		d.routes = map[string]readRoute{}
	}
	compact(&r)
	d.routes[key] = readRoute{b, r}
	n.Edge.Routes = append(n.Edge.Routes, r)
	return nil
}

// compact gives back the room that encoding/json leaves in every list: of a route that is more than itself.
func compact(r *route.HTTPRoute) {
	r.Parents, r.Hostnames, r.Rules = slices.Clone(r.Parents), slices.Clone(r.Hostnames), slices.Clone(r.Rules)
	for i := range r.Rules {
		rule := &r.Rules[i]
		rule.Matches, rule.Filters, rule.Backends = slices.Clone(rule.Matches), slices.Clone(rule.Filters), slices.Clone(rule.Backends)
		for j := range rule.Matches {
			m := &rule.Matches[j]
			m.Headers, m.Query = slices.Clone(m.Headers), slices.Clone(m.Query)
		}
		for _, f := range rule.Filters {
			for _, h := range []*route.HeaderFilter{f.RequestHeaders, f.ResponseHeaders} {
				if h != nil {
					h.Set, h.Add, h.Remove = slices.Clone(h.Set), slices.Clone(h.Add), slices.Clone(h.Remove)
				}
			}
		}
	}
}
