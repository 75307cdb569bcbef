package server

import (
	"fmt"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// held are the names of services that workloads serve or may serve (registry.md 10), each with who holds it.
func held(entries []entry.Entry, services []snapshot.Service) map[route.Name]string {
	out := map[route.Name]string{}
	for _, s := range services {
		out[route.Name{Namespace: s.Namespace, Name: s.Name}] = "a workload that ran"
	}
	for _, e := range entries {
		for _, name := range heldBy(e) {
			out[name] = "Workload/" + e.Namespace + "/" + e.Name
		}
	}
	return out
}

func heldBy(e entry.Entry) (out []route.Name) {
	for _, name := range append([]string{e.ServiceAccount}, e.Services...) {
		out = append(out, route.Name{Namespace: e.Namespace, Name: name})
	}
	return out
}

// heldNames refuses what would give endpoints without identity to a name that is a workload's, whichever of the two is
// older: callers of the mesh prove it (registry.md 13).
func (s *Server) heldNames(b batch, then map[string]catalog.Record, v *view) error {
	held := held(v.Entries, s.world.load().Services)
	var faults []resource.Fault
	for _, ch := range b.changes {
		at, ok := then[catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)]
		if !ok || ch.Remove {
			continue
		}
		fault := func(field, text, hint string) {
			faults = append(faults, resource.Fault{
				Code: noConsent, Resource: at.ID(), Field: field, Severity: resource.Error, Text: text, Hint: hint,
				File: at.Places.File, Line: at.Places.Line, Column: at.Places.Col,
			})
		}
		switch at.Kind {
		case "Service":
			if by := held[route.Name{Namespace: at.Namespace, Name: at.Name}]; by != "" {
				fault("metadata.name", fmt.Sprintf("the name is that of %s: endpoints without identity cannot take it", by), "choose another name")
			}
		case "EndpointSlice":
			e, err := resource.EndpointSlice(at.Object)
			if err != nil {
				return err
			}
			if by := held[route.Name{Namespace: e.Namespace, Name: e.Service}]; by != "" {
				fault("metadata.labels", fmt.Sprintf("service %q is that of %s: endpoints without identity cannot join it", e.Service, by), "name another service")
			}
		case "Workload":
			e, err := resource.Entry(at.Object, 0, 0)
			if err != nil {
				return err
			}
			for _, name := range heldBy(e) {
				if _, taken := v.foreign()[name]; taken {
					fault("spec", fmt.Sprintf("it would serve %s, which is a Service with endpoints outside the mesh", name), "countersign delete svc "+name.Name+" -n "+name.Namespace)
				}
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s: %s; nothing was changed", b.doing, count(len(faults), "fault")), Faults: faults}
}
