package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/resource"
)

var formats = []string{"table", "wide", "yaml", "json", "name"}

func getCommand() *command {
	return &command{
		name:    "get",
		summary: "Show objects; without KIND: which kinds there are, and how many of each.",
		examples: []string{
			"countersign get",
			"countersign get ap -A",
			"countersign get ap api-from-web -o yaml",
			"countersign get gateways,httproutes -o yaml",
			"countersign get ap -o json | jq -r '.items[].metadata.name'",
			"countersign get -A -o json",
		},
		usage: "[KIND[/NAME] [NAME...] | KIND,KIND...] [flags]",
		about: `KIND is one of authorizationpolicies (ap), peerauthentications (pa),
requestauthentications (ra), workloads (wl), gateways (gtw), httproutes,
apikeys, ratelimits, services (svc) and others, which get alone lists. YAML and
JSON are what was applied, with the status where there is one, and apply takes
them back; -A without KIND gives every object.`,
		flags: func(f *flags) {
			f.doc("o,output", "F", "table, wide, yaml, json, name  [table]")
			f.doc("n,namespace", "NS", "of bare names  [default]")
			f.doc("A,all-namespaces", "", "of every namespace")
			f.doc("json", "", "the same as -o json")
		},
		see: "countersign apply, countersign delete",
		run: func(ctx context.Context, e *env, args []string) error { return e.get(ctx, args) },
	}
}

func (e *env) get(ctx context.Context, args []string) error {
	format := e.output
	switch {
	case format != "" && !slices.Contains(formats, format):
		return usage(fmt.Sprintf("-o %q is not table, wide, yaml, json or name", format), "countersign get ap -o yaml")
	case e.json && format != "" && format != "json":
		return usage("--json and -o "+format+" exclude each other", "countersign get ap -o "+format)
	case e.json:
		format = "json"
	}
	if len(args) == 0 && e.all && forPrograms(format) {
		return e.everything(ctx, format)
	}
	if len(args) == 0 {
		return e.countKinds(ctx, format)
	}
	if kinds := strings.Split(args[0], ","); len(kinds) > 1 {
		if len(args) > 1 {
			return usage("several KINDs are listed whole", "countersign get "+kinds[0]+" "+args[1])
		}
		return e.severalKinds(ctx, kinds, format)
	}
	kind, refs, err := e.objectNames(args)
	if err != nil {
		return err
	}
	if e.all && len(refs) > 0 {
		return usage("-A lists; a NAME is of one namespace", "countersign get "+kind.Short+" "+refs[0].Name)
	}
	objects, err := e.fetch(ctx, kind, refs, formOf(format))
	if err != nil {
		return err
	}
	if forPrograms(format) {
		return e.printAs(format, objects, len(refs) == 1)
	}
	if len(objects) == 0 {
		e.say("%s", e.none(kind))
	} else if err := e.printObjects(kind, objects, format == "wide"); err != nil {
		return err
	}
	if kind.Name == "PeerAuthentication" && len(refs) == 0 {
		return e.noteStrict(ctx, objects)
	}
	return nil
}

// forPrograms reports an output that is read by programs.
func forPrograms(format string) bool {
	return slices.Contains([]string{"yaml", "json", "name"}, format)
}

// severalKinds is `get` of kinds with commas between them: a list, or a table of each.
func (e *env) severalKinds(ctx context.Context, words []string, format string) error {
	var all []admin.Object
	tables := 0
	for _, word := range words {
		kind, err := kindOf(word)
		if err != nil {
			return err
		}
		objects, err := e.fetch(ctx, kind, nil, formOf(format))
		switch {
		case err != nil:
			return err
		case forPrograms(format):
			all = append(all, objects...)
			continue
		case len(objects) == 0:
			e.say("%s", e.none(kind))
			continue
		}
		if tables++; tables > 1 {
			if _, err := fmt.Fprintln(e.out); err != nil {
				return err
			}
		}
		if err := e.printObjects(kind, objects, format == "wide"); err != nil {
			return err
		}
	}
	if forPrograms(format) {
		return e.printAs(format, all, false)
	}
	return nil
}

// everything is `get -A` of no kind: every object with its status, from one revision.
func (e *env) everything(ctx context.Context, format string) error {
	list, err := askServer[admin.Objects](ctx, e, "/v1/objects", admin.Query{Form: formOf(format)})
	if err != nil {
		return err
	}
	return e.printAs(format, list.Objects, false)
}

// formOf is what an output asks the server for.
func formOf(format string) string {
	if format == "yaml" || format == "json" {
		return format
	}
	return "none"
}

// printAs is the output for programs; one was asked for by its name.
func (e *env) printAs(format string, objects []admin.Object, one bool) error {
	switch format {
	case "yaml":
		return e.printYAML(objects, one)
	case "json":
		return e.printObjectsJSON(objects, one)
	}
	for _, o := range objects {
		if _, err := fmt.Fprintln(e.out, objectName(o.Kind, o.Namespace, o.Name)); err != nil {
			return err
		}
	}
	return nil
}

// none says that a list is empty.
func (e *env) none(kind resource.Kind) string {
	if e.all {
		return "no " + kind.Plural
	}
	return fmt.Sprintf("no %s in namespace %s", kind.Plural, e.inForce())
}

// fetch asks for the objects named, or for all of a kind, and gives them sorted.
func (e *env) fetch(ctx context.Context, kind resource.Kind, refs []admin.Ref, form string) ([]admin.Object, error) {
	if len(refs) == 0 {
		q := admin.Query{Kind: kind.Name, Namespace: e.inForce(), Form: form}
		if e.all {
			q.Namespace = ""
		}
		list, err := askServer[admin.Objects](ctx, e, "/v1/objects", q)
		return list.Objects, err
	}
	var names = map[string][]string{}
	var spaces []string
	for _, r := range refs {
		if names[r.Namespace] == nil {
			spaces = append(spaces, r.Namespace)
		}
		names[r.Namespace] = append(names[r.Namespace], r.Name)
	}
	var out []admin.Object
	for _, ns := range spaces {
		list, err := askServer[admin.Objects](ctx, e, "/v1/objects", admin.Query{Kind: kind.Name, Namespace: ns, Names: names[ns], Form: form})
		if err != nil {
			return nil, err
		}
		out = append(out, list.Objects...)
	}
	return out, nil
}

// printObjects is the table of a kind.
func (e *env) printObjects(kind resource.Kind, objects []admin.Object, wide bool) error {
	var head []string
	if e.all {
		head = append(head, "NAMESPACE")
	}
	head = append(append(append(head, "NAME"), resource.Columns(kind.Name)...), "AGE")
	if wide {
		head = append(head, ">REVISION", "CREATED", "API")
	}
	t := newTable(head...)
	for _, o := range objects {
		var row []string
		if e.all {
			row = append(row, o.Namespace)
		}
		row = append(row, o.Name)
		for _, c := range o.Columns {
			row = append(row, stranger(c))
		}
		row = append(row, ago(o.Created))
		if wide {
			row = append(row, fmt.Sprint(o.Revision), o.Created.UTC().Format(time.RFC3339), o.APIVersion)
		}
		t.add(row...)
	}
	return e.printTable(t)
}

// noteStrict says what holds where no mesh-wide PeerAuthentication says otherwise.
func (e *env) noteStrict(ctx context.Context, objects []admin.Object) error {
	if !e.all {
		list, err := askServer[admin.Objects](ctx, e, "/v1/objects", admin.Query{Kind: "PeerAuthentication", Form: "none"})
		if err != nil {
			return err
		}
		objects = list.Objects
	}
	meshWide := slices.ContainsFunc(objects, func(o admin.Object) bool { return len(o.Columns) > 1 && o.Columns[1] == "all" })
	if !meshWide {
		e.say("without an object the mesh is STRICT")
	}
	return nil
}

// countKinds is `get` alone.
func (e *env) countKinds(ctx context.Context, format string) error {
	q := admin.Query{Form: "none"}
	if e.named {
		q.Namespace = e.namespace
	}
	list, err := askServer[admin.Objects](ctx, e, "/v1/objects", q)
	if err != nil {
		return err
	}
	type count struct {
		Kind  string `json:"kind"`
		Count int    `json:"count"`
		API   string `json:"api"`
	}
	counts := []count{}
	for _, k := range resource.Kinds() {
		c := count{Kind: k.Name, API: k.APIVersion}
		for _, o := range list.Objects {
			if o.Kind == k.Name {
				c.Count++
			}
		}
		if c.Count > 0 {
			counts = append(counts, c)
		}
	}
	switch format {
	case "json":
		return e.printJSON(map[string]any{"kinds": counts})
	case "", "table", "wide":
	default:
		return usage("-o "+format+" needs a KIND", "countersign get ap -A -o "+format)
	}
	if len(counts) == 0 {
		e.say("no objects")
		return nil
	}
	t := newTable("KIND", ">COUNT", "API")
	for _, c := range counts {
		t.add(c.Kind, thousands(uint64(c.Count)), c.API)
	}
	return e.printTable(t)
}

// printYAML writes one object as it is, several as a List.
func (e *env) printYAML(objects []admin.Object, one bool) error {
	if one && len(objects) == 1 {
		_, err := fmt.Fprint(e.out, objects[0].YAML)
		return err
	}
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: List\nitems:")
	if len(objects) == 0 {
		b.WriteString(" []")
	}
	b.WriteByte('\n')
	for _, o := range objects {
		sign := "- "
		for line := range strings.Lines(o.YAML) {
			b.WriteString(sign + line)
			sign = "  "
		}
	}
	_, err := fmt.Fprint(e.out, b.String())
	return err
}

func (e *env) printObjectsJSON(objects []admin.Object, one bool) error {
	if one && len(objects) == 1 {
		return e.printJSON(json.RawMessage(objects[0].JSON))
	}
	items := []json.RawMessage{}
	for _, o := range objects {
		items = append(items, json.RawMessage(o.JSON))
	}
	return e.printJSON(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{"v1", "List", items})
}
