//go:build unix

package proxy

import (
	"testing"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
)

// BenchmarkDoor is a Gateway, a service and the two hops between: with a caller's JWT that ends at the door, and with
// an edge token in its place that the service verifies.
func BenchmarkDoor(b *testing.B) {
	for name, uses := range map[string][]grant.Use{"token ends": {grant.UseRequest}, "edge token": subjects} {
		b.Run(name, func(b *testing.B) {
			h, _ := newEdge(b, setup{}, uses, toAPI())
			h.allow = []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/edge"}}}}}
			h.admit(policy.Rule{From: []policy.Source{{RequestPrincipals: []string{foreignID + "/*"}}}})
			h.retarget(cannedProgram(b))
			h.change(func(s *State) {
				svc := *s.Services[ServiceKey{"default", "api"}]
				svc.Audience = apiID
				s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
			})
			drive(b, h.http, "GET /orders HTTP/1.1\r\nHost: shop.test\r\n"+bearerLine(h.id.foreign())+"\r\n"+benchFields, 16)
		})
	}
}
