package resource

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
)

// SameSpec reports whether two objects of a kind ask for the same once the defaults are filled in: what is beside
// metadata, for that is what a generation counts (gateway.md 3.2).
func SameSpec(a, b Object) bool {
	x, okX := asked(a)
	y, okY := asked(b)
	return okX && okY && reflect.DeepEqual(x, y) && reflect.DeepEqual(a.Private, b.Private)
}

func asked(o Object) (map[string]any, bool) {
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(o.JSON))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return nil, false
	}
	delete(v, "metadata")
	delete(v, "apiVersion") // versions of a kind have one schema
	if c := crds()[o.Kind]; c != nil {
		v["spec"] = c.filled(v["spec"])
	}
	return v, true
}

// filled gives a copy of a valid value with the defaults (gateway.md 3.3).
func (c *crd) filled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		for name, child := range c.Properties {
			field, ok := out[name]
			if !ok {
				field = child.Default
			}
			if field != nil {
				out[name] = child.filled(field)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = c.Items.filled(item)
		}
		return out
	}
	return v
}
