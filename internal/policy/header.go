package policy

import "slices"

// ReadsHeader reports whether a condition on a header field may decide a request: then the
// fields have to be kept as long as the request may be decided anew.
func (b *Bound) ReadsHeader() bool { return readsHeader(b.deny) || readsHeader(b.allow) }

func readsHeader(list []residue) bool {
	for i := range list {
		if list[i].rest == nil {
			continue
		}
		for j := range list[i].rest.when {
			if list[i].rest.when[j].header != "" {
				return true
			}
		}
	}
	return false
}

// ReadsPath reports whether the path of a request may decide it.
func (b *Bound) ReadsPath() bool { return readsPath(b.deny) || readsPath(b.allow) }

func readsPath(list []residue) bool {
	for i := range list {
		if o := list[i].op; o != nil && len(o.paths.any)+len(o.notPaths.any) > 0 {
			return true
		}
		if list[i].rest != nil && slices.ContainsFunc(list[i].rest.when, func(c condition) bool { return c.of == ofTarget }) {
			return true
		}
	}
	return false
}
