package node

import (
	"strings"

	"countersign.dev/internal/audit"
)

// explainLimit says which rule of a RateLimit was full: its numbers, what it counts by, and the wait. Whose bucket it
// was stands in no record.
func explainLimit(rec *audit.Record) (lines []string, hint string) {
	for text := range strings.SplitSeq(rec.Detail, "; ") {
		if strings.HasPrefix(text, "RateLimit/") {
			lines = append([]string{text}, lines...)
			continue
		}
		lines = append(lines, text)
	}
	namespace, name, _ := strings.Cut(rec.Policy, "/")
	return lines, "countersign get ratelimit " + name + " -n " + namespace + " -o yaml"
}
