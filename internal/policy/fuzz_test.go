package policy

import (
	"encoding/json"
	"testing"
)

// fuzzed is what a stranger's request comes to.
type fuzzed struct {
	ID        string
	Namespace string
	Port      uint16
	HTTP      bool
	Request   Request
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
		got := bound.Decide(&in.Request)
		if e := program.Explain(c, &in.Request); e.Verdict != got {
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
		if want := ref.decide(Destination{Namespace: in.Namespace, Labels: map[string]string{"app": "web"}}, c, in.Request); !sameAnswer(got, want) {
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
