package server

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/control"
	"countersign.dev/internal/route"
)

func edgeDoc(kind, name, spec string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: default}\nspec: " + spec + "\n---\n"
}

// shownOf is one object as get shows it: its column READY, and what it says.
func (r *running) shownOf(kind, name string) (ready string, o admin.Object) {
	r.t.Helper()
	list, err := r.objects(r.t.Context(), admin.Query{Kind: kind, Namespace: "default", Names: []string{name}})
	if err != nil || len(list.Objects) != 1 {
		r.t.Fatalf("%s %s: %+v, %v", kind, name, list, err)
	}
	o = list.Objects[0]
	if n := len(o.Columns); n > 0 {
		ready = o.Columns[n-1]
	}
	return ready, o
}

// untilShown waits for a column READY; what a node enforces comes by itself.
func (r *running) untilShown(kind, name, want string) admin.Object {
	r.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		moved := r.Server.nodes.changed()
		got, o := r.shownOf(kind, name)
		if got == want {
			return o
		}
		select {
		case <-moved:
		case <-timeout:
			r.t.Fatalf("%s %s is %q, want %q\n%s", kind, name, got, want, o.YAML)
		}
	}
}

type shownStatus struct {
	Metadata struct{ Generation int64 }
	Status   struct {
		Addresses         []addressJSON
		SupportedFeatures []featureJSON
		Conditions        []conditionJSON
		Listeners         []listenerJSON
		Parents           []parentJSON
	}
}

func statusOf(t *testing.T, o admin.Object) (s shownStatus) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.JSON), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func conditionIn(list []conditionJSON, kind string) conditionJSON {
	for _, c := range list {
		if c.Type == kind {
			return c
		}
	}
	return conditionJSON{}
}

func ensureGateway(name string) *control.ReportRequest {
	return &control.ReportRequest{What: &control.ReportRequest_Ensure{Ensure: &control.Ensure{Namespace: "default", Name: name, Gateway: true}}}
}

func (r *running) says(c *control.Client, revision int64, ports ...*control.GatewayPort) error {
	_, err := c.Report(r.t.Context(), &control.ReportRequest{What: &control.ReportRequest_Gateways{Gateways: &control.GatewayState{Revision: revision, Ports: ports}}})
	return err
}

func edgePort(port uint32, bound bool, text string) *control.GatewayPort {
	p := &control.GatewayPort{Namespace: "default", Name: "edge", Port: port, Bound: bound, Text: text}
	if bound {
		p.Addresses = []string{"127.0.0.1", "::1"}
	}
	return p
}

func edgeNowhere(port uint32, reason, text string) *control.GatewayPort {
	p := edgePort(port, false, text)
	p.Reason = reason
	return p
}

// A Gateway is ready once a node has its port open, a route once its backend is there; both say so in the form of the
// Gateway API, and apply takes that back.
func TestGatewayStatus(t *testing.T) {
	r := newPlace(t).run()
	a := r.join("a", true)
	c, cut := a.attach()
	rev := r.applied(
		"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: own}\nspec: {controllerName: countersign.dev/gateway}\n---\n" +
			edgeDoc("Gateway", "edge", "{gatewayClassName: own, listeners: [{name: web, port: 8080, protocol: HTTP}, {name: raw, port: 9000, protocol: TCP}, {name: two, port: 8081, protocol: HTTP}]}") +
			edgeDoc("Gateway", "else", "{gatewayClassName: other, listeners: [{name: web, port: 80, protocol: HTTP}]}") +
			edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: edge, sectionName: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}") +
			edgeDoc("HTTPRoute", "lost", "{parentRefs: [{name: else}]}"),
	).Revision
	r.untilShown("Gateway", "edge", "False: Pending")
	if got, o := r.shownOf("Gateway", "else"); got != "False: no class of countersign" || strings.Contains(o.JSON, `"status"`) {
		t.Errorf("a Gateway of another class is %q\n%s", got, o.JSON)
	}
	if got, o := r.shownOf("HTTPRoute", "lost"); got != "False: no parent of countersign" || !strings.Contains(o.JSON, `"status":{"parents":[]}`) {
		t.Errorf("a route of another Gateway is %q\n%s", got, o.JSON)
	}
	_, class := r.shownOf("GatewayClass", "own")
	if s := statusOf(t, class); len(s.Status.SupportedFeatures) != len(features) || conditionIn(s.Status.Conditions, "Accepted").Status != "True" {
		t.Errorf("the class is\n%s", class.YAML)
	}

	// Nothing counts of a port before the node has the identity of the Gateway.
	bound := []*control.GatewayPort{edgePort(8080, true, ""), edgePort(8081, false, "is in use by another program")}
	if err := r.says(c, rev, bound...); err != nil {
		t.Fatal(err)
	}
	r.untilShown("Gateway", "edge", "False: Pending")
	if _, err := c.Report(t.Context(), ensureGateway("edge")); err != nil {
		t.Fatal(err)
	}
	r.untilShown("Gateway", "edge", "True")

	// What was said of an older Gateway counts no more, nor does a port that nothing was said of.
	for _, k := range []struct {
		what     string
		revision int64
		ports    []*control.GatewayPort
		want     string
	}{
		{"before the Gateway was", rev - 1, bound, "False: Pending"},
		{"not tried yet", rev, []*control.GatewayPort{edgePort(8080, false, "")}, "False: Pending"},
		{"all taken", rev, []*control.GatewayPort{edgePort(8080, false, "is taken"), edgePort(8081, false, "is taken")}, "False: Invalid"},
		{"no address", rev, []*control.GatewayPort{edgeNowhere(8080, "AddressNotAssigned", "no address is free")}, "False: AddressNotAssigned"},
		{"one open", rev, bound, "True"},
	} {
		if err := r.says(c, k.revision, k.ports...); err != nil {
			t.Fatal(err)
		}
		if got, o := r.shownOf("Gateway", "edge"); got != k.want {
			t.Errorf("%s: got %q, want %q\n%s", k.what, got, k.want, o.YAML)
		}
	}
	v := r.world.load()
	if f := r.gatewayFacts(v, v.gateway("default", "edge"), v.Revision+1); f.Live || len(f.Ports) > 0 || len(f.Addresses) > 0 {
		t.Errorf("a node that is behind serves %+v", f)
	}
	_, o := r.shownOf("Gateway", "edge")
	s := statusOf(t, o)
	if len(s.Status.Addresses) != 2 || s.Status.Addresses[0] != (addressJSON{"IPAddress", "127.0.0.1"}) {
		t.Errorf("addresses are %v", s.Status.Addresses)
	}
	if !strings.Contains(o.JSON, `"supportedKinds":[]`) || strings.Contains(o.JSON, "null") {
		t.Errorf("a list is not there:\n%s", o.JSON)
	}
	for i, want := range []struct {
		name, accepted, programmed string
		routes                     int
	}{{"web", "Accepted", "Programmed", 1}, {"raw", "UnsupportedProtocol", "Invalid", 0}, {"two", "PortUnavailable", "Invalid", 0}} {
		l := s.Status.Listeners[i]
		if l.Name != want.name || l.AttachedRoutes != want.routes || conditionIn(l.Conditions, "Accepted").Reason != want.accepted || conditionIn(l.Conditions, "Programmed").Reason != want.programmed {
			t.Errorf("listener %d is %+v, want %+v", i, l, want)
		}
	}
	if got := conditionIn(s.Status.Listeners[2].Conditions, "Accepted").Message; got != "port 8081 is in use by another program" {
		t.Errorf("a taken port says %q", got)
	}
	if got := conditionIn(s.Status.Conditions, "Accepted"); got.ObservedGeneration != s.Metadata.Generation || got.ObservedGeneration != 1 || got.LastTransitionTime == "" {
		t.Errorf("generation %d, condition %+v, revision %d", s.Metadata.Generation, got, rev)
	}

	// The route waits for its backend.
	o = r.untilShown("HTTPRoute", "shop", "False: BackendNotFound")
	if s := statusOf(t, o); len(s.Status.Parents) != 1 || s.Status.Parents[0].ControllerName != "countersign.dev/gateway" ||
		s.Status.Parents[0].ParentRef != (parentRefJSON{"gateway.networking.k8s.io", "Gateway", "default", "edge", "web", 0}) {
		t.Errorf("the route is\n%s", o.YAML)
	}
	if _, err := c.Report(t.Context(), ensure("default", "web", "", 1000)); err != nil {
		t.Fatal(err)
	}
	svid, err := a.svid(c, "default/web")
	if err != nil {
		t.Fatal(err)
	}
	up, err := c.Report(t.Context(), upOf(t, c, "i1", "default/web", svid))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.world.waitFor(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	// An instance that came is no new object: the Gateway was ready all the time.
	if got, o := r.shownOf("Gateway", "edge"); got != "True" {
		t.Errorf("with the service: %q\n%s", got, o.YAML)
	}
	r.untilShown("HTTPRoute", "shop", "True")

	for _, ref := range [][2]string{{"GatewayClass", "own"}, {"Gateway", "edge"}, {"HTTPRoute", "shop"}} {
		_, o := r.shownOf(ref[0], ref[1])
		for _, text := range []string{o.YAML, o.JSON} {
			if reply := r.applied(text); reply.Objects[0].Result != catalog.Unchanged {
				t.Errorf("%s %s by way of\n%s\nis %+v", ref[0], ref[1], text, reply.Objects)
			}
		}
	}

	// A node that is gone has no port open.
	cut()
	o = r.untilShown("Gateway", "edge", "False: Pending")
	if s := statusOf(t, o); len(s.Status.Addresses) != 0 {
		t.Errorf("addresses of a node that is gone: %v", s.Status.Addresses)
	}
	a.attach() // and one that came back says so anew
	if got, _ := r.shownOf("Gateway", "edge"); got != "False: Pending" {
		t.Errorf("attached, nothing said: %q", got)
	}
}

// TestSecGatewayPortsOfOthers: a node that may not serve a Gateway says nothing of it that counts.
func TestSecGatewayPortsOfOthers(t *testing.T) {
	r := newPlace(t).run()
	a, b := r.join("a", true), r.join("b", true)
	ca, _ := a.attach()
	cb, _ := b.attach()
	rev := r.applied(edgeDoc("Gateway", "edge", "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}")).Revision
	if _, err := ca.Report(t.Context(), ensureGateway("edge")); err != nil {
		t.Fatal(err)
	}
	if err := r.says(ca, rev, edgePort(8080, false, "")); err != nil {
		t.Fatal(err)
	}
	if e := r.wait(t.Context(), rev, 10*time.Second); e.Nodes != 2 {
		t.Fatalf("%+v", e)
	}
	for _, p := range []*control.GatewayPort{edgePort(8080, true, ""), edgePort(8080, false, "is mine")} {
		if err := r.says(cb, rev, p); err != nil {
			t.Fatal(err)
		}
		if got, o := r.shownOf("Gateway", "edge"); got != "False: Pending" || strings.Contains(o.JSON, "127.0.0.1") || strings.Contains(o.JSON, "is mine") {
			t.Errorf("%v of b: %q\n%s", p, got, o.YAML)
		}
	}
}

// What a node says of ports is bounded, and heard of a node in touch alone.
func TestGatewayStateRefused(t *testing.T) {
	r := newPlace(t).run()
	a := r.join("a", true)
	c, cut := a.attach()
	many := make([]*control.GatewayPort, maxGatewayPorts+1)
	for i := range many {
		many[i] = edgePort(80, true, "")
	}
	for _, k := range []struct {
		what  string
		ports []*control.GatewayPort
		want  string
	}{
		{"port 0", []*control.GatewayPort{edgePort(0, true, "")}, "bad_report"},
		{"port 65536", []*control.GatewayPort{edgePort(65536, true, "")}, "bad_report"},
		{"the longest text", []*control.GatewayPort{edgePort(80, false, strings.Repeat("x", maxPortText))}, ""},
		{"a text too long", []*control.GatewayPort{edgePort(80, false, strings.Repeat("x", maxPortText+1))}, "bad_report"},
		{"the most ports", many[1:], ""},
		{"too many", many, "bad_report"},
		{"none", nil, ""},
	} {
		if err := r.says(c, 1, k.ports...); code(err) != k.want {
			t.Errorf("%s: got %v, want %q", k.what, err, k.want)
		}
	}
	cut()
	for r.inTouch("a") {
		<-r.Server.nodes.changed()
	}
	if _, err := (house{r.Server}).Report(context.Background(), "a", &control.ReportRequest{What: &control.ReportRequest_Gateways{Gateways: &control.GatewayState{}}}, nil); code(err) != "not_attached" {
		t.Errorf("of a node that is gone: %v", err)
	}
}

// A time of transition is that of the status word, of each listener and parent by itself.
func TestCarriedTimes(t *testing.T) {
	was, now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	name := route.Name{Namespace: "default", Name: "x"}
	status := func(word string) route.Statuses {
		conditions := func() []route.Condition {
			return []route.Condition{{Type: "Accepted", Status: "True", Reason: word}, {Type: "Programmed", Status: word}}
		}
		return route.Statuses{
			Classes:  map[string]route.ClassStatus{"c": {Conditions: conditions()}},
			Gateways: map[route.Name]route.GatewayStatus{name: {Conditions: conditions(), Listeners: []route.ListenerStatus{{Name: "a", Conditions: conditions()}}}},
			Routes:   map[route.Name]route.RouteStatus{name: {Parents: []route.ParentStatus{{Parent: route.Parent{Section: "a"}, Conditions: conditions()}}}},
		}
	}
	first, second := status("True"), status("False")
	second.Gateways[name] = route.GatewayStatus{
		Conditions: second.Gateways[name].Conditions,
		Listeners:  append([]route.ListenerStatus{{Name: "new", Conditions: status("True").Classes["c"].Conditions}}, second.Gateways[name].Listeners...),
	}
	carry(route.Statuses{}, first, was)
	carry(first, second, now)
	for what, got := range map[string][]route.Condition{
		"class": second.Classes["c"].Conditions, "gateway": second.Gateways[name].Conditions,
		"listener": second.Gateways[name].Listeners[1].Conditions, "parent": second.Routes[name].Parents[0].Conditions,
	} {
		if !got[0].LastTransitionTime.Equal(was) || !got[1].LastTransitionTime.Equal(now) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got := second.Gateways[name].Listeners[0].Conditions[0].LastTransitionTime; !got.Equal(now) {
		t.Errorf("a new listener: %v", got)
	}
}
