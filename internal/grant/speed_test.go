package grant_test

import (
	"fmt"
	"testing"

	"countersign.dev/internal/grant"
)

// large is a mesh of n clients, audiences and services.
func large(n int) grant.Objects {
	o := world()
	for i := range n {
		ns, name := fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("app-%d", i)
		id := "spiffe://example.com/ns/" + ns + "/sa/" + name
		o.Services = append(o.Services, grant.Service{Namespace: ns, Name: name})
		o.Audiences = append(o.Audiences, grant.Audience{Namespace: ns, Name: name, Service: name, Scopes: []grant.Scope{{Name: "read"}}})
		o.Clients = append(o.Clients, grant.Client{Namespace: ns, Name: name, ClientID: id, SPIFFEID: id, Auth: grant.AuthSPIFFE,
			Grants: []string{grant.GrantTokenExchange}, Targets: []grant.Target{{Audience: name, Scopes: []string{"read"}, Exchange: true}}})
		o.Delegations = append(o.Delegations, grant.Delegation{Namespace: ns, Name: name, Actors: []string{"*"}, Audiences: []string{name}})
	}
	return o
}

func BenchmarkNew(b *testing.B) {
	o := large(10_000)
	b.ReportAllocs()
	for b.Loop() {
		grant.New(o)
	}
}

// BenchmarkIssue is what one client_credentials request asks.
func BenchmarkIssue(b *testing.B) {
	d, _ := grant.New(large(10_000))
	audience, scopes := []string{"orders"}, []string{"orders:read"}
	for name, id := range map[string]string{"record": web, "implicit": bare} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c := d.ClientFor(id, id)
				r, err := d.Resolve(c, audience, nil)
				if err != nil {
					b.Fatal(err)
				}
				if !c.Implicit {
					if _, err = d.Scopes(c, r, scopes); err != nil {
						b.Fatal(err)
					}
				}
				if _, err = d.Binding(c, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDelegate(b *testing.B) {
	d, _ := grant.New(large(10_000))
	c := d.ClientFor(orders, orders)
	target, err := d.Resolve(c, []string{"payments"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	e := grant.Exchange{Client: c, Actor: orders, Subject: "corp:7f3b", SubjectIssuer: corp, Origin: "oidc", Target: target,
		SubjectScopes: []string{"payments:create"}, Scopes: []string{"payments:create"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Delegate(e); err != nil {
			b.Fatal(err)
		}
	}
}
