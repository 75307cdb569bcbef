package policy

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
)

// fuzzed is what a stranger's request comes to.
type fuzzed struct {
	ID        string
	Namespace string
	Port      uint16
	HTTP      bool
	Request   Request
	Claims    map[string]any // nil: no token
	Own       bool
}

// request gives what the parser of messages and the token step hand over: header names in
// their spelling, a scheme, claims of the right types.
func (in *fuzzed) request() *Request {
	r := in.Request
	header := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, line := range r.Header[name] {
			header.Add(name, line)
		}
	}
	r.Header, r.Scheme = header, cmp.Or(r.Scheme, "http")
	if in.Claims != nil {
		r.Token = newCard(in.Claims, in.Own)
	}
	return &r
}

// FuzzDecide: whatever set of policies, the engine never panics, says what the reference
// says, and explains what it said.
func FuzzDecide(f *testing.F) {
	m := newMaker(4)
	for range 20 {
		set, _ := json.Marshal(m.set())
		c := m.conn()
		in := fuzzed{Namespace: "shop", Port: c.Port, HTTP: c.HTTP, Request: m.request()}
		if c.Peer != nil {
			in.ID = c.Peer.Principal
		}
		if t, ok := in.Request.Token.(*card); ok {
			in.Claims, in.Own, in.Request.Token = t.Claims, t.Own, nil
		}
		ask, _ := json.Marshal(in)
		f.Add(set, ask)
	}
	f.Add([]byte(`{"policies":[{"namespace":"shop","name":"x","action":"AUDIT"},{"namespace":"shop","name":"x","rules":[{"from":[{}],"to":[{}]}]}]}`), []byte(`{"HTTP":true}`))
	f.Fuzz(func(t *testing.T, policies, request []byte) {
		var set Set
		var in fuzzed
		if json.Unmarshal(policies, &set) != nil || json.Unmarshal(request, &in) != nil || len(policies)+len(request) > 8<<10 {
			return
		}
		compiled, _ := Compile(set)
		program := compiled.For(Destination{Namespace: in.Namespace, Labels: map[string]string{"app": "web"}})
		program.Mode(in.Port)
		ref := naive{set: set}
		c := Conn{Port: in.Port, HTTP: in.HTTP}
		if in.ID != "" && validID(in.ID) {
			p := ParsePeer(in.ID, ref.domain())
			c.Peer = &p
			program.May(p, []uint16{in.Port})
		}
		bound := program.Bind(c)
		q := in.request()
		got := bound.Decide(q)
		if e := program.Explain(c, q); e.Verdict != got {
			t.Errorf("explained as %+v, decided %+v", e.Verdict, got)
		}
		for i := range set.Policies {
			Say(set.Policies[i])
			switch set.Policies[i].Action {
			case Allow, Deny, "":
			default:
				return // the reference knows no other action
			}
		}
		if want := ref.decide(Destination{Namespace: in.Namespace, Labels: map[string]string{"app": "web"}}, c, *q); !sameAnswer(got, want) {
			t.Errorf("engine %+v, reference %+v\n%s\n%s", got, want, policies, request)
		}
	})
}

// validID holds the alphabet of SPIFFE-ID section 2; nothing else passes the handshake.
func validID(id string) bool {
	for i := range len(id) {
		if c := id[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == '/') {
			return false
		}
	}
	return true
}
