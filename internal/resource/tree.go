package resource

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// tree checks the node tree of a document before anything is expanded, and later that the
// JSON made of it has lost nothing.
type tree struct {
	line     int // lines of the file before the document
	aliases  int
	measured map[*yaml.Node]extent // of anchored nodes, so that a bomb costs one step an alias
	open     map[*yaml.Node]bool   // nodes that hold the one being measured
	flaws    []flaw
}

// extent is what a node is worth after alias expansion.
type extent struct{ bytes, height int }

func (t *tree) flaw(n *yaml.Node, code, text, hint string) {
	if len(t.flaws) < maxFaults {
		t.flaws = append(t.flaws, flaw{t.line + n.Line, n.Column, code, text, hint})
	}
}

// check reports what may not be expanded: bombs, cycles, depth; and keys that stand twice,
// keys that are no text, tags, numbers JSON does not have.
func (t *tree) check(root *yaml.Node) {
	e := t.measure(root)
	switch {
	case len(t.flaws) > 0:
	case t.aliases > 0 && e.bytes > MaxDocument:
		t.flaw(root, "E102", "more than 1 MiB after its aliases are expanded", "write out what the aliases stand for, in several documents")
	case e.height > maxNesting:
		t.flaw(deep(root), "E102", fmt.Sprintf("nested more than %d deep", maxNesting), "")
	}
}

func (t *tree) measure(n *yaml.Node) extent {
	if e, ok := t.measured[n]; ok {
		return e
	}
	if n.Kind == yaml.AliasNode {
		t.aliases++
		if n.Alias == nil || t.open[n.Alias] {
			t.flaw(n, "E102", fmt.Sprintf("alias %s stands within what it stands for", quote("*"+n.Value)), "")
			return extent{}
		}
		return t.measure(n.Alias)
	}
	t.tag(n)
	t.open[n] = true
	e := extent{bytes: len(n.Value) + 1}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			t.key(n, i)
		}
		c := t.measure(child)
		e.bytes = min(e.bytes+c.bytes, MaxDocument+1)
		e.height = max(e.height, c.height+1)
	}
	delete(t.open, n)
	if n.Anchor != "" {
		t.measured[n] = e
	}
	if n.Kind == yaml.MappingNode {
		t.duplicates(n)
	}
	return e
}

// tag refuses explicit tags that make something else of a value, and numbers that JSON
// cannot say.
func (t *tree) tag(n *yaml.Node) {
	if n.Style&yaml.TaggedStyle != 0 && !slices.Contains([]string{"!!str", "!!int", "!!bool", "!!map", "!!seq", "!!float"}, n.ShortTag()) {
		t.flaw(n, "E101", "tag "+quote(n.Tag)+" is not taken", "leave the tag out")
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!float" {
		if v := strings.ToLower(strings.TrimLeft(n.Value, "+-")); v == ".inf" || v == ".nan" {
			t.flaw(n, "E109", n.Value+" is no value of any field", "quote it")
		} else if f, err := strconv.ParseFloat(n.Value, 64); err != nil && (f > 1e308 || f < -1e308) {
			t.flaw(n, "E109", clip(n.Value)+" is no value of any field", "quote it")
		}
	}
}

// key refuses keys that are not text.
func (t *tree) key(n *yaml.Node, i int) {
	k := resolve(n.Content[i])
	if k == nil || k.Kind != yaml.ScalarNode || k.ShortTag() == "!!null" {
		t.flaw(n.Content[i], "E101", "a key must be text", "")
	}
}

func (t *tree) duplicates(n *yaml.Node) {
	first := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if isMerge(k) {
			continue
		}
		name := keyName(k)
		if f, ok := first[name]; ok {
			t.flaw(k, "E101", fmt.Sprintf("key %s stands twice", quote(name)), fmt.Sprintf("the first is in line %d", t.line+f.Line))
			continue
		}
		first[name] = k
	}
}

// compare counts the keys of every mapping against the JSON: two spellings of one key (8080
// and "8080", yes and true) would otherwise leave one of the values, at random.
func (t *tree) compare(n *yaml.Node, v any) {
	if n = resolve(n); n == nil {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if n.Kind != yaml.MappingNode || pairs(n) != len(v) {
			t.flaw(n, "E101", "a key stands twice, in different spellings", "numbers, yes and no are the same key with and without quotes")
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if child, ok := v[keyName(n.Content[i])]; ok && !isMerge(n.Content[i]) {
				t.compare(n.Content[i+1], child)
			}
		}
	case []any:
		if n.Kind != yaml.SequenceNode || len(n.Content) != len(v) {
			t.flaw(n, "E101", "not read alike by two parsers", "write the list in block form")
			return
		}
		for i, child := range v {
			t.compare(n.Content[i], child)
		}
	}
}

// pairs counts the keys of a mapping with those merged in; a merged key that is there
// already is an error of YAMLToJSONStrict.
func pairs(n *yaml.Node) int {
	count := 0
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			count++
			continue
		}
		for _, m := range merged(n.Content[i+1]) {
			count += pairs(m)
		}
	}
	return count
}

func isMerge(k *yaml.Node) bool {
	return k.Kind == yaml.ScalarNode && k.Value == "<<" && k.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0
}

// merged lists the mappings that a merge key brings in.
func merged(n *yaml.Node) []*yaml.Node {
	n = resolve(n)
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.MappingNode:
		return []*yaml.Node{n}
	}
	var out []*yaml.Node
	for _, c := range n.Content {
		if c = resolve(c); c != nil && c.Kind == yaml.MappingNode {
			out = append(out, c)
		}
	}
	return out
}

func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// keyName is the key as it stands in the JSON.
func keyName(k *yaml.Node) string {
	if k = resolve(k); k == nil {
		return ""
	}
	if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!int" {
		var n int64
		if k.Decode(&n) == nil {
			return strconv.FormatInt(n, 10)
		}
	}
	return k.Value
}

// deep is the first node that lies too deep, as far as aliases do not matter.
func deep(n *yaml.Node) *yaml.Node {
	at := n
	var walk func(n *yaml.Node, depth int) bool
	walk = func(n *yaml.Node, depth int) bool {
		if depth > maxNesting {
			at = n
			return true
		}
		for _, c := range n.Content {
			if walk(c, depth+1) {
				return true
			}
		}
		return false
	}
	walk(n, 0)
	return at
}

// path leads into a document: keys and indexes, the last first. Nil is the document itself.
type path struct {
	up    *path
	key   string
	index int // -1: a key
}

var root *path

func (p *path) field(key string) *path { return &path{p, key, -1} }
func (p *path) item(i int) *path       { return &path{p, "", i} }

// String is the path as faults show it: spec.rules[0].from.
func (p *path) String() string {
	if p == nil {
		return ""
	}
	before := p.up.String()
	switch {
	case p.index >= 0:
		return before + "[" + strconv.Itoa(p.index) + "]"
	case strings.ContainsAny(p.key, `."[]/`+" \n\t") || !printable(p.key):
		return before + "[" + quote(p.key) + "]"
	case before == "":
		return p.key
	}
	return before + "." + p.key
}

// find walks the node tree along a path, through aliases and merges. It gives the value
// and, where the last step is a key, the key; of what is missing, the nearest there is.
func find(n *yaml.Node, p *path) (value, key *yaml.Node) {
	if p == nil {
		return n, nil
	}
	up, upKey := find(n, p.up)
	at := resolve(up)
	if at == nil {
		return up, upKey
	}
	if p.index >= 0 {
		if at.Kind == yaml.SequenceNode && p.index < len(at.Content) {
			return at.Content[p.index], nil
		}
		return up, upKey
	}
	if v, k := lookup(at, p.key); k != nil {
		return v, k
	}
	return up, upKey
}

func lookup(n *yaml.Node, key string) (value, k *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) && keyName(n.Content[i]) == key {
			return n.Content[i+1], n.Content[i]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		for _, m := range merged(n.Content[i+1]) {
			if v, k := lookup(m, key); k != nil {
				return v, k
			}
		}
	}
	return nil, nil
}
