package entry

import "slices"

// OfGateway reports whether nothing but serving the Gateway of its service account earns an entry: services believe a
// Gateway about the addresses of its callers (gateway.md 4.2).
func (e Entry) OfGateway() bool {
	want := []string{"gateway:" + e.Namespace + "/" + e.ServiceAccount}
	return len(e.Sets) > 0 && !slices.ContainsFunc(e.Sets, func(set []string) bool { return !slices.Equal(set, want) })
}
