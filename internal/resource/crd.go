package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

//go:generate go run -C ../../tools ./crdschema

// crd is one place of the schema of a CRD: what gateway.md 3.2 checks there, and in which order.
// Step 2 is a shape made of it; settle is 3 and 4, keepRules is 5.
type crd struct {
	Type       string
	Properties map[string]*crd
	Items      *crd
	Values     *crd `json:"additionalProperties"`
	Required   []string
	Default    any

	Pattern              string
	MinLength, MaxLength int
	Minimum, Maximum     *int64
	MinItems, MaxItems   int
	MaxProperties        int
	Enum                 []any

	ListType string   `json:"x-kubernetes-list-type"`
	ListKeys []string `json:"x-kubernetes-list-map-keys"`
	Rules    []string // messages of CEL rules; celRules holds their functions
}

var crds = sync.OnceValue(func() map[string]*crd {
	var out map[string]*crd
	dec := json.NewDecoder(strings.NewReader(crdSchema))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		panic("resource: reading the generated schema: " + err.Error())
	}
	return out
})

// shape is what may stand at a place: step 2. Fields are printed in alphabetical order, as
// kubectl does.
func (c *crd) shape(name string) *shape {
	switch {
	case c.Type == "array":
		return &shape{form: list, elem: c.Items.shape(name), most: c.MaxItems, empty: true}
	case c.Type == "boolean":
		return &shape{form: boolean}
	case c.Type == "integer":
		return &shape{form: integer, check: c.checkInteger(name)}
	case c.Type == "object" && c.Values != nil:
		return &shape{form: mapping, elem: c.Values.shape(name), most: c.MaxProperties}
	case c.Type == "object":
		s := &shape{form: record, fields: make(map[string]*shape), order: slices.Sorted(maps.Keys(c.Properties))}
		for field, child := range c.Properties {
			s.fields[field] = child.shape(field)
		}
		return s
	case c.Enum != nil:
		s := &shape{form: enum, noun: name}
		for _, v := range c.Enum {
			s.values = append(s.values, fmt.Sprint(v))
		}
		return s
	case c.Pattern == durationPattern:
		return &shape{form: duration, check: checkGatewayDuration}
	}
	return &shape{form: str, check: c.checkText()}
}

// durationPattern is GEP-2257.
const durationPattern = `^([0-9]{1,5}(h|m|s|ms)){1,4}$`

var gatewayDuration = regexp.MustCompile(durationPattern)

func checkGatewayDuration(s string) *complaint {
	if !gatewayDuration.MatchString(s) {
		return complain("E111", quote(s)+" is not a duration", "whole numbers with units h, m, s, ms, at most four: 10s, 1h30m, 500ms")
	}
	return nil
}

func (c *crd) checkText() func(string) *complaint {
	var pattern *regexp.Regexp
	if c.Pattern != "" {
		pattern = regexp.MustCompile(c.Pattern)
	}
	return func(s string) *complaint {
		n := utf8.RuneCountInString(s)
		switch {
		case n < c.MinLength:
			return complain("E102", fmt.Sprintf("%d characters, at least %d is needed", n, c.MinLength), "give it a value, or leave it out")
		case c.MaxLength > 0 && n > c.MaxLength:
			return complain("E102", fmt.Sprintf("%d characters, at most %d are taken", n, c.MaxLength), "")
		case pattern != nil && !pattern.MatchString(s):
			return complain("E109", quote(s)+" is not of the form "+c.Pattern, "")
		}
		return nil
	}
}

func (c *crd) checkInteger(name string) func(string) *complaint {
	return func(s string) *complaint {
		n, err := strconv.ParseInt(s, 10, 32) // every integer of the group is an int32
		switch {
		case err != nil:
			return complain("E109", clip(s)+" is no integer of 32 bits", "")
		case c.Enum != nil && !slices.Contains(c.Enum, any(json.Number(strconv.FormatInt(n, 10)))):
			return complain("E110", s+" is not "+article(name), "one of "+strings.Trim(fmt.Sprint(c.Enum), "[]"))
		case c.Minimum != nil && n < *c.Minimum:
			return complain("E109", fmt.Sprintf("%d, at least %d is needed", n, *c.Minimum), "")
		case c.Maximum != nil && n > *c.Maximum:
			return complain("E109", fmt.Sprintf("%d, at most %d is taken", n, *c.Maximum), "")
		}
		return nil
	}
}

// settle is steps 3 and 4 on a value that has its shape: it gives a copy with the defaults
// filled in, and reports what is missing (blocked: the CEL rules cannot be asked) and what
// stands twice.
func (o *object) settle(c *crd, v any, p *path) (settled any, blocked bool) {
	switch v := v.(type) {
	case map[string]any:
		return o.settleMap(c, v, p)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var b bool
			out[i], b = o.settle(c.Items, item, p.item(i))
			blocked = blocked || b
		}
		if len(v) < c.MinItems {
			o.fault("E102", p, atKey, fmt.Sprintf("%d items, at least %d is needed", len(v), c.MinItems), "")
			return out, true
		}
		o.repeated(c, out, p)
		return out, blocked
	}
	return v, false
}

func (o *object) settleMap(c *crd, v map[string]any, p *path) (settled any, blocked bool) {
	out := maps.Clone(v)
	for _, name := range slices.Sorted(maps.Keys(c.Properties)) {
		child := c.Properties[name]
		if _, ok := out[name]; !ok && child.Default != nil {
			out[name] = child.Default
		}
		if field, ok := out[name]; ok {
			var b bool
			out[name], b = o.settle(child, field, p.field(name))
			blocked = blocked || b
		}
	}
	for _, name := range c.Required {
		if _, ok := out[name]; !ok {
			o.faultOf("E103", p.field(name).String(), p, atKey, name+" is missing", "")
			blocked = true
		}
	}
	return out, blocked
}

// repeated reports items of a set, and keys of a list that is a map, that stand twice.
func (o *object) repeated(c *crd, items []any, p *path) {
	if c.ListType != "set" && c.ListType != "map" {
		return
	}
	seen := make(map[string]bool, len(items))
	for i, item := range items {
		key, shown := item, p.item(i)
		if c.ListType == "map" {
			var keys []any
			for _, name := range c.ListKeys {
				keys = append(keys, fieldsOf(item)[name])
			}
			key, shown = keys, shown.field(c.ListKeys[0])
		}
		text := fmt.Sprintf("%q", key)
		if seen[text] {
			o.fault("E109", shown, atValue, "stands twice in "+lastKey(p), "keep one of them")
		}
		seen[text] = true
	}
}

func lastKey(p *path) string {
	for ; p != nil; p = p.up {
		if p.index < 0 {
			return p.key
		}
	}
	return ""
}

// keepRules is step 5. Old is what is applied now, nil if nothing is.
func (o *object) keepRules(c *crd, v, old any, p *path) {
	for _, message := range c.Rules {
		if !celRules[message](v, old) {
			o.fault("E401", p, atValue, message, "")
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if child := c.Properties[name]; child != nil {
				o.keepRules(child, v[name], fieldsOf(old)[name], p.field(name))
			}
		}
	case []any:
		for i, item := range v {
			o.keepRules(c.Items, item, nil, p.item(i))
		}
	}
}

// storedSpec is the spec of the same object as it is applied now; nil if there is none.
func (o *object) storedSpec() any {
	if o.batch.options.Stored == nil {
		return nil
	}
	old, ok := o.batch.options.Stored(o.kind, o.out.Namespace, o.out.Name)
	if !ok {
		return nil
	}
	var top struct{ Spec any }
	dec := json.NewDecoder(bytes.NewReader(old.JSON))
	dec.UseNumber()
	if dec.Decode(&top) != nil {
		return nil
	}
	return top.Spec
}

// settleCRD takes the spec of a kind of the Gateway API through steps 3 to 6; more is step 6.
func settleCRD(more func(*object, map[string]any)) func(*object) {
	return func(o *object) {
		o.edgeOptions()
		at := root.field("spec")
		c := crds()[o.kind]
		spec, blocked := o.settle(c, o.value["spec"], at)
		if blocked {
			return
		}
		o.keepRules(c, spec, o.storedSpec(), at)
		o.value = maps.Clone(o.value)
		o.value["spec"] = spec
		if more != nil {
			more(o, fieldsOf(spec))
		}
	}
}
