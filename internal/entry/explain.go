package entry

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Why an entry is not granted, spelled as in logs and records.
const (
	NoEntry         = "no_entry"          // selectors are missing
	NodeNotAdmitted = "node_not_admitted" // the process matches, the node is not the entry's
	EntryExpired    = "entry_expired"     // the process matches, the entry has ended
)

// Near is an entry that a process did not earn, and what is missing.
type Near struct {
	Entry          *Entry
	Set            []string // the set that comes nearest
	Found, Missing []string // the parts of Set
	Reason         string
}

// maxNear is how many are shown: more would be a list of all entries.
const maxNear = 3

// Explain returns the entries that a process came nearest to without earning them: fewest
// missing selectors first, then the more specific set. It tells names of other entries, so it
// is for operators, not for the process itself.
func Explain(entries []Entry, found, node []string, now time.Time) []Near {
	found, node = sorted(found), sorted(node)
	var all []Near
	for i := range entries {
		e := &entries[i]
		near, ok := nearestSet(e, found)
		if !ok {
			continue
		}
		switch {
		case len(near.Missing) > 0:
			near.Reason = NoEntry
		case expired(e, now):
			near.Reason = EntryExpired
		case !admits(e, node):
			near.Reason = NodeNotAdmitted
		default:
			continue // granted, or a fallback that stepped back
		}
		all = append(all, near)
	}
	slices.SortFunc(all, func(a, b Near) int {
		return cmp.Or(
			compareNear(a, b),
			cmp.Compare(a.Entry.Namespace, b.Entry.Namespace),
			cmp.Compare(a.Entry.Name, b.Entry.Name),
		)
	})
	return all[:min(maxNear, len(all))]
}

func nearestSet(e *Entry, found []string) (Near, bool) {
	var best Near
	for _, set := range e.Sets {
		if len(set) == 0 {
			continue
		}
		near := Near{Entry: e, Set: set}
		for _, selector := range set {
			if _, ok := slices.BinarySearch(found, selector); ok {
				near.Found = append(near.Found, selector)
			} else {
				near.Missing = append(near.Missing, selector)
			}
		}
		if best.Entry == nil || compareNear(near, best) < 0 {
			best = near
		}
	}
	return best, best.Entry != nil
}

func compareNear(a, b Near) int {
	return cmp.Or(
		cmp.Compare(len(a.Missing), len(b.Missing)),
		specificityOf(b.Set).compare(specificityOf(a.Set)),
		cmp.Compare(len(b.Found), len(a.Found)),
	)
}

// SameKind returns those of found that speak of the same thing as missing: for a path that is
// not the process's, the path it has.
func SameKind(found []string, missing string) []string {
	kind := kindOf(missing)
	var same []string
	for _, selector := range found {
		if kindOf(selector) == kind {
			same = append(same, selector)
		}
	}
	return same
}

// kindOf is the part of a selector before its value: "unix:path" of "unix:path:/bin/a", "run" of
// "run:shop/api". Types with one kind only have one colon.
func kindOf(selector string) string {
	kind, rest, _ := strings.Cut(selector, ":")
	if kind == "run" {
		return kind
	}
	sub, _, found := strings.Cut(rest, ":")
	if !found {
		return kind
	}
	return kind + ":" + sub
}
