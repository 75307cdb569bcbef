package server

import (
	"fmt"
	"slices"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// gateway finds the Gateway of our class that has the identity of a service account.
func (v *view) gateway(namespace, account string) *route.Gateway {
	for _, g := range v.Edge.Ours() {
		if g.Namespace == namespace && g.Name.Name == account {
			return g
		}
	}
	return nil
}

// reserved is the test for names that no certificate of a Gateway has.
func (v *view) reserved() func(string) bool {
	return snapshot.Reserved(v.Mesh.TrustDomain, v.World.Tokens, slices.Values(v.Services))
}

// impersonators refuses a Workload that would give the identity of a Gateway to a program, whichever of the two is
// older.
func impersonators(b batch, then map[string]catalog.Record, v *view) error {
	for _, e := range v.Entries {
		g := v.gateway(e.Namespace, e.ServiceAccount)
		if g == nil || e.OfGateway() {
			continue
		}
		at := then[catalog.Key("Workload", e.Namespace, e.Name)]
		fault := resource.Fault{
			Code: noConsent, Resource: at.ID(), Field: "spec.selectors", Severity: resource.Error,
			Text: fmt.Sprintf("it has the identity of Gateway %s: nothing but the Gateway may earn that", g), Hint: "name the Gateway or the service account otherwise",
			File: at.Places.File, Line: at.Places.Line, Column: at.Places.Col,
		}
		return &admin.Problem{Code: "faults", Message: b.doing + ": 1 fault; nothing was changed", Faults: []resource.Fault{fault}}
	}
	return nil
}

// knows reports whether there is a bundle of a trust domain, by which SVIDs of callers can be verified.
func (v *view) knows(trustDomain string) bool { return len(v.Bundles[trustDomain]) > 0 }
