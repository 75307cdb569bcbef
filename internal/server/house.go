package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jwks"
	"countersign.dev/internal/registry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// nodeTTL is the life of a node's SVID.
const nodeTTL = 24 * time.Hour

// house is the server as nodes see it.
type house struct{ s *Server }

var _ control.House = house{}

func (h house) Roots() ([]byte, error) { return h.s.ca.Bundle().JSON() }

func (h house) World() (*snapshot.World, <-chan struct{}) {
	v, newer := h.s.world.watch()
	return v.World, newer
}

// Join redeems a code: one-time, but bound to the key, so that a lost reply burns nothing
// (identity.md 10.2). Every attempt is a record.
func (h house) Join(ctx context.Context, j control.Joining) (control.Joined, error) {
	name, joined, err := h.join(ctx, j)
	rec := &audit.Record{Kind: audit.KindAttest, Action: "join", Object: "node/" + name, Attestor: "token", Decision: audit.Allow, Layer: audit.LayerIssue, Result: audit.ResultOK}
	if err != nil {
		rec.Decision, rec.Reason, rec.Result = audit.Deny, "attestation_failed", audit.ResultRefused
	}
	if recErr := h.s.recorder.Record(ctx, rec); recErr != nil && err == nil {
		return control.Joined{}, fmt.Errorf("recording an attestation: %w", recErr)
	}
	return joined, err
}

func (h house) join(ctx context.Context, j control.Joining) (string, control.Joined, error) {
	csr, err := x509.ParseCertificateRequest(j.CSR)
	if err != nil {
		return "", control.Joined{}, &control.Refused{Code: "bad_csr", Text: "the certificate request cannot be read"}
	}
	spki := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	name, err := h.s.joins.Redeem(ctx, j.Secret, spki[:], time.Now())
	if err != nil {
		return "", control.Joined{}, joinRefusal(err)
	}
	if j.Name != "" && j.Name != name {
		return name, control.Joined{}, &control.Refused{Code: "node_name", Text: fmt.Sprintf("the join code is for node %q, not %q", name, j.Name)}
	}
	id, err := identity.ForNode(h.s.td, name)
	if err != nil {
		return name, control.Joined{}, &control.Refused{Code: "node_name", Text: err.Error()}
	}
	got, err := h.s.ca.Issue(ctx, ca.Request{Profile: ca.Node, ID: id, CSR: j.CSR, TTL: nodeTTL, Node: name})
	if err != nil {
		return name, control.Joined{}, fmt.Errorf("issuing the SVID of node %q: %w", name, err)
	}
	n := registry.Node{Name: name, ID: id.String(), Inbound: j.Inbound, Version: j.Version, Joined: time.Now().UTC()}
	if home := h.s.home.Load(); home != nil && *home == name {
		n.AutoRegister = []string{"*"}
	}
	rev, err := h.s.registry.SetNode(ctx, n)
	if err == nil {
		err = h.s.known(ctx, rev) // its first snapshot holds its own record
	}
	if err != nil {
		return name, control.Joined{}, err
	}
	bundle, err := h.s.ca.Bundle().JSON()
	if err != nil {
		return name, control.Joined{}, err
	}
	return name, control.Joined{Name: name, Chain: got.Chain, Bundle: bundle}, nil
}

func joinRefusal(err error) error {
	switch {
	case errors.Is(err, attest.ErrUnknown):
		return &control.Refused{Code: "token_unknown", Text: "the join code is not known here"}
	case errors.Is(err, attest.ErrExpired):
		return &control.Refused{Code: "token_expired", Text: "the join code has expired"}
	case errors.Is(err, attest.ErrSpent):
		return &control.Refused{Code: "token_spent", Text: "somebody else used this join code"}
	}
	return fmt.Errorf("redeeming a join code: %w", err)
}

// known waits until revision rev is known here, but not for one that may never come.
func (s *Server) known(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.world.waitFor(ctx, rev)
}

// Issue grants the SVID of one entry to a node that the entry admits, or the node its own.
func (h house) Issue(ctx context.Context, node string, w *control.Want) ([][]byte, error) {
	r := ca.Request{CSR: w.Csr, Node: node, Selectors: w.Selectors, Replaces: w.Replaces}
	if err := h.s.known(ctx, w.Revision); err != nil {
		return nil, err
	}
	if _, ok := h.s.world.load().nodes[node]; !ok {
		return nil, &control.Refused{Code: "node_unknown", Text: fmt.Sprintf("node %q is no node of this mesh any more", node)}
	}
	if w.Entry == "" {
		id, err := identity.ForNode(h.s.td, node)
		if err != nil {
			return nil, err
		}
		r.Profile, r.ID, r.TTL = ca.Node, id, nodeTTL
	} else if err := h.forEntry(&r, node, w.Entry); err != nil {
		return nil, err
	}
	got, err := h.s.ca.Issue(ctx, r)
	switch {
	case errors.Is(err, ca.ErrTooShort):
		return nil, &control.Refused{Code: "too_short", Text: fmt.Sprintf("%q ends too soon for another certificate", r.ID)}
	case errors.Is(err, ca.ErrCSR), errors.Is(err, ca.ErrRequest):
		return nil, &control.Refused{Code: "invalid_request", Text: fmt.Sprintf("the request for %q is refused: %v", r.ID, err)}
	case err != nil:
		return nil, fmt.Errorf("issuing an SVID for %q on node %q: %w", r.ID, node, err)
	}
	return got.Chain, nil
}

func (h house) forEntry(r *ca.Request, node, name string) error {
	v := h.s.world.load()
	e, ok := v.entry(name)
	if !ok {
		return &control.Refused{Code: "no_entry", Text: fmt.Sprintf("no Workload %q", name)}
	}
	if !entry.Admits(e, v.World.Nodes[node]) {
		return &control.Refused{Code: "node_not_admitted", Text: fmt.Sprintf("Workload %q does not admit node %q", name, node)}
	}
	if !e.Expires.IsZero() && !time.Now().Before(e.Expires) {
		return &control.Refused{Code: "entry_expired", Text: fmt.Sprintf("Workload %q expired %s", name, e.Expires.Format(time.DateOnly))}
	}
	id, err := identity.ForWorkload(h.s.td, e.Namespace, e.ServiceAccount)
	if err != nil {
		return err
	}
	r.Profile, r.ID, r.Entry, r.EntryRevision = ca.Workload, id, name, e.Revision
	r.TTL, r.NotAfter, r.DNSNames = e.TTL, e.Expires, e.DNSNames
	if g := v.gateway(e.Namespace, e.ServiceAccount); g != nil && e.OfGateway() {
		r.DNSNames = g.CertificateNames(v.reserved()) // written nowhere: they follow the Gateway
	}
	if r.TTL == 0 {
		r.TTL = h.s.o.SVIDTTL
	}
	return nil
}

// entry finds "namespace/name".
func (v *view) entry(name string) (entry.Entry, bool) {
	for _, e := range v.Entries {
		if e.Namespace+"/"+e.Name == name {
			return e, true
		}
	}
	return entry.Entry{}, false
}

// Report takes one report. The node is proven by its connection; what it says of others
// counts only as far as their own keys and entries bear it out.
func (h house) Report(ctx context.Context, node string, r *control.ReportRequest, exporter []byte) (int64, error) {
	switch what := r.What.(type) {
	case *control.ReportRequest_Ensure:
		return h.ensure(ctx, node, what.Ensure)
	case *control.ReportRequest_Up:
		return h.up(ctx, node, what.Up, exporter)
	case *control.ReportRequest_State:
		rev, err := h.s.registry.State(ctx, node, what.State.Id, what.State.State, time.Now())
		return rev, registryRefusal(err)
	case *control.ReportRequest_KeyMiss:
		if t := h.s.tokens; t != nil {
			t.keeper.Miss(jwks.Source{Issuer: what.KeyMiss.Issuer, URI: what.KeyMiss.Uri})
		}
		return 0, nil
	case *control.ReportRequest_Keys:
		return 0, h.keyUses(ctx, node, what.Keys)
	case *control.ReportRequest_Gateways:
		return 0, h.gateways(node, what.Gateways)
	case *control.ReportRequest_Gone:
		return h.s.registry.Gone(ctx, node, what.Gone.Id)
	}
	return 0, &control.Refused{Code: "bad_report", Text: "the report says nothing"}
}

func registryRefusal(err error) error {
	var r *registry.Refusal
	if errors.As(err, &r) {
		return &control.Refused{Code: r.Reason, Text: r.Text, Hint: r.Hint}
	}
	return err
}

// ensure makes a Workload that nobody has, for the node that asks (identity.md 12.5); an
// existing one never changes hands.
func (h house) ensure(ctx context.Context, node string, e *control.Ensure) (int64, error) {
	s := h.s
	s.writing.Lock()
	defer s.writing.Unlock()
	known, _, err := s.applied(ctx)
	if err != nil {
		return 0, err
	}
	name := e.Namespace + "/" + e.Name
	account := cmp.Or(e.ServiceAccount, e.Name)
	if has := s.world.load().gateway(e.Namespace, account) != nil; has != e.Gateway {
		if e.Gateway {
			return 0, &control.Refused{Code: "no_gateway", Text: fmt.Sprintf("no Gateway %q", name)}
		}
		return 0, &control.Refused{Code: "name_owned", Text: fmt.Sprintf("service account %q is that of Gateway %q", account, e.Namespace+"/"+account), Hint: "choose another name"}
	}
	if was, ok := known[catalog.Key("Workload", e.Namespace, e.Name)]; ok {
		return was.Last, owned(was, node, e)
	}
	if _, taken := known[catalog.Key("Service", e.Namespace, account)]; taken {
		return 0, &control.Refused{
			Code: "name_owned", Text: fmt.Sprintf("%q is a Service with endpoints outside the mesh", e.Namespace+"/"+account),
			Hint: fmt.Sprintf("choose another name, or: countersign delete svc %s -n %s", account, e.Namespace),
		}
	}
	if n, ok := s.world.load().nodes[node]; !ok || !n.MayRegister(e.Namespace) {
		return 0, &control.Refused{
			Code: "not_permitted", Text: fmt.Sprintf("no Workload %q, and node %q may not make one in namespace %q", name, node, e.Namespace),
			Hint: "apply a Workload " + name + " that admits this node",
		}
	}
	object := resource.WorkloadFor(e.Namespace, e.Name, e.ServiceAccount, node, e.Uid, e.Labels)
	if e.Gateway {
		object = resource.WorkloadForGateway(e.Namespace, e.Name, node)
	}
	if _, faults := resource.Decode([]resource.File{{Name: "run", Data: object.JSON}}, resource.Options{RootNamespace: s.meta.RootNamespace}); resource.Stops(faults) {
		return 0, &control.Refused{Code: "name_invalid", Text: fmt.Sprintf("workload %q: %s", name, faults[0].Text), Hint: faults[0].Hint}
	}
	plan, err := s.catalog.Prepare(known, []catalog.Change{{Object: object}}, time.Now())
	if err != nil {
		return 0, err
	}
	rec := &audit.Record{Kind: audit.KindRegistry, Action: "ensure", Object: "Workload/" + name, Actor: "node/" + node, Decision: audit.Allow, Layer: audit.LayerRegistry, Result: audit.ResultOK}
	if err := s.recorder.Record(ctx, rec); err != nil {
		return 0, fmt.Errorf("recording a new workload: %w", err)
	}
	rev, err := s.catalog.Commit(ctx, plan)
	if err != nil {
		return 0, err
	}
	return rev, s.known(ctx, rev)
}

// owned checks that an existing Workload is what this run asks for.
func owned(was catalog.Record, node string, e *control.Ensure) error {
	have, err := resource.Entry(was.Object, was.First, was.Last)
	if err != nil {
		return err
	}
	name := e.Namespace + "/" + e.Name
	uid := fmt.Sprintf("unix:uid:%d", e.Uid)
	others := func(set []string) bool {
		return slices.ContainsFunc(set, func(sel string) bool { return strings.HasPrefix(sel, "unix:uid:") && sel != uid })
	}
	switch {
	case e.Gateway && !have.OfGateway():
		return &control.Refused{Code: "name_owned", Text: fmt.Sprintf("workload %q is not earned by the Gateway alone", name), Hint: "countersign delete workload " + e.Name + " -n " + e.Namespace}
	case e.Gateway: // no user owns it
	case len(have.Sets) > 0 && !slices.ContainsFunc(have.Sets, func(set []string) bool { return !others(set) }):
		return &control.Refused{Code: "name_owned", Text: fmt.Sprintf("workload %q belongs to another user", name)}
	case !entry.Admits(have, []string{"node:name:" + node}):
		return &control.Refused{Code: "node_not_admitted", Text: fmt.Sprintf("workload %q may not run on node %q", name, node), Hint: "add [node:name:" + node + "] to nodes of Workload " + name}
	case e.ServiceAccount != "" && e.ServiceAccount != have.ServiceAccount:
		return &control.Refused{Code: "name_owned", Text: fmt.Sprintf("workload %q has service account %q, not %q", name, have.ServiceAccount, e.ServiceAccount), Hint: "countersign get workloads " + e.Name + " -n " + e.Namespace + " -o yaml"}
	}
	for k, v := range e.Labels {
		if have.Labels[k] != v {
			return &control.Refused{Code: "name_owned", Text: fmt.Sprintf("workload %q has no label %s=%s", name, k, v), Hint: "countersign get workloads " + e.Name + " -n " + e.Namespace + " -o yaml"}
		}
	}
	return nil
}

// up registers an instance by the owner's key.
func (h house) up(ctx context.Context, node string, u *control.Up, exporter []byte) (int64, error) {
	v := h.s.world.load()
	n, ok := v.nodes[node]
	e, known := v.entry(u.Entry)
	if !ok || !known {
		return 0, &control.Refused{Code: "identity_mismatch", Text: fmt.Sprintf("no Workload %q on node %q", u.Entry, node)}
	}
	claim := registry.Claim{
		Node: n, ID: u.Id, Entry: e, Selectors: v.World.Nodes[node], State: u.State,
		Signature: u.Signature, Signed: control.Registration(u.Id, exporter),
	}
	for _, der := range u.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return 0, &control.Refused{Code: "identity_mismatch", Text: "the owner's SVID cannot be read"}
		}
		claim.Chain = append(claim.Chain, c)
	}
	for _, p := range u.Ports {
		if p.Number > math.MaxUint16 || p.Target > math.MaxUint16 {
			return 0, &control.Refused{Code: "bad_report", Text: fmt.Sprintf("port %d to %d: a port is 1 to 65535", p.Number, p.Target)}
		}
		claim.Ports = append(claim.Ports, snapshot.Port{Number: uint16(p.Number), Target: uint16(p.Target), Protocol: p.Protocol})
	}
	rev, err := h.s.registry.Up(ctx, claim, h.s.trust(), time.Now())
	rec := &audit.Record{Kind: audit.KindRegistry, Action: "register", Object: "instance/" + node + "/" + u.Id, Actor: "node/" + node, Entry: u.Entry, Decision: audit.Allow, Layer: audit.LayerRegistry, Result: audit.ResultOK}
	var refused *registry.Refusal
	if errors.As(err, &refused) {
		rec.Decision, rec.Reason, rec.Result = audit.Deny, refused.Reason, audit.ResultRefused
	}
	h.s.recorder.Add(rec)
	return rev, registryRefusal(err)
}

// Watch keeps what is known of a node's stream; what follows from it is expire's.
func (h house) Watch(node string, e control.Event) { h.s.nodes.watch(node, e, time.Now()) }

// workloadID is the identity that an entry gives.
func workloadID(td spiffeid.TrustDomain, e entry.Entry) string {
	id, err := identity.ForWorkload(td, e.Namespace, e.ServiceAccount)
	if err != nil {
		return ""
	}
	return id.String()
}
