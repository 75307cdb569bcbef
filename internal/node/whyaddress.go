package node

import (
	"fmt"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
)

// explainAddress is what kept a caller out by the address that he has: a list of a Gateway or a route, which the record
// names in place of a policy. false: it was none.
func explainAddress(w *admin.Why, rec *audit.Record) bool {
	kind, name, _ := strings.Cut(rec.Policy, "/")
	namespace, name, whole := strings.Cut(name, "/")
	if !whole {
		return false
	}
	address := rec.SrcIP.String()
	for part := range strings.SplitSeq(rec.Detail, "; ") {
		if said, ok := strings.CutPrefix(part, "client "); ok {
			address = said
		}
	}
	w.Rule = nil
	w.Lines = []string{fmt.Sprintf("%s is kept out by countersign.dev/ip-deny or ip-allow of %s", address, rec.Policy)}
	w.Hint = fmt.Sprintf("countersign get %s %s -n %s -o yaml", strings.ToLower(kind), name, namespace)
	return true
}
