package resource

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// form is the JSON form a value must have.
type form int

const (
	str form = iota
	boolean
	enum
	list
	record  // a fixed set of fields
	mapping // any keys, one form of value
	integer
	duration // a text such as 5m
	anything
)

// shape is what a kind may hold at one place: for Istio's kinds made of the protobuf
// descriptor, so that it knows exactly the fields that the decoder knows; for ours by hand.
type shape struct {
	form   form
	fields map[string]*shape // of an record
	order  []string          // of the fields, for printing
	snake  map[string]string // the other spelling protobuf JSON takes → the one we want
	also   map[string]string // another spelling that is taken → the one that is stored
	elem   *shape            // of a list or mapping

	noun        string // of an enum: "mode"
	values      []string
	laterValues []string // of an enum, valid and not built: E301

	word   string     // that may stand in place of a list
	later  bool       // valid, not built in this release: E301
	refuse *complaint // what is said of the field whatever it holds
	hint   string     // what to do instead: of a later field or value, or where the form is wrong
	most   int        // of list items or mapping keys; 0: maxValues
	empty  bool       // an empty list is allowed
	null   bool       // null is as if the field were absent
	long   bool       // a text may be longer than maxValue; what holds it has a bound of its own

	key   func(string) *complaint // of the keys of a mapping
	check func(string) *complaint // of a text, duration or integer; nil: not empty
	lint  func(string) *complaint // of a text: warnings, istio-semantics.md 14
}

// complaint is what is wrong with one value.
type complaint struct{ code, text, hint string }

func complain(code, text, hint string) *complaint { return &complaint{code, text, hint} }

// fromMessage makes a shape of a protobuf message.
func fromMessage(d protoreflect.MessageDescriptor) *shape {
	s := &shape{form: record, fields: make(map[string]*shape), snake: make(map[string]string)}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := f.JSONName()
		s.fields[name] = fromField(f)
		s.order = append(s.order, name)
		if other := f.TextName(); other != name {
			s.snake[other] = name
		}
	}
	return s
}

func fromField(f protoreflect.FieldDescriptor) *shape {
	switch {
	case f.IsMap():
		return &shape{form: mapping, elem: fromValue(f.MapValue())}
	case f.IsList():
		return &shape{form: list, elem: fromValue(f)}
	}
	return fromValue(f)
}

func fromValue(f protoreflect.FieldDescriptor) *shape {
	switch f.Kind() {
	case protoreflect.StringKind:
		return &shape{form: str}
	case protoreflect.BoolKind:
		return &shape{form: boolean}
	case protoreflect.EnumKind:
		s := &shape{form: enum, noun: strings.ToLower(string(f.Enum().Name()))}
		for i := range f.Enum().Values().Len() {
			s.values = append(s.values, string(f.Enum().Values().Get(i).Name()))
		}
		return s
	case protoreflect.MessageKind:
		if f.Message().FullName() == "google.protobuf.Duration" {
			return &shape{form: duration, check: checkTimeout}
		}
		return fromMessage(f.Message())
	}
	// Numbers and bytes stand in no kind that is built; a test keeps it so.
	panic("resource: no shape for " + string(f.FullName()))
}

// The shapes of our kinds are put together of these.

// named is a field of a record.
type named struct {
	name  string
	shape *shape
}

// fieldsIn makes a record of its fields, in the order in which they are printed.
func fieldsIn(fields ...named) *shape {
	s := &shape{form: record, fields: make(map[string]*shape)}
	for _, f := range fields {
		s.fields[f.name] = f.shape
		s.order = append(s.order, f.name)
	}
	return s
}

func textWith(check func(string) *complaint) *shape { return &shape{form: str, check: check} }

func listOf(most int, elem *shape) *shape { return &shape{form: list, most: most, elem: elem} }

func oneOf(noun string, values ...string) *shape {
	return &shape{form: enum, noun: noun, values: values}
}

// orLater names the values that are valid and not built.
func (s *shape) orLater(values ...string) *shape {
	s.laterValues = values
	return s
}

func laterField(s *shape) *shape {
	later := *s
	later.later = true
	return &later
}

// at is the shape at a dotted path; [] steps into a list or mapping.
func (s *shape) at(where string) *shape {
	for step := range strings.SplitSeq(where, ".") {
		name, inner := strings.CutSuffix(step, "[]")
		s = s.fields[name]
		if inner {
			s = s.elem
		}
	}
	return s
}

// first moves fields to the front of the printed order.
func (s *shape) first(names ...string) {
	s.order = append(names, slices.DeleteFunc(s.order, func(n string) bool { return slices.Contains(names, n) })...)
}

// match is the shape check, step 2 of istio-semantics.md 2.3. It reports every value that
// is not of its shape and goes on.
func (o *object) match(s *shape, v any, p *path) {
	if s.form == anything {
		return
	}
	if v == nil && s.null {
		return
	}
	if v == nil {
		o.fault("E107", p, atKey, "no value (null)", "give it one, or leave it out")
		return
	}
	switch s.form {
	case record:
		o.matchObject(s, v, p)
	case mapping:
		o.matchMapping(s, v, p)
	case list:
		o.matchList(s, v, p)
	case enum:
		o.matchEnum(s, v, p)
	case boolean:
		if _, ok := v.(bool); !ok {
			o.wrongType(v, p, "true or false", "write true or false, without quotes")
		}
	case str:
		o.matchText(s, v, p)
	case integer:
		o.matchInteger(s, v, p)
	case duration:
		if _, ok := v.(json.Number); ok {
			o.fault("E111", p, atValue, o.raw(v, p)+" is not a duration", "write it with its unit: "+o.raw(v, p)+"s")
			return
		}
		o.matchText(s, v, p)
	}
}

func (o *object) matchObject(s *shape, v any, p *path) {
	m, ok := v.(map[string]any)
	if !ok {
		o.wrongType(v, p, "a mapping", "its fields are "+strings.Join(firstWords(s.order, 8), ", "))
		return
	}
	if o.tooMany(len(m), 0, p) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		f, known := s.fields[name]
		switch {
		case known && f.refuse != nil:
			o.fault(f.refuse.code, p.field(name), atKey, f.refuse.text, f.refuse.hint)
		case known && f.later:
			o.later(f, m[name], p.field(name))
		case known:
			o.match(f, m[name], p.field(name))
		case s.also[name] != "":
			if _, twice := m[s.also[name]]; twice {
				o.fault("E112", p.field(name), atKey, "together with "+s.also[name], "keep "+s.also[name])
				continue
			}
			o.match(s.fields[s.also[name]], m[name], p.field(name))
		case s.snake[name] != "":
			o.fault("E112", p.field(name), atKey, "not spelled so", "write "+s.snake[name])
		default:
			o.unknownField(p, name, s.order, "")
		}
	}
}

// later reports a field that is valid and not built. What is wrong within it goes first:
// an empty list is no less wrong for being early.
func (o *object) later(s *shape, v any, p *path) {
	if o.judged[p.String()] {
		return
	}
	before := o.errors
	o.match(s, v, p)
	if o.errors == before {
		o.unsupported(p, atKey, "not supported yet", s.hint)
	}
}

// waitHint is what to do about what is valid and not built.
const waitHint = "refused, not weakened: leave the field out or wait for a later release"

func (o *object) unsupported(p *path, where where, text, instead string) {
	o.fault("E301", p, where, text, cmp.Or(instead, waitHint))
}

func (o *object) unknownField(p *path, name string, known []string, hint string) {
	if o.counted() {
		return
	}
	if hint == "" {
		hint = didYouMean(name, known)
	}
	o.faultOf("E106", p.String(), p.field(name), atKey, "unknown field "+quote(name), hint)
}

func (o *object) matchMapping(s *shape, v any, p *path) {
	m, ok := v.(map[string]any)
	if !ok {
		o.wrongType(v, p, "a mapping", "write key: value pairs")
		return
	}
	if o.tooMany(len(m), s.most, p) {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if s.key != nil {
			if c := s.key(key); c != nil {
				o.fault(c.code, p.field(key), atKey, c.text, c.hint)
				if c.code == "E109" {
					continue
				}
			}
		}
		o.match(s.elem, m[key], p.field(key))
	}
}

func (o *object) matchList(s *shape, v any, p *path) {
	if s.word != "" && v == s.word {
		return
	}
	items, ok := v.([]any)
	if !ok {
		hint := "write a list, each item on a line that starts with -"
		if s.elem.form == str {
			hint = "write [" + o.raw(v, p) + "]"
		}
		if s.word != "" {
			hint = "write " + s.word + ", or a list of lists"
		}
		o.wrongType(v, p, "a list", hint)
		return
	}
	if len(items) == 0 && !s.empty {
		o.fault("E108", p, atKey, "an empty list", "it would be ignored and widen what this says: remove the field or list a value")
		return
	}
	if o.tooMany(len(items), s.most, p) {
		return
	}
	for i, item := range items {
		o.match(s.elem, item, p.item(i))
	}
}

func (o *object) tooMany(n, most int, p *path) bool {
	if most == 0 {
		most = maxValues
	}
	if n <= most {
		return false
	}
	o.fault("E102", p, atKey, fmt.Sprintf("%d values, at most %d are taken", n, most), "")
	return true
}

func (o *object) matchEnum(s *shape, v any, p *path) {
	got, ok := v.(string)
	switch {
	case ok && slices.Contains(s.values, got):
		return
	case ok && slices.Contains(s.laterValues, got):
		o.unsupported(p, atValue, quote(got)+" is not supported yet", s.hint)
		return
	case !ok:
		o.fault("E110", p, atValue, o.raw(v, p)+" is not "+article(s.noun), "one of "+strings.Join(s.values, ", "))
		return
	}
	hint := "one of " + strings.Join(s.values, ", ")
	if len(s.values) == 1 {
		hint = "write " + s.values[0]
	}
	if upper := strings.ToUpper(got); slices.Contains(s.values, upper) {
		hint = "write " + upper
	} else if near := nearest(got, s.values); near != "" {
		hint = fmt.Sprintf("did you mean %s? (%s)", near, strings.Join(s.values, ", "))
	}
	o.fault("E110", p, atValue, quote(got)+" is not "+article(s.noun), hint)
}

func article(noun string) string {
	if noun != "" && strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

func (o *object) matchText(s *shape, v any, p *path) {
	got, ok := v.(string)
	if !ok {
		hint := cmp.Or(s.hint, "write text")
		switch v.(type) {
		case bool:
			hint = "quote it: " + quote(o.raw(v, p))
		case json.Number:
			hint = "write " + quote(o.raw(v, p))
			if p.up != nil && p.index >= 0 && (p.up.key == "ports" || p.up.key == "notPorts") {
				hint = "ports are strings: " + hint
			}
		}
		o.wrongType(v, p, "text", hint)
		return
	}
	if len(got) > maxValue && !s.long {
		o.fault("E102", p, atValue, fmt.Sprintf("a value of %d bytes, at most %d are taken", len(got), maxValue), "")
		return
	}
	check := s.check
	if check == nil {
		check = notEmpty
	}
	if c := check(got); c != nil {
		o.fault(c.code, p, atValue, c.text, c.hint)
	} else if s.lint != nil {
		if c := s.lint(got); c != nil {
			o.warn(c.code, p, atValue, c.text, c.hint)
		}
	}
}

func (o *object) matchInteger(s *shape, v any, p *path) {
	n, ok := v.(json.Number)
	if !ok {
		o.wrongType(v, p, "an integer", "write it without quotes")
		return
	}
	if _, err := n.Int64(); err != nil {
		o.fault("E109", p, atValue, o.raw(v, p)+" is no integer", "")
		return
	}
	if c := s.check(n.String()); c != nil {
		o.fault(c.code, p, atValue, c.text, c.hint)
	}
}

func (o *object) wrongType(v any, p *path, want, hint string) {
	got := ""
	switch v := v.(type) {
	case bool:
		got = o.raw(v, p) + " is a boolean"
	case json.Number:
		got = o.raw(v, p) + " is a number"
	case string:
		got = quote(v) + " is text"
	case []any:
		got = "a list"
	case map[string]any:
		got = "a mapping"
	}
	o.fault("E109", p, atValue, got+", "+want+" is needed", hint)
}

// raw is a value as it was typed: on and no, where the JSON only has true and false.
func (o *object) raw(v any, p *path) string {
	if n, _ := find(o.root, p); n != nil {
		if n = resolve(n); n.Value != "" {
			return clip(n.Value)
		}
	}
	return clip(fmt.Sprint(v))
}

func firstWords(words []string, n int) []string { return words[:min(n, len(words))] }

func anyText(string) *complaint { return nil }

func notEmpty(s string) *complaint {
	if s == "" {
		return complain("E206", "an empty value", "it would match nothing: remove it")
	}
	return nil
}

// The accessors below read a document that may be wrong anywhere: what is not of the
// form asked for is as if it were not there, since match has reported it.

func fieldsOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func itemsOf(v any) []any {
	l, _ := v.([]any)
	return l
}

func textOf(v any) string {
	s, _ := v.(string)
	return s
}

func textsOf(v any) []string {
	var out []string
	for _, item := range itemsOf(v) {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
