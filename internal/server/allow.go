package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

// allow writes the policy of one sentence: FROM may make REQUESTs at TO.
func (s *Server) allow(ctx context.Context, r admin.AllowRequest) (admin.ApplyReply, error) {
	from, err := admin.ParseName(r.From, r.Namespace, true)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	to, err := admin.ParseName(r.To, r.Namespace, false)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	if err := s.ours(from, to); err != nil {
		return admin.ApplyReply{}, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	v := s.world.load()
	object, err := s.sentence(r, from, to, known, v)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	reply, err := s.commit(ctx, batch{verb: "allow", doing: "allow", known: known, rev: rev, changes: []catalog.Change{{Object: object}}, dryRun: r.DryRun})
	if err != nil {
		return admin.ApplyReply{}, err
	}
	inForce := r.Namespace
	if inForce == "" {
		inForce = "default"
	}
	reply.Notes = unknownParties(v, from, to)
	if r.DryRun {
		y, err := resource.YAML(object, known[catalog.Key(object.Kind, object.Namespace, object.Name)].Created, "")
		reply.YAML = string(y)
		return reply, err
	}
	reply.Undo = "countersign delete ap " + object.Name
	if object.Namespace != inForce {
		reply.Undo += " -n " + object.Namespace
	}
	reply.Sentence, err = s.sayAllowed(object, from, to, inForce)
	return reply, err
}

// ours refuses SPIFFE IDs of other trust domains: an object that allow writes would speak of
// their namesakes here.
func (s *Server) ours(names ...admin.Name) error {
	for _, n := range names {
		if n.TrustDomain != "" && n.TrustDomain != s.td.Name() {
			return &admin.Problem{
				Code: "trust_domain", Exit: 2, Message: fmt.Sprintf("trust domain %q is not this mesh's, which is %q", n.TrustDomain, s.td.Name()),
				Hints: []string{"name a workload of this mesh, such as shop/api"},
			}
		}
	}
	return nil
}

// named finds the workload that a NAME means: by its name, or by its identity.
func (v *view) named(n admin.Name) (entry.Entry, bool) {
	if n.TrustDomain == "" {
		return v.entry(n.Namespace + "/" + n.Name)
	}
	for _, e := range v.Entries {
		if e.Namespace == n.Namespace && e.ServiceAccount == n.Name {
			return e, true
		}
	}
	return entry.Entry{}, false
}

// account is the service account that a NAME runs as.
func (v *view) account(n admin.Name) string {
	if e, ok := v.named(n); ok {
		return e.ServiceAccount
	}
	return n.Name
}

// sentence builds the object, or finds the one that says it already.
func (s *Server) sentence(r admin.AllowRequest, from, to admin.Name, known map[string]catalog.Record, v *view) (resource.Object, error) {
	a := resource.Allow{
		FromNamespace: from.Namespace, From: from.Name, ToNamespace: to.Namespace, To: to.Name,
		Requests: r.Requests, Ports: r.Ports, Hosts: r.Hosts, TrustDomain: s.td.Name(),
	}
	if from.Namespace == "" {
		a.FromNamespace = "*"
	}
	a.From = v.account(from)
	if e, ok := v.named(to); ok {
		a.ToLabels = e.Labels
	}
	find := func(name string) (resource.Object, bool) {
		rec, ok := known[catalog.Key("AuthorizationPolicy", to.Namespace, name)]
		return rec.Object, ok
	}
	_, existing, err := resource.AllowName(a, find)
	if err != nil {
		return resource.Object{}, allowProblem(r, err)
	}
	object, _, err := resource.BuildAllow(a, existing, func(name string) bool { _, ok := find(name); return ok })
	if err != nil {
		return resource.Object{}, allowProblem(r, err)
	}
	return object, nil
}

func allowProblem(r admin.AllowRequest, err error) error {
	var bad *resource.BadPattern
	switch {
	case errors.As(err, &bad):
		p := &admin.Problem{Code: "bad_pattern", Exit: 2, Message: bad.Text}
		if bad.Request != "" {
			p.Hints = []string{fmt.Sprintf("countersign allow %s %s %s", r.From, r.To, admin.ShellQuote(bad.Request))}
		} else if bad.Hint != "" {
			p.Hints = []string{bad.Hint}
		}
		return p
	case errors.Is(err, resource.ErrNotMine):
		return notMine(err)
	}
	return &admin.Problem{Code: "usage", Exit: 2, Message: err.Error(), Hints: []string{"countersign allow web api 'GET /orders/{*}'"}}
}

// unknownParties notes names that no workload has yet: policy may come before the program.
func unknownParties(v *view, names ...admin.Name) []string {
	var notes []string
	for _, n := range names {
		if n.Name == "*" {
			continue
		}
		if _, ok := v.named(n); ok {
			continue
		}
		note := fmt.Sprintf("no workload %q is known yet", admin.Bare(n.Namespace, n.Name, "default"))
		if i := slices.IndexFunc(v.Entries, func(e entry.Entry) bool { return e.Namespace == n.Namespace && slip(n.Name, e.Name) }); i >= 0 {
			note += fmt.Sprintf("; did you mean %q?", admin.Bare(n.Namespace, v.Entries[i].Name, "default"))
		}
		notes = append(notes, note)
	}
	return notes
}

// slip reports whether one letter was put in, left out, changed, or swapped with the next.
func slip(a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	swapped := len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
	return max(len(a), len(b)) <= 1 || swapped
}

// sayAllowed says everything that FROM may now do at TO, from all policies.
func (s *Server) sayAllowed(o resource.Object, from, to admin.Name, inForce string) (string, error) {
	at := admin.Bare(to.Namespace, to.Name, inForce)
	if from.Name == "*" {
		p, err := resource.Policy(o)
		if err != nil {
			return "", err
		}
		return policy.SayIn(p, s.td.Name()) + " at " + at, nil
	}
	v := s.world.load()
	dest, _ := v.destination(to, "")
	id, err := identity.ForWorkload(s.td, from.Namespace, v.account(from))
	if err != nil {
		return "", err
	}
	who := policy.ParsePeer(id.String(), s.td.Name())
	only := true
	var may, not []string
	for _, g := range v.compiled.For(dest).May(who, nil) {
		words := sayGrant(g)
		switch {
		case g.Action == policy.Deny:
			not = append(not, words+" ("+g.Policy+")")
		case !slices.Contains(may, words):
			may = append(may, words)
		}
		if g.Policy != o.Namespace+"/"+o.Name {
			only = false
		}
	}
	said := fmt.Sprintf("%s may %s at %s", admin.Bare(from.Namespace, from.Name, inForce), strings.Join(may, ", "), at)
	if len(not) > 0 {
		said += ", but never " + strings.Join(not, ", ")
	}
	if only {
		said += ", and nothing else"
	}
	return said, nil
}

// sayGrant is one grant as people say it: "GET, HEAD /orders/{*}".
func sayGrant(g policy.Grant) string {
	list := func(in, not []string) string {
		s := strings.Join(in, ", ")
		if len(not) > 0 {
			s = strings.TrimSpace(s + " except " + strings.Join(not, ", "))
		}
		return s
	}
	words := strings.TrimSpace(list(g.Methods, g.NotMethods) + " " + list(g.Paths, g.NotPaths))
	if words == "" {
		words = "make every call"
	}
	if hosts := list(g.Hosts, g.NotHosts); hosts != "" {
		words += " for host " + hosts
	}
	if ports := list(g.Ports, g.NotPorts); ports != "" {
		words += " on port " + ports
	}
	if len(g.If) > 0 {
		words += " if " + strings.Join(g.If, " and ")
	}
	return words
}

// ClosedByDefault reports whether a mesh-wide policy refuses what no other allows.
func (s *Server) ClosedByDefault() bool { return s.closed(s.world.load().records, nil) }
