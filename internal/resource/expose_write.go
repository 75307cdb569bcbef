package resource

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Words that the objects of expose are made of.
const (
	apiKeysOption    = optionPrefix + "api-keys"
	certificateFiles = optionPrefix + "certificate-files"
	namespaceName    = "kubernetes.io/metadata.name" // a label that every namespace has
	keyPrincipals    = "/key:*"
	tokenPrincipals  = "/*"
	audienceKey      = "request.auth.audiences"
	issuerKey        = "request.auth.claims[iss]"
)

var (
	// What the schema of HTTPRoute takes for a path that is not a regular expression, segment by segment.
	routePath    = regexp.MustCompile(`^(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+)+$`)
	escapedSlash = regexp.MustCompile(`%2[fF]|/\.\.?(/|$)`)
)

type fields = map[string]any

// frontDoc is one object to be written.
type frontDoc struct {
	role, kind, namespace, name string
	annotations                 map[string]string // "" takes one away
	spec                        fields
}

// exposure compares what is there with what is wanted. What was changed by hand since is left alone while the sentence
// has nothing to add to it, and else refused.
func exposure(before, after *front, k doorKey) (Exposure, error) {
	was, err := before.write(k, true)
	if err != nil {
		return Exposure{}, err
	}
	then, err := after.write(k, false)
	if err != nil {
		return Exposure{}, err
	}
	out := Exposure{Opened: after.opened(k)}
	said := []string{roleGateway, roleRoute(k), roleTokens, roleEnter(k), roleWithin(k.backend())}
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(was)), func(role string) bool { return slices.Contains(said, role) })
	for i, role := range append(said, others...) {
		o, wanted := then[role]
		old, there := before.present[role]
		same := wanted && there && (string(was[role].JSON) == string(o.JSON) || string(old.JSON) == string(o.JSON))
		switch {
		case same && i < len(said):
			out.Put = append(out.Put, old)
		case same, !wanted && !there:
		case there && string(was[role].JSON) != string(old.JSON):
			return Exposure{}, &notMine{old.ID() + " was changed by hand since expose wrote it"}
		case wanted:
			out.Put = append(out.Put, o)
		default:
			out.Removed = append(out.Removed, old)
		}
	}
	return out, nil
}

// opened are the ways in of a door, tokens first.
func (f *front) opened(k doorKey) []Opening {
	d := f.doors[k]
	if d == nil {
		return nil
	}
	var out []Opening
	for _, w := range d.sortedWays() {
		if w != (Way{}) {
			out = append(out, Opening{w, d.ways[w]})
		}
	}
	return out
}

func (d *door) sortedWays() []Way {
	rank := func(w Way) int {
		switch {
		case w.Public:
			return 2
		case w.Keys:
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(d.ways), func(a, b Way) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Audience, b.Audience))
	})
}

// write makes the objects of all doors, by role. old: of those that are present alone.
func (f *front) write(k doorKey, old bool) (map[string]Object, error) {
	var roles []string
	var files []File
	names := map[string]bool{}
	for _, d := range f.documents(k) {
		was, there := f.present[d.role]
		if old && !there {
			continue
		}
		name, err := f.name(d, names)
		if err != nil {
			return nil, err
		}
		names[d.kind+"/"+d.namespace+"/"+name] = true
		annotations := maps.Clone(was.Annotations)
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[writtenBy] = "expose"
		for k, v := range d.annotations {
			annotations[k] = v
			if v == "" {
				delete(annotations, k)
			}
		}
		k, ok := LookupKind(d.kind)
		if !ok {
			return nil, fmt.Errorf("writing %s: no such kind", d.role)
		}
		meta := fields{"name": name, "namespace": d.namespace, "annotations": annotations}
		if len(was.Labels) > 0 {
			meta["labels"] = was.Labels
		}
		b, err := json.Marshal(fields{"apiVersion": k.APIVersion, "kind": d.kind, "metadata": meta, "spec": d.spec})
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", d.role, err)
		}
		roles, files = append(roles, d.role), append(files, File{Name: d.role, Data: b})
	}
	// Read as if a person had applied them: they are valid, and in the form that is stored.
	objects, faults := Decode(files, Options{RootNamespace: f.mesh.RootNamespace})
	for _, fault := range faults {
		if fault.Severity == Error {
			return nil, &Refusal{"not_supported", fmt.Sprintf("%s: %s: %s [%s]", fault.Resource, fault.Field, fault.Text, fault.Code), fault.Hint}
		}
	}
	out := map[string]Object{}
	for i, o := range objects {
		o.Places = Places{}
		out[roles[i]] = o
	}
	return out, nil
}

// name is that of the object of a role: the one it has, or the first that nothing else took. What a person wrote
// under it is never passed by: he may mean the same.
func (f *front) name(d frontDoc, assigned map[string]bool) (string, error) {
	if o, ok := f.present[d.role]; ok {
		return o.Name, nil
	}
	for name := range numbered(d.name) {
		id := d.kind + "/" + d.namespace + "/" + name
		o, taken := f.taken[id]
		switch {
		case assigned[id]:
		case !taken:
			return name, nil
		case o.Annotations[writtenBy] == "", d.role == roleGateway, d.role == roleTokens:
			return "", &notMine{id + " was not written by expose"}
		}
	}
	return "", fmt.Errorf("finding a name for %s: all are taken", d.role)
}

// numbered are the names an object may have, best first.
func numbered(base string) iter.Seq[string] {
	return func(yield func(string) bool) {
		base = cutName(base, 3)
		if !yield(base) {
			return
		}
		for n := 2; n < 100; n++ {
			if !yield(base + "-" + strconv.Itoa(n)) {
				return
			}
		}
	}
}

// cutName leaves room behind a name; the host in it may be as long as a name may be.
func cutName(s string, room int) string {
	return strings.TrimRight(s[:min(len(s), 253-room)], "-.")
}

// hostWord is a HOST in a name.
func hostWord(host string) string {
	if rest, wild := strings.CutPrefix(host, "*."); wild {
		return "any." + rest
	}
	return host
}

func (f *front) documents(said doorKey) []frontDoc {
	var out []frontDoc
	if len(f.listeners) > 0 {
		out = append(out, f.gateway(), f.tokens())
	}
	within := map[string][]string{}
	for _, k := range f.keys() {
		if k != said && !f.owns(k) {
			continue
		}
		d := f.doors[k]
		out = append(out, f.routeOf(k, d), f.enter(k, d))
		for _, requests := range d.ways {
			within[k.backend()] = sortedSet(within[k.backend()], requests)
		}
	}
	for _, backend := range slices.Sorted(maps.Keys(within)) {
		out = append(out, f.within(backend, within[backend]))
	}
	return out
}

// owns reports whether the HOST of a door is of its namespace. What others wrote as if it were a door of it is none.
func (f *front) owns(k doorKey) bool {
	l := f.listener(k.host)
	return l != nil && l.namespace == k.namespace
}

func (f *front) keys() []doorKey {
	return slices.SortedFunc(maps.Keys(f.doors), func(a, b doorKey) int { return strings.Compare(a.String(), b.String()) })
}

func (f *front) gateway() frontDoc {
	var listeners []any
	slices.SortFunc(f.listeners, func(a, b listener) int {
		return cmp.Or(strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	})
	for _, l := range f.listeners {
		at := fields{
			"name": l.name, "hostname": l.host, "port": l.port, "protocol": "HTTPS",
			"allowedRoutes": fields{"namespaces": fields{"from": "Selector", "selector": fields{"matchLabels": fields{namespaceName: l.namespace}}}},
		}
		if l.certificate != "" {
			at["tls"] = fields{"options": fields{optionPrefix + "certificate": "files", certificateFiles: l.certificate}}
		}
		listeners = append(listeners, at)
	}
	return frontDoc{roleGateway, "Gateway", frontNamespace, frontName, nil, fields{"gatewayClassName": "countersign", "listeners": listeners}}
}

// tokens is the RequestAuthentication: the issuers with the audiences of all HOSTs, and whether keys are taken.
func (f *front) tokens() frontDoc {
	audiences, keys := map[string][]string{}, ""
	for k, d := range f.doors {
		for w := range d.ways {
			switch {
			case !f.owns(k):
			case w.Keys:
				keys = "live"
			case w.Issuer != "":
				audiences[w.Issuer] = sortedSet(audiences[w.Issuer], []string{w.Audience})
			}
		}
	}
	spec := fields{"targetRefs": frontRef()}
	var rules []any
	for _, issuer := range slices.Sorted(maps.Keys(audiences)) {
		rules = append(rules, fields{"issuer": issuer, "audiences": audiences[issuer]})
	}
	if len(rules) > 0 {
		spec["jwtRules"] = rules
	}
	return frontDoc{roleTokens, "RequestAuthentication", frontNamespace, frontName, map[string]string{apiKeysOption: keys}, spec}
}

func frontRef() []any {
	return []any{fields{"group": gatewayGroup, "kind": "Gateway", "name": frontName}}
}

func (f *front) routeOf(k doorKey, d *door) frontDoc {
	parents, matches := []any{}, []any{}
	for _, l := range f.listeners {
		if l.host == k.host {
			parents = append(parents, fields{"name": frontName, "namespace": frontNamespace, "sectionName": l.name})
		}
	}
	for _, p := range d.prefixes {
		matches = append(matches, fields{"path": fields{"type": "PathPrefix", "value": p}})
	}
	return frontDoc{roleRoute(k), "HTTPRoute", k.namespace, k.service + "-at-" + hostWord(k.host), nil, fields{
		"parentRefs": parents, "hostnames": []string{k.host},
		"rules": []any{fields{"matches": matches, "backendRefs": []any{fields{"name": k.service, "port": d.port}}}},
	}}
}

// enter is the policy of the door: a rule for each way in. It judges by host and path, not by route; so what leads to
// another door, by a more special host or path, is taken out.
func (f *front) enter(k doorKey, d *door) frontDoc {
	name := k.service
	if k.namespace != frontNamespace {
		name += "." + k.namespace
	}
	out := frontDoc{
		roleEnter(k), "AuthorizationPolicy", frontNamespace, name + "-at-" + hostWord(k.host),
		map[string]string{exposes: k.String(), exposesLater: laterText(d.ways[Way{}])}, fields{"targetRefs": frontRef()},
	}
	hosts := []string{k.host, k.host + ":*"}
	var otherHosts []string
	if strings.HasPrefix(k.host, "*.") {
		hosts = hosts[:1] // a pattern has one star
		for _, l := range f.listeners {
			if l.host == k.host {
				hosts = append(hosts, fmt.Sprintf("%s:%d", k.host, l.port))
			} else if strings.HasSuffix(l.host, k.host[1:]) {
				otherHosts = append(otherHosts, l.host)
			}
		}
	}
	otherHosts = sortedSet(otherHosts)
	var rules []any
	for _, w := range d.sortedWays() {
		if w == (Way{}) {
			continue
		}
		var to []any
		for _, r := range d.ways[w] {
			op := operationFor(r)
			op["hosts"] = hosts
			if len(otherHosts) > 0 {
				op["notHosts"] = otherHosts
			}
			if paths := f.otherPaths(k, r); len(paths) > 0 {
				op["notPaths"] = paths
			}
			to = append(to, fields{"operation": op})
		}
		rule := fields{"to": to}
		switch {
		case w.Keys:
			rule["from"] = fromToken(w.Issuer + keyPrincipals)
		case !w.Public:
			rule["from"] = fromToken(w.Issuer + tokenPrincipals)
			// The issuer too: ISSUER/* also takes those of https://ISSUER/another.
			rule["when"] = []any{fields{"key": audienceKey, "values": []string{w.Audience}}, fields{"key": issuerKey, "values": []string{w.Issuer}}}
		}
		rules = append(rules, rule)
	}
	if len(rules) > 0 {
		out.spec["rules"] = rules
	}
	return out
}

// laterText is the annotation of requests that wait for a way in, readLater what it says.
func laterText(requests []string) string {
	if slices.Equal(requests, []string{""}) {
		return "*"
	}
	return strings.Join(requests, " | ")
}

func readLater(text string) []string {
	if text == "*" {
		return []string{""}
	}
	return strings.Split(text, " | ")
}

func fromToken(principal string) []any {
	return []any{fields{"source": fields{"requestPrincipals": []string{principal}}}}
}

// otherPaths are those of other services of the HOST below the paths of a request.
func (f *front) otherPaths(k doorKey, request string) []string {
	_, prefix, err := doorRequest(request)
	if err != nil {
		return nil
	}
	var out []string
	for o, d := range f.doors {
		if o.host != k.host || o == k || !f.owns(o) {
			continue
		}
		for _, p := range d.prefixes {
			if prefix == "/" || strings.HasPrefix(p, prefix+"/") {
				out = append(out, p, p+"/*")
			}
		}
	}
	return sortedSet(out)
}

// operationFor is a request in the form of doorRequest as an operation.
func operationFor(request string) fields {
	out := fields{}
	methods, paths, err := ParseRequest(request)
	if err != nil {
		return fields{"methods": []string{"-"}} // never: doorRequest took it
	}
	if len(methods) > 0 {
		out["methods"] = methods
	}
	if len(paths) > 0 {
		out["paths"] = paths
	}
	return out
}

// within is what allow edge SERVICE REQUEST writes.
func (f *front) within(backend string, requests []string) frontDoc {
	namespace, service, _ := strings.Cut(backend, "/")
	name := service + "-from-" + frontName
	if namespace != frontNamespace {
		name += "." + frontNamespace
	}
	labels := f.labels[backend]
	if len(labels) == 0 {
		labels = map[string]string{"app": service}
	}
	rule := fields{"from": []any{fields{"source": fields{"principals": []string{f.mesh.TrustDomain + "/ns/" + frontNamespace + "/sa/" + frontName}}}}}
	if !slices.Contains(requests, "") {
		var to []any
		for _, r := range requests {
			to = append(to, fields{"operation": operationFor(r)})
		}
		rule["to"] = to
	}
	return frontDoc{
		roleWithin(backend), "AuthorizationPolicy", namespace, name, map[string]string{exposes: backend},
		fields{"selector": fields{"matchLabels": labels}, "rules": []any{rule}},
	}
}
