package server

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/snapshot"
)

// why says what would happen to one call, or with an ID what became of a request to the token
// service.
func (s *Server) why(_ context.Context, r admin.WhyRequest) (admin.Why, error) {
	if r.ID != "" {
		return s.whyIssue(r.ID)
	}
	from, err := admin.ParseName(r.From, r.Namespace, false)
	if err != nil {
		return admin.Why{}, err
	}
	to, err := admin.ParseName(r.To, r.Namespace, false)
	if err != nil {
		return admin.Why{}, err
	}
	if err := s.ours(from, to); err != nil {
		return admin.Why{}, err
	}
	method, target, ok := strings.Cut(strings.TrimSpace(r.Request), " ")
	if !ok || !strings.HasPrefix(target, "/") || strings.ContainsAny(target, "*{}") {
		return admin.Why{}, &admin.Problem{Code: "bad_request", Exit: 2, Message: fmt.Sprintf("request %q is no 'METHOD PATH'", r.Request),
			Hints: []string{"put a real path there, such as /orders/17"}}
	}
	path, _, _, fault := h1.Normalize(target)
	if fault != nil {
		return admin.Why{Decision: audit.Deny, Layer: audit.LayerHTTP, Reason: fault.Reason, Nearest: []admin.Miss{},
			Lines: []string{"the path is refused before any policy: " + fault.Text}}, nil
	}
	v := s.world.load()
	dest, port := v.destination(to, r.Port)
	id, err := identity.ForWorkload(s.td, from.Namespace, v.account(from))
	if err != nil {
		return admin.Why{}, err
	}
	host := r.Host
	if host == "" {
		host = to.Name
	}
	peer := policy.ParsePeer(id.String(), s.td.Name())
	inForce := r.Namespace
	if inForce == "" {
		inForce = "default"
	}
	w := admin.Why{
		Call:           admin.Call{From: admin.Bare(from.Namespace, from.Name, inForce), To: admin.Bare(to.Namespace, to.Name, inForce), Method: strings.ToUpper(method), Path: path, Host: host, Port: port},
		Peer:           &admin.PeerFacts{SPIFFEID: id.String()},
		PolicyRevision: v.Mesh.PolicyRevision, Revision: v.Revision,
	}
	admin.Explain(&w, admin.Asked{
		Set: v.set(), Compiled: v.compiled, Dest: dest,
		Conn:    policy.Conn{Peer: &peer, Port: port, HTTP: true},
		Request: policy.Request{Method: w.Call.Method, Host: host, Path: path, Wide: h1.Wide(path), Scheme: "https"},
		From:    w.Call.From, To: w.Call.To,
	})
	return w, nil
}

func (v *view) set() policy.Set {
	s := policy.Set{TrustDomain: v.Mesh.TrustDomain, RootNamespace: v.Mesh.RootNamespace, DefaultMode: policy.Strict, Policies: v.Policies, PeerAuth: v.PeerAuth}
	s.Revision = v.compiled.Revision()
	return s
}

// destination is what policy knows of a workload, also of one that has never run, and the
// port of it that is meant.
func (v *view) destination(n admin.Name, port string) (policy.Destination, uint16) {
	d := policy.Destination{Namespace: n.Namespace, ServiceAccount: n.Name, Labels: map[string]string{"app": n.Name}}
	if e, ok := v.named(n); ok {
		d.ServiceAccount, d.Labels, d.Gateway = e.ServiceAccount, e.Labels, e.OfGateway()
	}
	if p, err := strconv.ParseUint(port, 10, 16); err == nil {
		return d, uint16(p)
	}
	for _, svc := range v.Services {
		if svc.Namespace == n.Namespace && svc.Name == n.Name && len(svc.Ports) > 0 {
			return d, svc.Ports[0].Target
		}
	}
	return d, 80
}

type enforcedRequest struct {
	Revision int64 `json:"revision"`
	WaitMS   int64 `json:"wait_ms"`
}

// enforced waits until every node enforces a revision.
func (s *Server) enforced(ctx context.Context, r enforcedRequest) (admin.Enforcement, error) {
	return s.wait(ctx, r.Revision, time.Duration(r.WaitMS)*time.Millisecond), nil
}

func (s *Server) status(ctx context.Context, _ struct{}) (admin.ServerStatus, error) {
	v := s.world.load()
	st, err := s.o.Store.Status(ctx)
	if err != nil {
		return admin.ServerStatus{}, fmt.Errorf("asking the store: %w", err)
	}
	authorities, err := s.authorities(ctx, struct{}{})
	if err != nil {
		return admin.ServerStatus{}, err
	}
	out := admin.ServerStatus{
		Watch:       s.watchStatus(),
		TrustDomain: s.td.Name(), Version: s.o.Version, Started: s.started.UTC(), Revision: v.Revision,
		Nodes: []admin.NodeStatus{}, Authorities: authorities.Authorities, Workloads: []admin.Workload{},
		Store: admin.StoreStatus{Kind: "embedded", Members: st.Members, SizeBytes: st.Size},
	}
	for _, name := range slices.Sorted(maps.Keys(v.nodes)) {
		a := s.nodes.state(name)
		out.Nodes = append(out.Nodes, admin.NodeStatus{
			Name: name, InTouch: a.streams > 0, EnforcedRevision: a.enforced, Inbound: v.nodes[name].Inbound,
			Engine: "safe", LastSeen: a.seen.UTC(), Refused: a.refused,
		})
	}
	for _, e := range v.Entries {
		w := admin.Workload{Namespace: e.Namespace, Name: e.Name, SPIFFEID: workloadID(s.td, e)}
		w.Instances, w.State = v.running(w.SPIFFEID)
		out.Workloads = append(out.Workloads, w)
	}
	for i := range v.Edge.Services {
		if svc := &v.Edge.Services[i]; svc.Plaintext {
			out.Plaintext = append(out.Plaintext, svc.String())
		}
	}
	out.Gateways = s.gatewayStates()
	return out, nil
}

// running counts the instances of an identity and gives the best state among them.
func (v *view) running(id string) (n int, state string) {
	rank := map[string]int{"": 0, snapshot.Draining: 1, snapshot.Unready: 2, snapshot.Starting: 3, snapshot.Ready: 4}
	for _, i := range v.Instances {
		if i.Owner != id {
			continue
		}
		n++
		if rank[i.State] > rank[state] {
			state = i.State
		}
	}
	return n, state
}

type authorities struct {
	Authorities []admin.Authority `json:"authorities"`
}

func (s *Server) authorities(context.Context, struct{}) (authorities, error) {
	out := authorities{Authorities: []admin.Authority{}}
	late, of := s.laggards(1)
	for _, a := range s.ca.Status() {
		row := admin.Authority{
			Kind: a.Kind, KeyID: a.KeyID, State: a.State, NotBefore: a.NotBefore, NotAfter: a.NotAfter, Server: a.Server,
			Acknowledged: of - len(late), Of: of,
		}
		if !a.RenewAt.IsZero() {
			row.Next = &admin.Next{State: "renewed", At: a.RenewAt}
		}
		out.Authorities = append(out.Authorities, row)
	}
	return out, nil
}

type rootsRequest struct {
	Format string `json:"format"` // pem or spiffe
}

type rootsReply struct {
	Text string `json:"text"`
}

// roots gives what outsiders need to believe our certificates; it holds no secret.
func (s *Server) roots(_ context.Context, r rootsRequest) (rootsReply, error) {
	b := s.ca.Bundle()
	switch r.Format {
	case "", "pem":
		var out strings.Builder
		for _, root := range b.Roots {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
		}
		return rootsReply{Text: out.String()}, nil
	case "spiffe":
		j, err := b.JSON()
		return rootsReply{Text: string(j) + "\n"}, err
	}
	return rootsReply{}, &admin.Problem{Code: "usage", Exit: 2, Message: fmt.Sprintf("format %q is not known", r.Format), Hints: []string{"countersign ca root --format pem", "countersign ca root --format spiffe"}}
}

// PolicyRevision is the policy in force, 64 hex digits.
func (s *Server) PolicyRevision() string {
	rev := s.world.load().compiled.Revision()
	return hex.EncodeToString(rev[:])
}

// Workloads counts the registration entries.
func (s *Server) Workloads() int { return len(s.world.load().Entries) }
