package server

import "testing"

// A Gateway that no node can ever serve says so, and does not wait for one.
func TestGatewayUnservable(t *testing.T) {
	r := newPlace(t).run()
	r.applied(edgeDoc("Gateway", "edge.eu", "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}"))
	got, o := r.shownOf("Gateway", "edge.eu")
	if c := conditionIn(statusOf(t, o).Status.Conditions, "Programmed"); got != "False: NameNotUsable" || c.Reason != "NameNotUsable" {
		t.Errorf("got %q\n%s", got, o.YAML)
	}
}
