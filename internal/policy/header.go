package policy

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
