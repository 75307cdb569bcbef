package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/policy"
)

// reserved is the namespace of nodes and servers (identity.md 3.3): no Workload may be there.
const reserved = "countersign"

// Bounds of a certificate's life: identity.md 12.1.
const (
	minTTL = 10 * time.Second
	maxTTL = 24 * time.Hour
)

// workloadShape is identity.md 12.1. Fields of later releases are known, so that they are
// refused as such and not as unknown.
var workloadShape = sync.OnceValue(func() *shape {
	words := func(check func(string) *complaint) *shape {
		return &shape{form: list, elem: &shape{form: str, check: check}}
	}
	flag := &shape{form: boolean}
	return &shape{
		form: record,
		fields: map[string]*shape{
			"serviceAccount": {form: str, check: checkLabel("a service account")},
			"selectors":      words(checkSelectorText),
			"anyOf":          {form: list, elem: words(checkSelectorText)},
			"nodes":          {form: list, word: "any", elem: words(checkNodeSelector)},
			"services":       words(checkLabel("a service")),
			"ttl":            {form: str, check: checkTTL},
			"key":            {form: enum, noun: "key", values: []string{"p256"}, laterValues: []string{"p384", "ed25519", "rsa2048"}},
			"dnsNames":       {form: list, most: 16, elem: &shape{form: str, check: checkDNSName}},
			"hint":           {form: str, check: checkHint},
			"default":        flag,
			"fallback":       flag,
			"expires":        {form: str, check: checkExpires},
			"federatesWith":  {form: list, later: true, elem: &shape{form: str}},
			"jwtTTL":         {form: str, later: true, check: anyText},
			"containers":     {form: boolean, later: true},
			"run":            {form: anything, later: true},
			"template":       {form: anything, later: true},
		},
		order: []string{
			"serviceAccount", "selectors", "anyOf", "nodes", "services", "ttl", "key", "dnsNames",
			"hint", "default", "fallback", "expires", "federatesWith", "jwtTTL", "containers", "run", "template",
		},
	}
})

// checkWorkload holds what no single field can tell: identity.md 12.1, 12.2.
func checkWorkload(o *object) {
	at := root.field("spec")
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	meta := root.field("metadata")
	if o.out.Namespace == reserved {
		o.fault("E223", meta.field("namespace"), atValue, "namespace countersign is reserved for nodes and servers", "write another namespace")
	}
	if name := o.out.Name; checkName(name) == nil && !dnsLabel.MatchString(name) {
		o.fault("E103", meta.field("name"), atValue, quote(name)+" is not a workload", suggestLabel("a-z, 0-9 and -, at most 63 characters", name))
	}
	o.checkSets(spec, at)
	o.checkNodes(spec, at)
	if ttl, err := time.ParseDuration(textOf(spec["ttl"])); err == nil && ttl >= minTTL && ttl < 5*time.Minute {
		o.warn("W-ttl", at.field("ttl"), atValue, "under 5m: any outage of the server is felt at once", "1h is the default")
	}
}

// checkSets judges the alternatives of selectors.
func (o *object) checkSets(spec map[string]any, at *path) {
	if _, ok := spec["selectors"]; !ok && spec["anyOf"] == nil {
		o.faultOf("E223", "spec", at, atKey, "no selectors: any process would be "+o.workload(),
			fmt.Sprintf("selectors: [run:%s/%s], for what countersign run starts", o.out.Namespace, o.out.Name))
		return
	}
	o.checkSet(spec["selectors"], at.field("selectors"))
	for i, set := range itemsOf(spec["anyOf"]) {
		o.checkSet(set, at.field("anyOf").item(i))
	}
}

func (o *object) workload() string { return clip(o.out.Namespace + "/" + o.out.Name) }

func (o *object) checkSet(v any, at *path) {
	set := textsOf(v)
	if len(set) == 0 {
		return
	}
	o.checkTwice("E223", v, at)
	has := func(types ...string) bool {
		return slices.ContainsFunc(set, func(s string) bool {
			return slices.ContainsFunc(types, func(t string) bool { return strings.HasPrefix(s, t+":") })
		})
	}
	if has("run", "gateway") {
		return // only the program that run started, and what it starts, whoever it is
	}
	user := has("unix:uid", "unix:user")
	switch {
	case !user && has("unix:path", "unix:sha256"):
		o.warn("W-exe", at, atKey, "an executable is no boundary between programs of one user", "add unix:user or unix:uid, and run each service as its own user")
	case !user && has("unix:gid", "unix:group", "unix:supplementary_gid", "unix:supplementary_group"):
		o.warn("W-group", at, atKey, "only a group: every user of it is "+o.workload(), "add unix:user or unix:uid")
	}
	if slices.Contains(set, "unix:uid:0") || slices.Contains(set, "unix:user:root") {
		o.warn("W-uid0", at, atKey, "root: every program of root can take this identity", "run the service as its own user")
	}
}

func (o *object) checkTwice(code string, v any, at *path) {
	seen := make(map[string]bool)
	for i, item := range itemsOf(v) {
		s, ok := item.(string)
		if ok && seen[s] {
			o.fault(code, at.item(i), atValue, quote(s)+" stands twice", "remove one")
		}
		seen[s] = true
	}
}

// checkNodes judges nodes, and writes in what identity.md 12.2 says when they are left out.
func (o *object) checkNodes(spec map[string]any, at *path) {
	p := at.field("nodes")
	nodes, ok := spec["nodes"]
	if nodes == "any" {
		for _, set := range append([]any{spec["selectors"]}, itemsOf(spec["anyOf"])...) {
			for _, s := range textsOf(set) {
				if strings.HasPrefix(s, "unix:uid:") || strings.HasPrefix(s, "unix:gid:") {
					o.warn("W-any-node", p, atKey, "a uid or gid means something else on each machine", "name the nodes, or use unix:user")
					return
				}
			}
		}
		return
	}
	if ok {
		for i, set := range itemsOf(nodes) {
			o.checkTwice("E223", set, p.item(i))
		}
		return
	}
	if kept, ok := o.keptNodes(); ok {
		o.setSpec("nodes", kept)
		return
	}
	if one := o.batch.options.OneNode; one != "" {
		o.setSpec("nodes", []any{[]any{"node:name:" + one}})
		return
	}
	o.faultOf("E223", "spec.nodes", at, atKey, "nodes are not named", "nodes: any, or a set such as [[node:name:web-1]]; an entry is worth what its nodes are")
}

// keptNodes are those stored for the same Workload.
func (o *object) keptNodes() (any, bool) {
	if o.batch.options.Stored == nil {
		return nil, false
	}
	old, ok := o.batch.options.Stored("Workload", o.out.Namespace, o.out.Name)
	if !ok {
		return nil, false
	}
	var top struct {
		Spec map[string]any `json:"spec"`
	}
	if json.Unmarshal(old.JSON, &top) != nil || top.Spec["nodes"] == nil {
		return nil, false
	}
	return top.Spec["nodes"], true
}

// specOf is the spec of a kind of ours as stored; a field that the value does not know is an
// error.
func specOf[T any](o Object, kind string) (T, error) {
	var top struct {
		APIVersion, Kind string
		Metadata         json.RawMessage
		Spec             T
	}
	if o.Kind != kind {
		return top.Spec, fmt.Errorf("%s is no %s", o.ID(), kind)
	}
	dec := json.NewDecoder(bytes.NewReader(o.JSON))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(&top); err != nil {
		return top.Spec, fmt.Errorf("decoding %s: %w", o.ID(), err)
	}
	return top.Spec, nil
}

// setSpec changes a field without changing the caller's document.
func (o *object) setSpec(field string, v any) {
	spec := maps.Clone(fieldsOf(o.value["spec"]))
	spec[field] = v
	o.value = maps.Clone(o.value)
	o.value["spec"] = spec
}

func checkLabel(what string) func(string) *complaint {
	return func(s string) *complaint {
		if !dnsLabel.MatchString(s) {
			return complain("E103", quote(s)+" is not "+what, suggestLabel("a-z, 0-9 and -, at most 63 characters", s))
		}
		return nil
	}
}

func checkTTL(s string) *complaint {
	ttl, err := time.ParseDuration(s)
	switch {
	case err != nil || strings.HasPrefix(s, "+"):
		return complain("E111", quote(s)+" is not a duration", "a number with its unit, such as 1h or 90m")
	case ttl < minTTL || ttl > maxTTL:
		return complain("E111", clip(s)+" is outside 10s to 24h", "1h is the default")
	case ttl%time.Millisecond != 0:
		return complain("E111", clip(s)+" is no whole number of milliseconds", "")
	}
	return nil
}

func checkExpires(s string) *complaint {
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		return complain("E111", quote(s)+" is not an instant", "such as 2027-01-01T00:00:00Z")
	}
	return nil
}

func checkHint(s string) *complaint {
	if len(s) > 1024 {
		return complain("E223", fmt.Sprintf("a hint of %d bytes, at most 1024 are taken", len(s)), "")
	}
	return nil
}

// checkDNSName keeps names of the mesh out of certificates for other names.
func checkDNSName(s string) *complaint {
	if len(s) > 253 || !dnsSubdomain.MatchString(s) || slices.ContainsFunc(strings.Split(s, "."), func(l string) bool { return len(l) > 63 }) {
		return complain("E223", quote(s)+" is not a DNS name", "lower case, no star: api.example.com")
	}
	if !strings.Contains(s, ".") || strings.HasSuffix(s, ".svc") || strings.HasSuffix(s, ".svc.cluster.local") {
		return complain("E223", quote(s)+" is a name of the mesh", "callers in the mesh check the SPIFFE ID: leave it out")
	}
	return nil
}

// workloadSpec is the spec of a Workload as stored; match has judged it.
type workloadSpec struct {
	ServiceAccount string     `json:"serviceAccount"`
	Selectors      []string   `json:"selectors"`
	AnyOf          [][]string `json:"anyOf"`
	Nodes          nodeSets   `json:"nodes"`
	Services       []string   `json:"services"`
	TTL            string     `json:"ttl"`
	Key            string     `json:"key"`
	DNSNames       []string   `json:"dnsNames"`
	Hint           string     `json:"hint"`
	Default        bool       `json:"default"`
	Fallback       bool       `json:"fallback"`
	Expires        string     `json:"expires"`
}

// nodeSets are sets of node selectors, or the word any.
type nodeSets struct {
	any  bool
	sets [][]string
}

// UnmarshalJSON takes the word or the sets.
func (n *nodeSets) UnmarshalJSON(b []byte) error {
	if string(b) == `"any"` {
		n.any = true
		return nil
	}
	return json.Unmarshal(b, &n.sets)
}

// Entry is the registration entry of an accepted Workload; created and revision are those
// of the store.
func Entry(o Object, created, revision int64) (entry.Entry, error) {
	spec, err := specOf[workloadSpec](o, "Workload")
	if err != nil {
		return entry.Entry{}, err
	}
	out := entry.Entry{
		Namespace: o.Namespace, Name: o.Name, ServiceAccount: spec.ServiceAccount,
		Labels:  maps.Clone(o.Labels),
		AnyNode: spec.Nodes.any, Services: spec.Services, Hint: spec.Hint,
		Default: spec.Default, Fallback: spec.Fallback, DNSNames: spec.DNSNames,
		Created: created, Revision: revision,
	}
	if out.ServiceAccount == "" {
		out.ServiceAccount = o.Name
	}
	// Istio users select by app: istio-semantics.md 3.
	if out.Labels == nil {
		out.Labels = make(map[string]string)
	}
	if _, ok := out.Labels["app"]; !ok {
		out.Labels["app"] = o.Name
	}
	if len(spec.Selectors) > 0 {
		out.Sets = append(out.Sets, sorted(spec.Selectors))
	}
	for _, set := range spec.AnyOf {
		out.Sets = append(out.Sets, sorted(set))
	}
	for _, set := range spec.Nodes.sets {
		out.Nodes = append(out.Nodes, sorted(set))
	}
	if len(out.Sets) == 0 || slices.ContainsFunc(out.Sets, func(s []string) bool { return len(s) == 0 }) {
		return entry.Entry{}, fmt.Errorf("%s: an empty set of selectors", o.ID())
	}
	if spec.TTL != "" {
		if out.TTL, err = time.ParseDuration(spec.TTL); err != nil {
			return entry.Entry{}, fmt.Errorf("%s: ttl: %w", o.ID(), err)
		}
	}
	if spec.Expires != "" {
		if out.Expires, err = time.Parse(time.RFC3339, spec.Expires); err != nil {
			return entry.Entry{}, fmt.Errorf("%s: expires: %w", o.ID(), err)
		}
	}
	return out, nil
}

func sorted(set []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(set)))
}

// WorkloadFor is what autoRegister writes for run NAME: identity.md 12.5. Whoever runs it
// may be that service account; serving under its own name takes the entry services.
func WorkloadFor(namespace, name, serviceAccount, node string, uid uint32, labels map[string]string) Object {
	spec := ordered{}
	if serviceAccount != "" && serviceAccount != name {
		spec = append(spec, pair{"serviceAccount", serviceAccount})
	}
	spec = append(spec,
		pair{"selectors", []any{"run:" + namespace + "/" + name, "unix:uid:" + strconv.FormatUint(uint64(uid), 10)}},
		pair{"nodes", []any{[]any{"node:name:" + node}}})
	if serviceAccount != "" && serviceAccount != name {
		spec = append(spec, pair{"services", []any{name}})
	}
	return assemble("Workload", namespace, name, labels, nil, spec)
}

// WorkloadForGateway is the Workload of a Gateway that node serves: only that node earns it, and
// only by serving the Gateway (gateway.md 4.2).
func WorkloadForGateway(namespace, name, node string) Object {
	return assemble("Workload", namespace, name, map[string]string{policy.GatewayLabel: name}, nil, ordered{
		{"selectors", []any{"gateway:" + namespace + "/" + name}},
		{"nodes", []any{[]any{"node:name:" + node}}},
	})
}

// assemble makes an object that we write ourselves.
func assemble(kindName, namespace, name string, labels, annotations map[string]string, spec ordered) Object {
	k, _ := builtKind(kindName)
	meta := ordered{{"name", name}, {"namespace", namespace}}
	for _, m := range []struct {
		key string
		of  map[string]string
	}{{"labels", labels}, {"annotations", annotations}} {
		if len(m.of) == 0 {
			continue
		}
		var pairs ordered
		for _, key := range slices.Sorted(maps.Keys(m.of)) {
			pairs = append(pairs, pair{key, m.of[key]})
		}
		meta = append(meta, pair{m.key, pairs})
	}
	var b bytes.Buffer
	// Only numbers can fail to be written, and there are none.
	_ = writeJSON(&b, ordered{{"apiVersion", k.APIVersion}, {"kind", kindName}, {"metadata", meta}, {"spec", spec}}, false)
	return Object{
		Kind: kindName, APIVersion: k.APIVersion, Namespace: namespace, Name: name,
		JSON: b.Bytes(), Labels: maps.Clone(labels), Annotations: maps.Clone(annotations),
	}
}
