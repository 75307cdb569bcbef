package server

import (
	"fmt"

	"countersign.dev/internal/route"
)

// The form of the policies of the Gateway API.
type (
	targetRefJSON struct {
		Group       string `json:"group"`
		Kind        string `json:"kind"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		SectionName string `json:"sectionName,omitempty"`
	}
	ancestorJSON struct {
		AncestorRef    targetRefJSON   `json:"ancestorRef"`
		ControllerName string          `json:"controllerName"`
		Conditions     []conditionJSON `json:"conditions"`
	}
	limitStatusJSON struct {
		Ancestors []ancestorJSON `json:"ancestors"`
	}
)

func limitStatusOf(l route.LimitStatus) limitStatusJSON {
	return limitStatusJSON{each(l.Ancestors, func(a route.AncestorStatus) ancestorJSON {
		t := a.Target
		return ancestorJSON{targetRefJSON{t.Group, t.Kind.Kind, t.Namespace, t.Name.Name, t.Section}, a.Controller, conditionsOf(a.Conditions)}
	})}
}

// readyLimit: a class has no targets, and waits for nothing.
func readyLimit(l route.LimitStatus) string {
	for _, a := range l.Ancestors {
		if word := readyBy(a.Conditions, "Accepted"); word != "True" {
			return word
		}
	}
	return "True"
}

// limitTexts are the rules that hold for the requests of a rule on a listener.
func (r *routing) limitTexts(at *route.Router, a *route.Action) (out []string) {
	set := r.limits.Of(at, a)
	if set == nil {
		return nil
	}
	for _, u := range set.Uses {
		rule := u.Of()
		text := fmt.Sprintf("RateLimit/%s: %s", u.Name(), rule)
		switch w := rule.When; {
		case u.Limit.Shadow:
			text += "; shadow"
		case rule.Early:
			text += "; before identity"
		case len(w.From)+len(w.To)+len(w.When) > 0:
			text += "; where its conditions hold"
		}
		out = append(out, text)
	}
	return out
}

// limit warns of targets that are not there, and of rules of routes that more limits hold for than are counted.
func (w *edgeWarner) limit(name route.Name) {
	for i, a := range w.status.Limits[name].Ancestors {
		for _, c := range a.Conditions {
			if c.Status == "False" {
				w.warn("RateLimit", name, fmt.Sprintf("spec.targetRefs[%d]", i), c.Reason, c.Message, "")
			}
		}
	}
	table, _ := route.Compile(route.Attach(w.v.Edge))
	for _, f := range route.CompileLimits(w.v.Edge, table).Faults() {
		w.warn("RateLimit", name, "spec.targetRefs", "", fmt.Sprintf("rule %d of HTTPRoute %s gets 500: %s", f.Rule, f.Route, f.Text), "")
	}
}
