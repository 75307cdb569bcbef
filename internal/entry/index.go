package entry

import "time"

// Index finds the entries of a process without looking at all entries: a look-up walks the
// process's selectors only. It never changes and is safe for concurrent use.
type Index struct {
	entries []Entry
	sets    map[string][]hit // by the rarest selector of each set
}

// NewIndex compiles entries, which must not be changed afterwards.
func NewIndex(entries []Entry) *Index {
	uses := make(map[string]int)
	for i := range entries {
		for _, set := range entries[i].Sets {
			for _, selector := range set {
				uses[selector]++
			}
		}
	}
	ix := &Index{entries: entries, sets: make(map[string][]hit)}
	for i := range entries {
		for _, set := range entries[i].Sets {
			if len(set) == 0 {
				continue // met by nobody
			}
			rarest := set[0]
			for _, selector := range set[1:] {
				if uses[selector] < uses[rarest] {
					rarest = selector
				}
			}
			ix.sets[rarest] = append(ix.sets[rarest], hit{entry: i, set: set, specificity: specificityOf(set)})
		}
	}
	return ix
}

// Match is the function Match over the entries of the index.
func (ix *Index) Match(found, node []string, now time.Time) []Grant {
	found = sorted(found)
	var met []hit
	for i, selector := range found {
		if i > 0 && selector == found[i-1] {
			continue
		}
		for _, h := range ix.sets[selector] {
			if within(h.set, found) {
				met = append(met, h)
			}
		}
	}
	return grants(ix.entries, met, sorted(node), now)
}

// Explain is the function Explain over the entries of the index.
func (ix *Index) Explain(found, node []string, now time.Time) []Near {
	return Explain(ix.entries, found, node, now)
}
