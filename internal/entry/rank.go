package entry

import (
	"slices"
	"strings"
)

// ranks orders the kinds of selectors by how much they say: 5 names one program image, 1 a
// crowd. A kind that is not listed has rank 1.
var ranks = []struct {
	prefix string
	rank   int
}{
	{"unix:sha256:", 5},
	{"docker:image_config_digest:", 5},
	{"k8s:image-digest:", 5},
	{"run:", 4},
	{"unix:path:", 4},
	{"k8s:pod-uid:", 4},
	{"docker:container_id:", 4},
	{"systemd:id:", 3},
	{"k8s:sa:", 3},
	{"k8s:container-name:", 3},
	{"k8s:pod-label:", 3},
	{"docker:label:", 3},
	{"oidc:", 3},
	{"unix:uid:", 2},
	{"unix:user:", 2},
	{"k8s:ns:", 2},
	{"systemd:user-id:", 2},
}

const topRank = 5

func rankOf(selector string) int {
	for _, r := range ranks {
		if strings.HasPrefix(selector, r.prefix) {
			return r.rank
		}
	}
	return 1
}

// specificity counts the selectors of a set by rank, the highest rank first.
type specificity [topRank]uint16

func specificityOf(set []string) specificity {
	var s specificity
	for _, selector := range set {
		s[topRank-rankOf(selector)]++
	}
	return s
}

// compare is positive if s is the more specific one.
func (s specificity) compare(other specificity) int {
	return slices.Compare(s[:], other[:])
}
