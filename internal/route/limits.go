package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// MaxLimitRules is how many rules of RateLimits may hold for one request.
const MaxLimitRules = 64

// Limits are the RateLimits of one table. They never change; all methods are safe for concurrent use, and for nil.
type Limits struct {
	sets   map[limited]*LimitSet
	shared map[*Router]*LimitSet // of all other rules of a listener
	byName map[Name]*RateLimit
	faults []Fault
}

// limited is what has limits of its own: a rule behind a listener.
type limited struct {
	at     *Router
	action *Action
}

// LimitSet are the rules that hold for the requests of one rule of a route on one listener. All of them hold together.
type LimitSet struct {
	Uses []LimitUse
	Bad  string // why all of its requests get 500
}

// LimitUse is one rule of a RateLimit.
type LimitUse struct {
	Limit *RateLimit
	Rule  int
}

// Name is how people and records name the rule: ns/name#rule.
func (u LimitUse) Name() string { return u.Limit.String() + "#" + u.Of().Name }

// Of is the rule itself.
func (u LimitUse) Of() *LimitRule { return &u.Limit.Rules[u.Rule] }

// CompileLimits finds what holds where. A rule of a route that names a RateLimit which is not there, or is under more
// rules than are counted, answers 500: no request goes without its limits.
func CompileLimits(o Objects, t *Table) *Limits {
	l := &Limits{sets: map[limited]*LimitSet{}, shared: map[*Router]*LimitSet{}, byName: map[Name]*RateLimit{}}
	on := map[LimitTarget][]*RateLimit{}
	for i := range o.Limits {
		r := &o.Limits[i]
		l.byName[r.Name] = r
		for _, to := range r.Targets {
			on[to] = append(on[to], r)
		}
	}
	if len(on) == 0 && !slices.ContainsFunc(o.Routes, extended) {
		return l
	}
	named := map[Name]bool{} // routes with limits of their own
	for to := range on {
		named[to.Name] = named[to.Name] || to.Kind == httpRouteKind
	}
	for at := range t.Routers() {
		gateway := Ref{gatewayKind, at.Gateway}
		all := slices.Concat(on[LimitTarget{gateway, ""}], on[LimitTarget{gateway, at.Listener}])
		shared := l.set(all, nil, nil) // of all rules without limits of their own
		if len(shared.Uses) > 0 {
			l.shared[at] = shared
		}
		for a := range at.actions() {
			set := shared
			if len(a.Extensions) > 0 || named[a.Route.Name] {
				route := Ref{httpRouteKind, a.Route.Name}
				own := on[LimitTarget{route, ""}]
				if a.Rule.Name != "" {
					own = slices.Concat(own, on[LimitTarget{route, a.Rule.Name}])
				}
				set = l.set(all, own, a)
				l.sets[limited{at, a}] = set
			}
			if len(set.Uses) > MaxLimitRules {
				l.faults = append(l.faults, Fault{a.Route.Name, a.Index, set.Bad})
			}
		}
	}
	slices.SortFunc(l.faults, func(a, b Fault) int {
		return cmp.Or(compareNames(a.Route, b.Route), cmp.Compare(a.Rule, b.Rule))
	})
	l.faults = slices.Compact(l.faults)
	return l
}

func extended(r HTTPRoute) bool {
	return slices.ContainsFunc(r.Rules, func(r Rule) bool {
		return slices.ContainsFunc(r.Filters, func(f Filter) bool { return f.Extension != nil })
	})
}

// set puts limits together, each once however it came.
func (l *Limits) set(shared, own []*RateLimit, a *Action) *LimitSet {
	s := &LimitSet{}
	all := slices.Concat(shared, own)
	if a != nil {
		for _, ref := range a.Extensions {
			r := l.byName[ref.Name]
			if r == nil || ref.Kind != rateLimitKind || ref.Namespace != a.Route.Namespace {
				s.Bad = ref.String() + " does not exist in the namespace of the route"
				continue
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *RateLimit) int { return compareNames(a.Name, b.Name) })
	for _, r := range slices.Compact(all) {
		for i := range r.Rules {
			s.Uses = append(s.Uses, LimitUse{r, i})
		}
	}
	if n := len(s.Uses); n > MaxLimitRules {
		s.Bad = fmt.Sprintf("%d rules of RateLimits hold for its requests, %d are most", n, MaxLimitRules)
	}
	return s
}

// Of is what holds for the requests of a rule on a listener; nil: nothing.
func (l *Limits) Of(at *Router, a *Action) *LimitSet {
	if l == nil {
		return nil
	}
	set, own := l.sets[limited{at, a}]
	if !own {
		set = l.shared[at]
	}
	if set == nil || len(set.Uses) == 0 && set.Bad == "" {
		return nil
	}
	return set
}

// Sets are all that hold somewhere.
func (l *Limits) Sets() map[*LimitSet]bool {
	out := map[*LimitSet]bool{}
	for s := range maps.Values(l.sets) {
		out[s] = true
	}
	for s := range maps.Values(l.shared) {
		out[s] = true
	}
	return out
}

// Known reports whether a RateLimit is there.
func (l *Limits) Known(name Name) bool { return l.byName[name] != nil }

// Faults are the rules under too many limits.
func (l *Limits) Faults() []Fault { return l.faults }

// actions are the rules of the listener, each at least once.
func (r *Router) actions() func(yield func(*Action) bool) {
	return func(yield func(*Action) bool) {
		for _, h := range r.order {
			for _, c := range h.of {
				for i := range c.actions {
					if !yield(&c.actions[i]) {
						return
					}
				}
			}
		}
	}
}

// LimitStatus is the status of a RateLimit: one entry for each of its targets.
type LimitStatus struct{ Ancestors []AncestorStatus }

// AncestorStatus is what one target came to.
type AncestorStatus struct {
	Target     LimitTarget
	Controller string
	Conditions []Condition
}

// limitStatus says whether the targets of a RateLimit are there.
func (a *attachment) limitStatus(r *RateLimit, routes map[Name]*HTTPRoute) LimitStatus {
	s := LimitStatus{Ancestors: []AncestorStatus{}}
	for _, to := range r.Targets {
		s.Ancestors = append(s.Ancestors, AncestorStatus{to, Controller, []Condition{
			conditionOf("Accepted", r.Generation, a.limitRefusal(to, routes), "Accepted", "the limit holds for the target"),
		}})
	}
	return s
}

func (a *attachment) limitRefusal(to LimitTarget, routes map[Name]*HTTPRoute) Refusal {
	what, part, found := "listener", false, false
	if to.Kind == gatewayKind {
		g := a.gatewayOf[to.Name]
		found = g != nil
		part = found && slices.ContainsFunc(g.Listeners, func(l Listener) bool { return l.Name == to.Section })
	} else {
		what = "rule"
		r := routes[to.Name]
		found = r != nil
		part = found && slices.ContainsFunc(r.Rules, func(rule Rule) bool { return rule.Name == to.Section })
	}
	switch {
	case !found:
		return Refusal{"TargetNotFound", to.Ref.String() + " is not served here; apply it or correct the name"}
	case to.Section != "" && !part:
		return Refusal{"TargetNotFound", fmt.Sprintf("%s has no %s %q; name one that it has", to.Ref, what, to.Section)}
	}
	return Refusal{}
}
