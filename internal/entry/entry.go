// Package entry holds registration entries: which selectors earn which SPIFFE ID.
//
// Its words: a selector is "type:value", a fact the kernel told about a process; a set is
// selectors that must all be found; an entry has one or more alternative sets; a grant is
// an entry that a process earned. Its promise: pure, no wildcards, equal bytes alone match.
package entry

import "time"

// Entry is one applied Workload, validated by package resource.
type Entry struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	ServiceAccount string            `json:"serviceAccount"`     // never empty: Name unless said
	Labels         map[string]string `json:"labels"`             // server-side facts; always holds "app"
	Sets           [][]string        `json:"sets"`               // selectors first, then anyOf; each sorted
	Nodes          [][]string        `json:"nodes,omitempty"`    // sets of node selectors; one must be met
	AnyNode        bool              `json:"anyNode,omitempty"`  // nodes: any
	Services       []string          `json:"services,omitempty"` // names it may serve besides its own (registry R2)
	TTL            time.Duration     `json:"ttl,omitempty"`      // zero: the setting svidTTL
	Hint           string            `json:"hint,omitempty"`
	Default        bool              `json:"default,omitempty"`
	Fallback       bool              `json:"fallback,omitempty"`
	DNSNames       []string          `json:"dnsNames,omitempty"`
	Expires        time.Time         `json:"expires,omitzero"`
	Created        int64             `json:"created"`  // revision that made it: older first among equals
	Revision       int64             `json:"revision"` // revision of its last change
}
