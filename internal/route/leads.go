package route

import "slices"

// Leads says to which services the routes of each Gateway lead, and which routes: what a request may reach that one of
// their rules takes.
func Leads(o Objects, f Facts) map[Name]map[Name][]Name {
	out := map[Name]map[Name][]Name{}
	for _, at := range Attach(o) {
		to := out[at.Gateway]
		if to == nil {
			to = map[Name][]Name{}
			out[at.Gateway] = to
		}
		for _, e := range at.Routes {
			for i := range e.Route.Rules {
				for j := range e.Route.Rules[i].Backends {
					b := &e.Route.Rules[i].Backends[j]
					if b.Weight == 0 || slices.Contains(to[b.Ref.Name], e.Route.Name) || ResolveBackend(e.Route, b, o.Grants, f) != (Refusal{}) {
						continue
					}
					to[b.Ref.Name] = append(to[b.Ref.Name], e.Route.Name)
				}
			}
		}
	}
	return out
}
