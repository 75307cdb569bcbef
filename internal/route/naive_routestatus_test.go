package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// attached counts routes with Accepted=True that the listener takes, also while it is not accepted itself.
func (n naiveWorld) attached(g *Gateway, i int) int {
	count := 0
	for j := range n.o.Routes {
		r := &n.o.Routes[j]
		on := slices.ContainsFunc(r.Parents, func(p Parent) bool {
			at, why := n.attaches(r, p)
			return at == g && why[i] == "Accepted"
		})
		if _, all := n.dropped(r); on && !all {
			count++
		}
	}
	return count
}

// attaches is how far each listener lets the route come, by one parentRef that names a Gateway of ours (5).
func (n naiveWorld) attaches(r *HTTPRoute, p Parent) (*Gateway, []string) {
	for i := range n.o.Gateways {
		g := &n.o.Gateways[i]
		if _, ours := n.class(g.Class); !ours || p.Kind != (Kind{gatewayAPI, "Gateway"}) || p.Name != g.Name {
			continue
		}
		var why []string
		for j := range g.Listeners {
			l := &g.Listeners[j]
			switch {
			case p.Section != "" && p.Section != l.Name, p.Port != 0 && p.Port != l.Port:
				why = append(why, "NoMatchingParent")
			case len(n.kinds(l)) == 0, !n.lets(g, l, r.Namespace):
				why = append(why, "NotAllowedByListeners")
			case !slices.ContainsFunc(hosts, func(host string) bool {
				return (l.Hostname == "" || inPattern(l.Hostname, host, false)) && (len(r.Hostnames) == 0 || namedBy(r.Hostnames, host, false))
			}):
				why = append(why, "NoMatchingListenerHostname")
			default:
				why = append(why, "Accepted")
			}
		}
		return g, why
	}
	return nil, nil
}

func (n naiveWorld) lets(g *Gateway, l *Listener, namespace string) bool {
	switch {
	case l.From == "All", l.From == "Same" && g.Namespace == namespace:
		return true
	case l.From != "Selector" || l.Selector == nil:
		return false
	}
	labels := map[string]string{}
	maps.Copy(labels, n.o.Namespaces[namespace])
	labels["kubernetes.io/metadata.name"] = namespace
	for k, v := range l.Selector.Labels {
		if got, there := labels[k]; !there || got != v {
			return false
		}
	}
	for _, t := range l.Selector.Terms {
		got, there := labels[t.Key]
		among := there && slices.Contains(t.Values, got)
		if t.Operator == "In" && !among || t.Operator == "NotIn" && among || t.Operator == "Exists" && !there || t.Operator == "DoesNotExist" && there {
			return false
		}
	}
	return true
}

// dropped: some of a route's rules are invalid, or all.
func (n naiveWorld) dropped(r *HTTPRoute) (some, all bool) {
	rules := map[int]bool{}
	for _, fault := range n.f.Invalid {
		if fault.Route == r.Name {
			rules[fault.Rule] = true
		}
	}
	return len(rules) > 0, len(rules) > 0 && len(rules) == len(r.Rules)
}

func (n naiveWorld) route(r *HTTPRoute, out map[string]string) {
	// The first reference in the order written that cannot be followed.
	refs := ""
	filters := func(list []Filter) {
		for _, filter := range list {
			if e := filter.Extension; e != nil && (e.Kind != Kind{"countersign.dev", "RateLimit"} || e.Namespace != r.Namespace ||
				!slices.ContainsFunc(n.o.Limits, func(l RateLimit) bool { return l.Name == e.Name })) {
				refs = cmp.Or(refs, "InvalidKind")
			}
		}
	}
	for _, rule := range r.Rules {
		filters(rule.Filters)
		for _, b := range rule.Backends {
			refs = cmp.Or(refs, n.backend(r, b))
			filters(b.Filters)
		}
	}
	parents := 0
	for i, p := range r.Parents {
		g, why := n.attaches(r, p)
		if g == nil {
			continue // to anything else there is no entry
		}
		wrong := ""
		for _, step := range []string{"NoMatchingParent", "NotAllowedByListeners", "NoMatchingListenerHostname", "Accepted"} {
			if slices.Contains(why, step) {
				wrong = step // of the listener where it came farthest
			}
		}
		some, all := n.dropped(r)
		if wrong == "Accepted" {
			if wrong = ""; all {
				wrong = "UnsupportedValue"
			}
		}
		conditions := []string{truth("Accepted", wrong, "Accepted"), truth("ResolvedRefs", refs, "ResolvedRefs")}
		if some && !all {
			conditions = append(conditions, "PartiallyInvalid=True/UnsupportedValue")
		}
		out[fmt.Sprintf("route %s parent %d", r.Name, parents)] = fmt.Sprintln(r.Parents[i], "countersign.dev/gateway", told(r.Generation, conditions...))
		parents++
	}
	out["route "+r.String()] = fmt.Sprint(parents)
}

// backend is the table of 8.1. Consent is asked for first, so that nobody learns what another namespace has.
func (n naiveWorld) backend(r *HTTPRoute, b Backend) string {
	service := b.Kind == Kind{"", "Service"}
	switch {
	case !service && b.Kind != Kind{"networking.istio.io", "Hostname"}:
		return "InvalidKind"
	case b.Namespace != r.Namespace && !n.granted(r.Namespace, "HTTPRoute", b.Ref):
		return "RefNotPermitted"
	case b.Port == 0:
		return "BackendNotFound"
	}
	for _, s := range n.o.Services {
		if !service || s.Name != b.Ref.Name {
			continue
		}
		for _, p := range s.Ports {
			tls := p.AppProtocol == "https" || p.AppProtocol == "kubernetes.io/wss"
			switch {
			case p.Port != b.Port:
			case !s.Plaintext, tls:
				return "UnsupportedProtocol"
			default:
				return ""
			}
		}
		return "BackendNotFound"
	}
	return map[Backing]string{NoService: "BackendNotFound", NoPort: "BackendNotFound", NotHTTP: "UnsupportedProtocol"}[n.f.Backend(b.Ref, b.Port)]
}
