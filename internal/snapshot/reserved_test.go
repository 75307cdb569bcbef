package snapshot_test

import (
	"slices"
	"testing"

	"countersign.dev/internal/snapshot"
)

func TestSecReservedNames(t *testing.T) {
	services := slices.Values([]snapshot.Service{{Namespace: "shop", Name: "orders"}, {Namespace: "countersign", Name: "tokens"}})
	reserved := snapshot.Reserved("cluster.local", &snapshot.Tokens{Issuer: "https://auth.example:7444"}, services)
	for name, want := range map[string]bool{
		"orders": true, "orders.shop": true, "orders.shop.svc": true, "orders.shop.svc.cluster.local": true, "*.shop": true,
		"*.shop.svc": true, "*.svc": true, "*.svc.cluster.local": true, "tokens.countersign": true, "*.countersign": true,
		"auth.example": true, "*.example": true,
		"shop.test": false, "*.shop.test": false, "orders.example": false, "api": false, "svc.test": false,
	} {
		if got := reserved(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
