package route

import "unsafe"

// Has reports that a route, ns/name, is attached to some listener.
func (t *Table) Has(name string) bool {
	_, has := t.names[name]
	return has
}

// Size is how many routes are attached, and about how many bytes the table takes for them.
func (t *Table) Size() (routes, bytes int) {
	const entry = 64 // of a map, with a pointer and a string for its key
	actions := map[*Action]bool{}
	seen := map[*match]bool{}
	for _, r := range t.routers {
		bytes += int(unsafe.Sizeof(*r))
		for _, h := range r.order {
			bytes += int(unsafe.Sizeof(*h)) + entry + len(h.name)
			for _, m := range h.sorted() {
				bytes += entry // its place in a list or the tree
				if seen[m] {
					continue
				}
				seen[m] = true
				bytes += int(unsafe.Sizeof(*m)) + len(m.path) + (len(m.headers)+len(m.query))*int(unsafe.Sizeof(condition{}))
				if !actions[m.Action] {
					actions[m.Action] = true
					bytes += int(unsafe.Sizeof(*m.Action)) + len(m.Text) + len(m.backends)*int(unsafe.Sizeof(Effects{}))
				}
			}
		}
	}
	return len(t.names), bytes + entry*len(t.names)
}
