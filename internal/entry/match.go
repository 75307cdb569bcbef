package entry

import (
	"cmp"
	"slices"
	"time"
)

// Grant is an identity a process earned: the entry, and the set that earned it.
type Grant struct {
	Entry *Entry
	Set   []string // of several that were met, the most specific
}

// maxIdentities bounds what one process may be granted, so what a stream must carry.
const maxIdentities = 64

// Match returns what a process with these selectors earns on a node with those, the default
// identity first. Entries come from one snapshot; for more than one look-up take an Index.
func Match(entries []Entry, found, node []string, now time.Time) []Grant {
	found = sorted(found)
	node = sorted(node)
	var met []hit
	for i := range entries {
		for _, set := range entries[i].Sets {
			if within(set, found) {
				met = append(met, hit{entry: i, set: set, specificity: specificityOf(set)})
			}
		}
	}
	return grants(entries, met, node, now)
}

// Admits reports whether e counts on a node with these selectors. A server cannot check a
// node's word about its processes, so an entry is worth what its nodes are.
func Admits(e Entry, node []string) bool {
	return admits(&e, sorted(node))
}

func admits(e *Entry, node []string) bool {
	if e.AnyNode {
		return true
	}
	return slices.ContainsFunc(e.Nodes, func(set []string) bool { return within(set, node) })
}

// expired reports whether e has ended at now.
func expired(e *Entry, now time.Time) bool {
	return !e.Expires.IsZero() && !now.Before(e.Expires)
}

// within reports whether every selector of set is one of found, which is sorted. Equal bytes
// alone match; an empty set is met by nobody.
func within(set, found []string) bool {
	for _, selector := range set {
		if _, ok := slices.BinarySearch(found, selector); !ok {
			return false
		}
	}
	return len(set) > 0
}

func sorted(selectors []string) []string {
	if slices.IsSorted(selectors) {
		return selectors
	}
	selectors = slices.Clone(selectors)
	slices.Sort(selectors)
	return selectors
}

// hit is a set that was met.
type hit struct {
	entry       int // index into the entries
	set         []string
	specificity specificity
}

// grants turns the sets that were met into identities, in their order.
func grants(entries []Entry, met []hit, node []string, now time.Time) []Grant {
	met = slices.DeleteFunc(met, func(h hit) bool {
		e := &entries[h.entry]
		return expired(e, now) || !admits(e, node)
	})
	met = bestSets(met)
	regular := func(h hit) bool { return !entries[h.entry].Fallback }
	if slices.ContainsFunc(met, regular) { // a fallback counts only if nothing else matched
		met = slices.DeleteFunc(met, func(h hit) bool { return !regular(h) })
	}
	sortHits(entries, met)
	out := make([]Grant, 0, len(met))
	ids := make(map[[2]string]bool)
	for _, h := range met {
		e := &entries[h.entry]
		if ids[[2]string{e.Namespace, e.ServiceAccount}] = true; len(ids) > maxIdentities {
			break
		}
		out = append(out, Grant{Entry: e, Set: h.set})
	}
	return out
}

// bestSets keeps one hit per entry: its most specific set, of equals the first by spelling.
func bestSets(met []hit) []hit {
	slices.SortFunc(met, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.entry, b.entry), b.specificity.compare(a.specificity), slices.Compare(a.set, b.set))
	})
	return slices.CompactFunc(met, func(a, b hit) bool { return a.entry == b.entry })
}

// sortHits puts the default identity first: by specificity, then older creation, then name.
// The entries of one namespace stand together at the place of its best one, and only among
// them does "default" count, so an editor of one namespace cannot step before another's.
func sortHits(entries []Entry, met []hit) {
	slices.SortFunc(met, func(a, b hit) int { return compareHits(entries, a, b) })
	place := make(map[string]int)
	for i, h := range met {
		ns := entries[h.entry].Namespace
		if _, ok := place[ns]; !ok {
			place[ns] = i
		}
	}
	slices.SortStableFunc(met, func(a, b hit) int {
		ea, eb := &entries[a.entry], &entries[b.entry]
		return cmp.Or(
			cmp.Compare(place[ea.Namespace], place[eb.Namespace]),
			compareBool(eb.Default, ea.Default),
		)
	})
}

func compareHits(entries []Entry, a, b hit) int {
	ea, eb := &entries[a.entry], &entries[b.entry]
	return cmp.Or(
		b.specificity.compare(a.specificity),
		cmp.Compare(ea.Created, eb.Created),
		cmp.Compare(ea.Namespace, eb.Namespace),
		cmp.Compare(ea.Name, eb.Name),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
