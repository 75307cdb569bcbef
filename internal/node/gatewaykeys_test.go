package node

import (
	"slices"
	"testing"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/route"
)

// A Gateway never goes on with a key that a program had, nor a program with a Gateway's: the Workload changed hands,
// though its name and identity did not.
func TestSecKeyOfAGatewayIsItsOwn(t *testing.T) {
	program := entry.Entry{Namespace: "shop", Name: "edge", ServiceAccount: "edge", Revision: 1, Sets: [][]string{{"unix:uid:1001"}}}
	gateway, other := program, program
	gateway.Revision, gateway.Sets = 2, [][]string{{"gateway:shop/edge"}}
	other.Revision, other.Sets = 2, [][]string{{"unix:uid:1002"}}
	held := func(from, to entry.Entry) *svid {
		s := newSVIDs(&Node{})
		v := &svid{entry: from, renew: time.Now().Add(time.Hour)}
		v.NotAfter = time.Now().Add(2 * time.Hour)
		s.by["shop/edge"] = v
		s.keepOnly([]entry.Entry{to})
		return s.current("shop/edge")
	}
	if held(program, gateway) != nil || held(gateway, program) != nil {
		t.Error("the key of the one serves the other")
	}
	switch v := held(program, other); {
	case v == nil:
		t.Error("a Workload with other selectors has no SVID until somebody asks")
	case v.renew.After(time.Now()):
		t.Error("a Workload with other selectors keeps the key of those before")
	}
	if v := held(gateway, gateway); v == nil || !v.renew.After(time.Now()) {
		t.Error("a Gateway that did not change gets another key")
	}
}

// Of two Gateways that want one port the older has it, also when this node starts anew.
func TestSecOlderGatewayKeepsItsPort(t *testing.T) {
	at := func(ns, name string, age time.Duration) *route.Gateway {
		return &route.Gateway{Meta: route.Meta{Name: route.Name{Namespace: ns, Name: name}, Created: time.Unix(0, 0).Add(-age)}}
	}
	thief, edge := at("aaa", "thief", 0), at("shop", "edge", time.Hour)
	keys := []doorKey{{gateway: thief.Name, port: 80}, {gateway: edge.Name, port: 443}, {gateway: edge.Name, port: 80}}
	slices.SortFunc(keys, olderFirst([]*route.Gateway{thief, edge}))
	want := []doorKey{{gateway: edge.Name, port: 80}, {gateway: edge.Name, port: 443}, {gateway: thief.Name, port: 80}}
	if !slices.Equal(keys, want) {
		t.Errorf("opened in the order %v", keys)
	}
}
