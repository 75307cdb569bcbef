package resource

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// Decode reads the files of one batch: every object in the order of the files, and every
// fault. A batch with a fault of severity Error is not to be applied, not even in part.
func Decode(files []File, o Options) ([]Object, []Fault) {
	b := batch{options: o.withDefaults(), places: make(map[string]Places)}
	for i, f := range files {
		b.file(i, f)
	}
	return b.objects, b.faults.sorted()
}

// batch is what one Decode has found so far.
type batch struct {
	options  Options
	objects  []Object
	places   map[string]Places // by Kind/namespace/name, for E113
	faults   faults
	count    int
	overflow bool
}

func (b *batch) file(index int, f File) {
	data := bytes.TrimPrefix(f.Data, []byte("\ufeff"))
	chunks := split(data)
	if len(chunks) == 1 && len(data) > MaxDocument {
		b.flaw(index, f.Name, flaw{1, 1, "E102", fmt.Sprintf("the file has %s, at most 1 MiB a document is read", size(len(data))), ""})
		return
	}
	for _, c := range chunks {
		doc, flaws := c.parse(f.Name)
		for _, fl := range flaws {
			b.flaw(index, f.Name, fl)
		}
		if doc == nil {
			continue
		}
		value, ok := doc.value.(map[string]any)
		if !ok {
			b.flaw(index, f.Name, flaw{doc.line + doc.root.Line, doc.root.Column, "E109", "a document must be a mapping", "it starts with apiVersion: and kind:"})
			continue
		}
		ob := &object{batch: b, file: index, name: f.Name, line: doc.line, root: doc.root, value: value}
		if isList(value) {
			b.list(ob)
		} else {
			b.object(ob)
		}
		if b.overflow {
			return
		}
	}
}

func (b *batch) flaw(index int, name string, f flaw) {
	b.faults.add(index, Fault{File: name, Line: f.line, Column: f.col, Code: f.code, Text: f.text, Hint: f.hint})
}

// isList tells a List, or a typed list, from a kind that merely ends so.
func isList(value map[string]any) bool {
	kind, items := textOf(value["kind"]), false
	if strings.HasSuffix(kind, "List") {
		_, items = value["items"]
	}
	return kind == "List" || items
}

// list takes the items of a List, or of a typed list such as AuthorizationPolicyList.
func (b *batch) list(l *object) {
	kind, version := textOf(l.value["kind"]), textOf(l.value["apiVersion"])
	of := strings.TrimSuffix(kind, "List")
	if of == "" && version != "v1" {
		l.fault("E104", root.field("apiVersion"), atValue, "apiVersion "+quote(version)+" is not known for List", "write v1")
	}
	for _, key := range slices.Sorted(maps.Keys(l.value)) {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, key) {
			l.unknownField(root, key, nil, "only apiVersion, kind, metadata, items stand at the top of a list")
		}
	}
	items, ok := l.value["items"].([]any)
	if !ok {
		l.fault("E103", root.field("items"), atKey, "items is missing, or no list", "")
		return
	}
	for i, item := range items {
		at := root.field("items").item(i)
		value, ok := item.(map[string]any)
		if !ok {
			l.match(&shape{form: record, order: []string{"apiVersion", "kind", "metadata", "spec"}}, item, at)
			continue
		}
		node, _ := find(l.root, at)
		if of != "" {
			value = maps.Clone(value)
			for key, from := range map[string]string{"kind": of, "apiVersion": version} {
				if _, ok := value[key]; !ok && from != "" {
					value[key] = from
				}
			}
		}
		ob := &object{batch: b, file: l.file, name: l.name, line: l.line, root: resolve(node), value: value}
		if isList(value) {
			ob.fault("E103", root.field("kind"), atValue, "a list within a list", "write its items as documents")
			continue
		}
		if b.object(ob); b.overflow {
			return
		}
	}
}

// object is one document on its way to becoming an Object.
type object struct {
	batch *batch
	file  int
	name  string // of the file
	line  int    // lines before the document
	root  *yaml.Node
	value map[string]any

	errors   int
	judged   map[string]bool // paths of fields not built that a better fault was found for
	kind     string
	resource string
	gateway  *gatewayKind // nil: another kind
	out      Object
}

// where in a line a fault is shown: at the key of a field, or at its value.
type where int

const (
	atKey where = iota
	atValue
)

func (o *object) fault(code string, p *path, at where, text, hint string) {
	if o.counted() {
		return
	}
	o.faultOf(code, p.String(), p, at, text, hint)
}

// faultOf is for faults that are shown at p and are about field.
func (o *object) faultOf(code, field string, p *path, at where, text, hint string) {
	o.errors++
	o.report(Error, code, field, p, at, text, hint)
}

// counted counts a fault beyond those that are shown.
func (o *object) counted() bool {
	if !o.batch.faults.full(Error) {
		return false
	}
	o.errors++
	o.batch.faults.add(o.file, Fault{Severity: Error})
	return true
}

func (o *object) warn(code string, p *path, at where, text, hint string) {
	o.report(Warning, code, p.String(), p, at, text, hint)
}

func (o *object) report(severity, code, field string, p *path, at where, text, hint string) {
	line, col := 0, 0
	if !o.batch.faults.full(severity) {
		line, col = o.place(p, at)
	}
	o.batch.faults.add(o.file, Fault{
		File: o.name, Line: line, Column: col, Code: code, Resource: o.resource,
		Field: field, Text: text, Hint: hint, Severity: severity,
	})
}

func (o *object) place(p *path, at where) (line, col int) {
	n, key := find(o.root, p)
	if key != nil && at == atKey {
		n = key
	}
	if n == nil {
		return o.line + 1, 1
	}
	return o.line + n.Line, n.Column
}

// object takes one document through the steps of istio-semantics.md 2.3.
func (b *batch) object(o *object) {
	if b.count++; b.count > MaxObjects {
		o.fault("E102", root, atKey, fmt.Sprintf("more than %d objects in one batch", MaxObjects), "apply them in several")
		b.overflow = true
		return
	}
	o.identify()
	k, ok := o.whichKind()
	if !ok {
		return
	}
	o.envelope()
	if !o.bare() && !o.hasSpec() {
		return
	}
	k.check(o) // first: it knows more of some fields than that they are not built
	body, at := o.body()
	o.match(k.spec(), body, at)
	if o.errors == 0 && o.gateway != nil {
		o.gateway.settle(o)
	}
	if o.errors > 0 {
		return
	}
	if err := o.finish(k); err != nil {
		o.fault("E109", root.field("spec"), atKey, clip(err.Error()), "")
		return
	}
	if o.unique() {
		b.objects = append(b.objects, o.out)
	}
}

// identify reads what the object is called, as far as it says so: the faults name it.
func (o *object) identify() {
	meta := fieldsOf(o.value["metadata"])
	o.kind = textOf(o.value["kind"])
	o.out.Kind, o.out.APIVersion = o.kind, textOf(o.value["apiVersion"])
	o.out.Name = textOf(meta["name"])
	o.out.Namespace = o.batch.options.Namespace
	if ns, ok := meta["namespace"]; ok {
		o.out.Namespace = textOf(ns)
	}
	if !printable(o.kind) {
		return
	}
	o.resource = o.kind
	if printable(o.out.Namespace) && printable(o.out.Name) {
		o.resource = o.out.ID()
	}
}

// envelope checks what stands around the spec: istio-semantics.md 2.1.
func (o *object) envelope() {
	for _, key := range slices.Sorted(maps.Keys(o.value)) {
		switch key {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			if o.bare() { // its fields stand here
				continue
			}
			hint := "only apiVersion, kind, metadata, spec stand at the top"
			if k, ok := builtKind(o.kind); ok && k.spec().fields[key] != nil {
				hint = "it belongs under spec"
			}
			o.unknownField(root, key, nil, hint)
		}
	}
	at := root.field("metadata")
	v, ok := o.value["metadata"]
	if !ok {
		o.fault("E103", at, atKey, "metadata.name is missing", "add lines such as\n\tmetadata:\n\t  name: "+o.exampleName())
		return
	}
	o.match(metadataShape(), v, at)
	meta, ok := v.(map[string]any)
	if !ok {
		return
	}
	if _, ok := meta["name"]; !ok {
		o.faultOf("E103", "metadata.name", at, atKey, "metadata.name is missing", "add a line such as\n\t  name: "+o.exampleName())
	}
	if v, ok := meta["annotations"].(map[string]any); ok {
		o.annotations(v, at.field("annotations"))
	}
	o.out.Labels, o.out.Annotations = texts(meta["labels"]), texts(meta["annotations"])
}

func (o *object) exampleName() string {
	switch o.kind {
	case "PeerAuthentication":
		return "default"
	case "Workload":
		return "api"
	case "AuthorizationPolicy":
		return "allow-web"
	}
	return "example"
}

func texts(v any) map[string]string {
	m := fieldsOf(v)
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = textOf(v)
	}
	return out
}

// annotations checks those that mean something (istio-semantics.md 7.13).
func (o *object) annotations(m map[string]any, p *path) {
	total := 0
	for k, v := range m {
		total += len(k) + len(textOf(v))
	}
	if total > maxNotes {
		o.fault("E102", p, atKey, fmt.Sprintf("annotations of %d bytes, at most 256 KiB are taken", total), "")
	}
	v, ok := m[dryRun].(string)
	if !ok {
		return
	}
	at := p.field(dryRun)
	if o.kind != "AuthorizationPolicy" {
		o.fault("E220", at, atKey, o.kind+" has no dry run", "leave the annotation out")
	} else if _, err := strconv.ParseBool(v); err != nil {
		o.fault("E220", at, atValue, quote(v)+" is not a boolean", `write "true" or "false"`)
	} else {
		o.unsupported(at, atKey, "dry run is not supported yet", "")
	}
}

func (o *object) hasSpec() bool {
	v, ok := o.value["spec"]
	if !ok {
		o.fault("E103", root.field("spec"), atKey, "spec is missing", "write spec: {}")
		return false
	}
	return v != nil || o.isNull("spec")
}

func (o *object) isNull(field string) bool {
	o.fault("E107", root.field(field), atKey, "no value (null)", "write "+field+": {}, or its fields indented under it")
	return false
}

// unique reports E113 when the batch already holds an object of that name.
func (o *object) unique() bool {
	id := o.out.ID()
	if p, ok := o.batch.places[id]; ok {
		o.fault("E113", root, atKey, fmt.Sprintf("stands twice in what is applied, first at %s:%d:%d", p.File, p.Line, p.Col), "remove one of them")
		return false
	}
	o.batch.places[id] = o.out.Places
	return true
}

// finish decodes the spec into the message of its kind, strictly (step 3), and makes the
// canonical form. What still fails here is a hole in the shape.
func (o *object) finish(k kind) error {
	o.out.Places = o.findPlaces()
	text, err := o.canonical(k.spec())
	if err != nil {
		return err
	}
	o.out.JSON = text
	return k.read(o.out)
}

func (o *object) findPlaces() Places {
	line, col := o.place(root, atKey)
	out := Places{File: o.name, Line: line, Col: col}
	name := map[string]string{"AuthorizationPolicy": "rules", "RequestAuthentication": "jwtRules", "HTTPRoute": "rules", "RateLimit": "rules"}[o.kind]
	rules := root.field("spec").field(name)
	for i := range itemsOf(fieldsOf(o.value["spec"])[name]) {
		line, col := o.place(rules.item(i), atValue)
		out.Rules = append(out.Rules, [2]int{line, col})
	}
	return out
}

// canonical is the object as stored: fields in the order of their kind, keys sorted,
// server-side fields and status gone, defaults not filled in.
func (o *object) canonical(spec *shape) ([]byte, error) {
	meta := ordered{{"name", o.out.Name}}
	if o.out.Namespace != "" {
		meta = append(meta, pair{"namespace", o.out.Namespace})
	}
	given := fieldsOf(o.value["metadata"])
	for _, key := range []string{"labels", "annotations"} {
		if m := fieldsOf(given[key]); len(m) > 0 {
			meta = append(meta, pair{key, arrange(nil, m)})
		}
	}
	var b bytes.Buffer
	out := ordered{{"apiVersion", o.out.APIVersion}, {"kind", o.kind}, {"metadata", meta}}
	body, _ := o.body()
	if fields, ok := arrange(spec, body).(ordered); ok && o.bare() {
		out = append(out, fields...)
	} else {
		out = append(out, pair{"spec", arrange(spec, body)})
	}
	err := writeJSON(&b, out, false)
	return b.Bytes(), err
}
