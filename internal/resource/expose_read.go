package resource

import (
	"maps"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// Roles of the objects that expose writes.
const (
	roleGateway = "Gateway"
	roleTokens  = "RequestAuthentication"
)

func roleRoute(k doorKey) string       { return "route " + k.String() }
func roleEnter(k doorKey) string       { return "enter " + k.String() }
func roleWithin(backend string) string { return "within " + backend }

// readFront reads what expose wrote from the objects. What it cannot read is not its own: when it is written again it
// will not be what it was, and then it is refused.
func readFront(m Mesh, objects []Object) *front {
	f := &front{
		mesh: m, doors: map[doorKey]*door{}, labels: map[string]map[string]string{},
		present: map[string]Object{}, taken: map[string]Object{},
	}
	for _, o := range slices.SortedFunc(slices.Values(objects), func(a, b Object) int { return strings.Compare(a.ID(), b.ID()) }) {
		f.taken[o.ID()] = o
		if o.Annotations[writtenBy] != "expose" {
			continue
		}
		shared := o.Namespace == frontNamespace && o.Name == frontName
		switch {
		case o.Kind == "Gateway" && shared:
			f.present[roleGateway] = o
			f.readListeners(o)
		case o.Kind == "RequestAuthentication" && shared:
			f.present[roleTokens] = o
		case o.Kind == "HTTPRoute":
			f.readRoute(o)
		case o.Kind == "AuthorizationPolicy":
			f.readPolicy(o)
		}
	}
	return f
}

// own keeps the first object of a role: a copy made by hand is nobody's.
func (f *front) own(role string, o Object) bool {
	if _, ok := f.present[role]; ok {
		return false
	}
	f.present[role] = o
	return true
}

func (f *front) door(k doorKey) *door {
	if f.doors[k] == nil {
		f.doors[k] = &door{port: 80, ways: map[Way][]string{}}
	}
	return f.doors[k]
}

func (f *front) readListeners(o Object) {
	spec, err := specOf[struct {
		GatewayClassName string
		Listeners        []listenerSpec
	}](o, "Gateway")
	if err != nil {
		return
	}
	for _, l := range spec.Listeners {
		at := listener{name: l.Name, host: l.Hostname, port: l.Port, certificate: l.TLS.Options[certificateFiles]}
		if s := l.AllowedRoutes.Namespaces.Selector; s != nil {
			at.namespace = s.MatchLabels[namespaceName]
		}
		f.listeners = append(f.listeners, at)
	}
}

func httpRouteOf(o Object) (route.HTTPRoute, error) { return HTTPRoute(o, time.Time{}, 0) }

func (f *front) readRoute(o Object) {
	r, err := httpRouteOf(o)
	if err != nil || len(r.Hostnames) != 1 || len(r.Rules) != 1 || len(r.Rules[0].Backends) != 1 {
		return
	}
	b := r.Rules[0].Backends[0]
	k := doorKey{r.Hostnames[0], o.Namespace, b.Name.Name}
	if !f.own(roleRoute(k), o) {
		return
	}
	d := f.door(k)
	d.port = b.Port
	for _, m := range r.Rules[0].Matches {
		d.prefixes = append(d.prefixes, m.Path)
	}
	slices.Sort(d.prefixes)
}

func (f *front) readPolicy(o Object) {
	p, err := Policy(o)
	words := strings.Fields(o.Annotations[exposes])
	if err != nil || len(words) == 0 || len(words) > 2 {
		return
	}
	namespace, service, ok := strings.Cut(words[len(words)-1], "/")
	if !ok {
		return
	}
	if len(words) == 1 {
		if o.Namespace == namespace && f.own(roleWithin(words[0]), o) {
			f.labels[words[0]] = maps.Clone(p.Selector)
		}
		return
	}
	k := doorKey{words[0], namespace, service}
	if o.Namespace != frontNamespace || !f.own(roleEnter(k), o) {
		return
	}
	d := f.door(k)
	if later, closed := o.Annotations[exposesLater]; closed {
		d.ways[Way{}] = readLater(later)
	}
	for _, rule := range p.Rules {
		var requests []string
		for _, op := range rule.To {
			requests = append(requests, requestOf(op))
		}
		d.ways[wayOf(rule)] = requests
	}
}

// requestOf is an operation in the form of doorRequest.
func requestOf(op policy.Operation) string {
	return strings.TrimSpace(strings.Join(op.Methods, ",") + " " + strings.Join(op.Paths, " "))
}

func wayOf(r policy.Rule) Way {
	if len(r.From) != 1 || len(r.From[0].RequestPrincipals) != 1 {
		return Way{Public: true}
	}
	who := r.From[0].RequestPrincipals[0]
	if issuer, keys := strings.CutSuffix(who, keyPrincipals); keys {
		return Way{Issuer: issuer, Keys: true}
	}
	w := Way{Issuer: strings.TrimSuffix(who, tokenPrincipals)}
	for _, c := range r.When {
		if c.Key == audienceKey && len(c.Values) == 1 {
			w.Audience = c.Values[0]
		}
	}
	return w
}
