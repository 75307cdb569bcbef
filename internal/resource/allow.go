package resource

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"countersign.dev/internal/policy"
)

// ErrNotMine is the error of an object that allow did not write, or that was changed by
// hand since: it is never touched (cli.md 2.5).
var ErrNotMine = errors.New("not written by allow")

type notMine struct{ text string }

func (e *notMine) Error() string        { return e.text }
func (e *notMine) Is(target error) bool { return target == ErrNotMine }

// Allow is the sentence FROM TO REQUEST….
type Allow struct {
	FromNamespace string // "*" with From "*": everybody who has an identity
	From          string // a service account; "*": all of FromNamespace
	ToNamespace   string
	To            string            // a workload
	ToLabels      map[string]string // the labels TO is known with; empty: app: TO
	Requests      []string          // as typed
	Ports, Hosts  []string
	TrustDomain   string // of FROM; empty: cluster.local
}

// AllowName finds the object that the sentence is about, or the name of the one to be made:
// TO-from-FROM, with -2 behind it where another pair took that name. find looks into the
// namespace of TO.
func AllowName(a Allow, find func(name string) (Object, bool)) (name string, existing *Object, err error) {
	if err := a.check(); err != nil {
		return "", nil, err
	}
	for name := range a.names() {
		o, ok := find(name)
		if !ok {
			return name, nil, nil
		}
		if o.Annotations[writtenBy] == "expose" {
			continue // it goes with its door
		}
		p, err := allowed(o)
		if err != nil {
			return "", nil, err
		}
		if a.sameSource(p.Rules[0].From[0]) {
			return name, &o, nil
		}
	}
	return "", nil, fmt.Errorf("finding a name for %s: all are taken", a.baseName())
}

// BuildAllow writes the policy of the sentence: existing with what it lacks added, else a
// new one under the first name that is not taken. changed is false if it says so already.
func BuildAllow(a Allow, existing *Object, taken func(name string) bool) (o Object, changed bool, err error) {
	if err := a.check(); err != nil {
		return Object{}, false, err
	}
	wanted, err := a.operations()
	if err != nil {
		return Object{}, false, err
	}
	if existing == nil {
		for name := range a.names() {
			if taken == nil || !taken(name) {
				return a.object(name, nil, wanted), true, nil
			}
		}
		return Object{}, false, fmt.Errorf("finding a name for %s: all are taken", a.baseName())
	}
	p, err := allowed(*existing)
	if err != nil {
		return Object{}, false, err
	}
	if !a.sameSource(p.Rules[0].From[0]) {
		return Object{}, false, &notMine{existing.ID() + " speaks of somebody else"}
	}
	merged := withAll(p.Rules[0].To, wanted)
	if len(merged) > 512 {
		return Object{}, false, fmt.Errorf("%s would hold %d requests, at most 512 are taken", existing.ID(), len(merged))
	}
	if len(merged) == len(p.Rules[0].To) && maps.Equal(p.Selector, a.labels()) {
		return *existing, false, nil
	}
	return a.object(existing.Name, existing, merged), true, nil
}

func (a Allow) everybody() bool { return a.From == "*" && a.FromNamespace == "*" }

func (a Allow) check() error {
	for _, w := range []struct {
		what, value string
		star        bool
	}{
		{"TO", a.To, false}, {"the namespace of TO", a.ToNamespace, false},
		{"FROM", a.From, true}, {"the namespace of FROM", a.FromNamespace, a.From == "*"},
	} {
		if !dnsLabel.MatchString(w.value) && !(w.star && w.value == "*") {
			return fmt.Errorf("%s %s is not a name: a-z, 0-9 and -, at most 63 characters", w.what, quote(w.value))
		}
	}
	for _, port := range a.Ports {
		if checkPort(port) != nil || port == "0" {
			return fmt.Errorf("%s is not a port: 1 to 65535", quote(port))
		}
	}
	for _, host := range a.Hosts {
		if host == "" || len(host) > maxValue || lintHost(host) != nil {
			return fmt.Errorf("%s is not a host name", quote(host))
		}
	}
	return nil
}

func (a Allow) baseName() string {
	switch {
	case a.everybody():
		return a.To + "-from-all"
	case a.From == "*":
		return a.To + "-from-all." + a.FromNamespace
	case a.FromNamespace != a.ToNamespace:
		return a.To + "-from-" + a.From + "." + a.FromNamespace
	}
	return a.To + "-from-" + a.From
}

// names are those the object may have, best first.
func (a Allow) names() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		base := a.baseName()
		if !yield(base) {
			return
		}
		for n := 2; n < 100; n++ {
			if !yield(fmt.Sprintf("%s-%d", base, n)) {
				return
			}
		}
	}
}

func (a Allow) labels() map[string]string {
	if len(a.ToLabels) > 0 {
		return a.ToLabels
	}
	return map[string]string{"app": a.To}
}

func (a Allow) source() policy.Source {
	switch {
	case a.everybody():
		return policy.Source{Principals: []string{"*"}}
	case a.From == "*":
		return policy.Source{Namespaces: []string{a.FromNamespace}}
	}
	domain := a.TrustDomain
	if domain == "" {
		domain = "cluster.local"
	}
	return policy.Source{Principals: []string{domain + "/ns/" + a.FromNamespace + "/sa/" + a.From}}
}

func (a Allow) sameSource(s policy.Source) bool {
	want := a.source()
	return slices.Equal(want.Principals, s.Principals) && slices.Equal(want.Namespaces, s.Namespaces)
}

// operations are the requests as entries of to; nil is everything.
func (a Allow) operations() ([]policy.Operation, error) {
	requests := a.Requests
	if len(requests) == 0 {
		requests = []string{""}
	}
	var out []policy.Operation
	for _, r := range requests {
		methods, paths, err := ParseRequest(r)
		if err != nil {
			return nil, err
		}
		op := policy.Operation{Hosts: a.Hosts, Ports: a.Ports, Methods: methods, Paths: paths}
		if isAll(op) {
			return nil, nil
		}
		out = with(out, op)
	}
	return out, nil
}

func isAll(op policy.Operation) bool {
	return len(op.Hosts)+len(op.Ports)+len(op.Methods)+len(op.Paths) == 0
}

// withAll adds what is not there yet; no entry at all is everything, from either side.
func withAll(have, more []policy.Operation) []policy.Operation {
	if len(have) == 0 || len(more) == 0 {
		return nil
	}
	out := slices.Clone(have)
	for _, op := range more {
		out = with(out, op)
	}
	return out
}

func with(have []policy.Operation, op policy.Operation) []policy.Operation {
	if slices.ContainsFunc(have, func(h policy.Operation) bool { return sameOperation(h, op) }) {
		return have
	}
	return append(have, op)
}

func sameOperation(a, b policy.Operation) bool {
	same := func(x, y []string) bool { return slices.Equal(sorted(x), sorted(y)) }
	return same(a.Hosts, b.Hosts) && same(a.Ports, b.Ports) && same(a.Methods, b.Methods) && same(a.Paths, b.Paths)
}

// allowed reads an object that allow may add to: annotated, and still of the shape it writes.
func allowed(o Object) (policy.Policy, error) {
	if o.Annotations[writtenBy] != "allow" {
		return policy.Policy{}, &notMine{o.ID() + " was not written by allow"}
	}
	p, err := Policy(o)
	if err != nil {
		return policy.Policy{}, err
	}
	changed := &notMine{o.ID() + " was changed by hand since allow wrote it"}
	if p.Action != policy.Allow || len(p.Selector) == 0 || len(p.Rules) != 1 || len(p.Rules[0].From) != 1 {
		return policy.Policy{}, changed
	}
	s := p.Rules[0].From[0]
	if len(s.Principals)+len(s.Namespaces) != 1 || len(p.Rules[0].When)+len(s.NotPrincipals)+len(s.NotNamespaces)+
		len(s.ServiceAccounts)+len(s.NotServiceAccounts)+len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 {
		return policy.Policy{}, changed
	}
	for _, op := range p.Rules[0].To {
		if len(op.NotHosts)+len(op.NotPorts)+len(op.NotMethods)+len(op.NotPaths) > 0 {
			return policy.Policy{}, changed
		}
	}
	return p, nil
}

// object writes the policy; what a person added to old beside the spec is kept.
func (a Allow) object(name string, old *Object, to []policy.Operation) Object {
	labels := map[string]any{}
	for k, v := range a.labels() {
		labels[k] = v
	}
	s := a.source()
	source := map[string]any{}
	put(source, "principals", s.Principals)
	put(source, "namespaces", s.Namespaces)
	rule := map[string]any{"from": []any{map[string]any{"source": source}}}
	if len(to) > 0 {
		var entries []any
		for _, op := range to {
			m := map[string]any{}
			put(m, "hosts", op.Hosts)
			put(m, "ports", op.Ports)
			put(m, "methods", op.Methods)
			put(m, "paths", op.Paths)
			entries = append(entries, map[string]any{"operation": m})
		}
		rule["to"] = entries
	}
	spec := map[string]any{
		"selector": map[string]any{"matchLabels": labels},
		"rules":    []any{rule},
	}
	arranged, _ := arrange(authorizationPolicyShape(), spec).(ordered)
	annotations := map[string]string{writtenBy: "allow"}
	var own map[string]string
	if old != nil {
		annotations, own = old.Annotations, old.Labels
	}
	return assemble("AuthorizationPolicy", a.ToNamespace, name, own, annotations, arranged)
}

func put(m map[string]any, key string, values []string) {
	if len(values) == 0 {
		return
	}
	var out []any
	for _, v := range values {
		out = append(out, v)
	}
	m[key] = out
}
