package resource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// Served is what a server adds to an object as it is stored (cli.md 10.6). What is zero is left out.
type Served struct {
	Created    time.Time
	Version    string // resourceVersion
	Generation int64
	Status     []byte // JSON
}

// JSONWith is Served.JSON of an object that has no status.
func JSONWith(o Object, created time.Time, resourceVersion string) ([]byte, error) {
	return Served{Created: created, Version: resourceVersion}.JSON(o)
}

// YAML is Served.YAML of an object that has no status.
func YAML(o Object, created time.Time, resourceVersion string) ([]byte, error) {
	return Served{Created: created, Version: resourceVersion}.YAML(o)
}

// JSON is an object as get -o json shows it.
func (s Served) JSON(o Object) ([]byte, error) {
	v, err := s.shown(o)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := writeJSON(&b, v, false); err != nil {
		return nil, fmt.Errorf("printing %s: %w", o.ID(), err)
	}
	return b.Bytes(), nil
}

// YAML is an object as get -o yaml shows it; apply takes it back unchanged.
func (s Served) YAML(o Object) ([]byte, error) {
	v, err := s.shown(o)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := enc.Encode(node(v)); err != nil {
		return nil, fmt.Errorf("printing %s: %w", o.ID(), err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("printing %s: %w", o.ID(), err)
	}
	return b.Bytes(), nil
}

func (s Served) shown(o Object) (any, error) {
	v, err := parseOrdered(o.JSON)
	if err != nil {
		return nil, fmt.Errorf("printing %s: %w", o.ID(), err)
	}
	top, _ := v.(ordered)
	for i, p := range top {
		meta, ok := p.value.(ordered)
		if p.key != "metadata" || !ok {
			continue
		}
		if !s.Created.IsZero() {
			meta = append(meta, pair{"creationTimestamp", s.Created.UTC().Format(time.RFC3339)})
		}
		if s.Generation != 0 {
			meta = append(meta, pair{"generation", json.Number(strconv.FormatInt(s.Generation, 10))})
		}
		if s.Version != "" {
			meta = append(meta, pair{"resourceVersion", s.Version})
		}
		top[i].value = meta
	}
	if len(s.Status) == 0 {
		return v, nil
	}
	status, err := parseOrdered(s.Status)
	if err != nil {
		return nil, fmt.Errorf("printing the status of %s: %w", o.ID(), err)
	}
	return append(top, pair{"status", status}), nil
}

// node makes a YAML node in block style, lists of a few words in a line of their own.
func node(v any) *yaml.Node {
	switch v := v.(type) {
	case ordered:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, p := range v {
			n.Content = append(n.Content, node(p.key), node(p.value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			n.Content = append(n.Content, node(item))
		}
		if width(v) <= 72 {
			n.Style = yaml.FlowStyle
			inQuotes(n)
		}
		return n
	case string:
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}
		if !plain(v) {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)}
}

// width is the length of a list of texts, or of lists of texts; of any other it is too much.
func width(items []any) int {
	total := 0
	for _, item := range items {
		switch item := item.(type) {
		case string:
			total += len(item) + 4
		case []any:
			total += width(item) + 4
		default:
			return 1 << 20
		}
	}
	return total
}

func inQuotes(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		inQuotes(c)
	}
}

var plainText = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]*$`)

// plain reports whether a text stays text without quotes, in YAML 1.1 as in 1.2.
func plain(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf":
		return false
	}
	return plainText.MatchString(s)
}

// Columns are the heads of Row, between NAME and AGE of a table of get.
func Columns(kind string) []string {
	switch kind {
	case "AuthorizationPolicy":
		return []string{"ACTION", "SELECTS", "SAYS"}
	case "PeerAuthentication":
		return []string{"MODE", "SELECTS"}
	case "RequestAuthentication":
		return []string{"ISSUERS", "SELECTS"}
	case "Workload":
		return []string{"IDENTITY", "SELECTORS"}
	case "OAuthClient", "OAuthResource", "TrustedIssuer", "DelegationPolicy", "RateLimit":
		return []string{"READY"}
	case "APIKey":
		return []string{"READY"}
	case "GatewayClass":
		return []string{"CONTROLLER", "READY"}
	case "Gateway":
		return []string{"CLASS", "LISTENERS", "READY"}
	case "HTTPRoute":
		return []string{"HOSTS", "PARENTS", "READY"}
	case "Secret":
		return []string{"TYPE"}
	}
	return nil
}

// Row is one object under Columns; empty if it cannot be read. READY is left empty: it depends
// on more than the object, and the server fills it.
func Row(o Object, rootNamespace, trustDomain string) []string {
	switch o.Kind {
	case "AuthorizationPolicy":
		if p, err := Policy(o); err == nil {
			return []string{string(p.Action), selects(o, p.Selector, p.Gateways, rootNamespace), policy.SayIn(p, trustDomain)}
		}
	case "PeerAuthentication":
		if p, err := PeerAuthentication(o, 0); err == nil {
			return []string{modes(p), selects(o, p.Selector, nil, rootNamespace)}
		}
	case "RequestAuthentication":
		if r, err := RequestAuthentication(o, 0); err == nil {
			return []string{issuers(r), selects(o, r.Selector, r.Gateways, rootNamespace)}
		}
	case "GatewayClass":
		if c, err := GatewayClass(o, time.Time{}, 0); err == nil {
			return []string{c.Controller, ""}
		}
	case "Gateway":
		if g, err := Gateway(o, time.Time{}, 0); err == nil {
			return []string{g.Class, listeners(g), ""}
		}
	case "HTTPRoute":
		if r, err := HTTPRoute(o, time.Time{}, 0); err == nil {
			return []string{cmp.Or(strings.Join(r.Hostnames, ","), "any"), parents(r), ""}
		}
	case "Secret":
		return []string{tlsType}
	case "Workload":
		if e, err := Entry(o, 0, 0); err == nil {
			return []string{"spiffe://" + trustDomain + "/ns/" + e.Namespace + "/sa/" + e.ServiceAccount, sets(e.Sets)}
		}
	}
	return make([]string, len(Columns(o.Kind)))
}

func listeners(g route.Gateway) string {
	var out []string
	for _, l := range g.Listeners {
		out = append(out, fmt.Sprintf("%s %s:%d", l.Protocol, cmp.Or(l.Hostname, "any"), l.Port))
	}
	return strings.Join(out, ", ")
}

func parents(r route.HTTPRoute) string {
	var out []string
	for _, p := range r.Parents {
		name := p.Name.String()
		if p.Section != "" {
			name += "#" + p.Section
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

func selects(o Object, labels map[string]string, gateways []string, rootNamespace string) string {
	var out []string
	for _, name := range gateways {
		out = append(out, "Gateway/"+name)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, key+"="+labels[key])
	}
	switch {
	case len(out) > 0:
		return strings.Join(out, ",")
	case o.Namespace == rootNamespace:
		return "all"
	}
	return "its namespace"
}

func issuers(r policy.RequestAuthentication) string {
	var out []string
	for _, rule := range r.Rules {
		name := cmp.Or(rule.Issuer, "any")
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return cmp.Or(strings.Join(out, ","), "none")
}

func modes(p policy.PeerAuthentication) string {
	name := func(m policy.Mode) string {
		if m == policy.Unset {
			return "UNSET"
		}
		return string(m)
	}
	out := name(p.Mode)
	for _, port := range slices.Sorted(maps.Keys(p.Ports)) {
		out += ", " + strconv.Itoa(int(port)) + " " + name(p.Ports[port])
	}
	return out
}

func sets(sets [][]string) string {
	var out []string
	for _, set := range sets {
		out = append(out, strings.Join(set, ","))
	}
	return strings.Join(out, " or ")
}
