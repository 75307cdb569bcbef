package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/snapshot"
)

// expose opens one front door, or with Remove takes it away, all of it or nothing (cli.md 10.8a).
func (s *Server) expose(ctx context.Context, r admin.ExposeRequest) (admin.ApplyReply, error) {
	service, err := admin.ParseName(r.Service, r.Namespace, false)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	if err := s.ours(service); err != nil {
		return admin.ApplyReply{}, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	v := s.world.load()
	if e, ok := v.named(service); ok {
		service.Name = e.Name // where its identity was typed
	}
	door, err := s.door(r, service, v)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	var objects []resource.Object
	for _, rec := range known {
		objects = append(objects, rec.Object)
	}
	build := resource.Expose
	if r.Remove {
		build = resource.Unexpose
	}
	made, err := build(resource.Mesh{TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace}, door, objects)
	if err != nil {
		return admin.ApplyReply{}, exposeProblem(r, err)
	}
	reply, err := s.commit(ctx, batch{
		verb: "expose", doing: fmt.Sprintf("exposing %s at %s", r.Service, door.Host), known: known, rev: rev,
		changes: exposeChanges(made, known), dryRun: r.DryRun,
	})
	if err != nil || r.Remove {
		return reply, err
	}
	if r.DryRun {
		for _, o := range made.Put {
			y, err := resource.YAML(o, known[catalog.Key(o.Kind, o.Namespace, o.Name)].Created, "")
			if err != nil {
				return reply, err
			}
			if reply.YAML != "" {
				reply.YAML += "---\n"
			}
			reply.YAML += string(y)
		}
	}
	door.Port = made.Port
	say := exposed{r, door, made.Opened, made.Own, s.issuer()}
	reply.Notes = append(reply.Notes, unknownParties(v, service)...)
	if len(made.Opened) == 0 {
		reply.Notes = append(reply.Notes, "nobody may pass until --jwt, --key or --public")
	}
	reply.Sentence = say.sentence(entersBeside(v))
	reply.Next = say.next()
	reply.Undo = say.undo()
	host, _ := say.url()
	reply.Door = &admin.Door{Host: host, Port: door.Port, Own: made.Own}
	return reply, nil
}

// issuer is that of our own tokens; "" while there is none.
func (s *Server) issuer() string {
	if s.tokens == nil {
		return ""
	}
	return s.tokens.issuer
}

// door judges what was typed, as far as no object decides.
func (s *Server) door(r admin.ExposeRequest, service admin.Name, v *view) (resource.Door, error) {
	host, ok := resource.ParseHost(r.Host)
	if !ok {
		return resource.Door{}, badHost(r)
	}
	d := resource.Door{
		Host: host, Namespace: service.Namespace, Service: service.Name, Port: r.Port, ServicePort: r.ServicePort,
		Requests: r.Requests, Certificate: r.Certificate,
	}
	if r.Remove {
		return d, nil
	}
	if r.Certificate == "" && v.reserved()(host) {
		return d, &admin.Problem{
			Code: "bad_host", Exit: 2, Message: fmt.Sprintf("%q is a name of the mesh: strangers get no certificate for it", host),
			Hints: []string{"countersign expose " + service.Name + ".localhost " + r.Service, "or another name, or --certificate CHAIN,KEY"},
		}
	}
	if e, ok := v.named(service); ok {
		d.Labels = e.Labels
	}
	var err error
	if d.Ways, err = s.ways(r, service, v); err != nil {
		return d, err
	}
	if d.ServicePort, err = v.servicePort(r, service); err != nil {
		return d, err
	}
	return d, s.privileged(r.Port)
}

func badHost(r admin.ExposeRequest) error {
	p := &admin.Problem{Code: "bad_host", Exit: 2, Message: fmt.Sprintf("%q is not a host name", r.Host), Hints: []string{"countersign expose shop.test " + r.Service}}
	meant := r.Host
	if _, rest, ok := strings.Cut(meant, "://"); ok {
		meant = rest
	}
	meant, _, _ = strings.Cut(meant, "/")
	meant, _, _ = strings.Cut(meant, ":")
	if host, ok := resource.ParseHost(strings.TrimSuffix(meant, ".")); ok {
		p.Hints = []string{"countersign expose " + host + " " + r.Service}
	} else if strings.ContainsFunc(meant, func(c rune) bool { return c > 127 }) {
		p.Hints = []string{"write it as DNS does: xn--..."}
	}
	return p
}

// ways are the ways in that were asked for.
func (s *Server) ways(r admin.ExposeRequest, service admin.Name, v *view) ([]resource.Way, error) {
	flags := slices.Clone(r.JWT)
	for i := range flags {
		flags[i] = "--jwt"
	}
	if r.Key {
		flags = append([]string{"--key"}, flags...)
	}
	own := slices.Contains(r.JWT, "own")
	foreign := slices.ContainsFunc(r.JWT, func(issuer string) bool { return issuer != "own" })
	switch {
	case r.Public && len(flags) > 0:
		return nil, &admin.Problem{Code: "public_and_more", Exit: 2, Message: fmt.Sprintf("--public lets everybody in; %s would ask for nothing", flags[0]), Hints: []string{"leave one of them out"}}
	case foreign && r.Audience == "":
		i := slices.IndexFunc(r.JWT, func(issuer string) bool { return issuer != "own" })
		name := strings.TrimPrefix(r.JWT[i], "https://")
		name, _, _ = strings.Cut(name, "/")
		return nil, &admin.Problem{Code: "needs_audience", Exit: 2, Message: fmt.Sprintf("--jwt %s takes tokens meant for anybody", r.JWT[i]), Hints: []string{"add --audience, the name " + name + " knows you by"}}
	case r.Audience != "" && !foreign:
		return nil, &admin.Problem{Code: "usage", Exit: 2, Message: "--audience goes with --jwt ISSUER", Hints: []string{"leave it out: our own tokens and keys are for " + r.Service}}
	case (own || r.Key) && s.issuer() == "":
		return nil, &admin.Problem{Code: "no_tokens", Message: "this server has no token service", Hints: []string{"--jwt ISSUER --audience A"}}
	}
	var out []resource.Way
	if r.Public {
		out = append(out, resource.Way{Public: true})
	}
	if r.Key {
		out = append(out, resource.Way{Issuer: s.issuer(), Keys: true})
	}
	for _, issuer := range r.JWT {
		if issuer != "own" {
			out = append(out, resource.Way{Issuer: issuer, Audience: r.Audience})
			continue
		}
		id, err := identity.ForWorkload(s.td, service.Namespace, v.account(service))
		if err != nil {
			return nil, err
		}
		out = append(out, resource.Way{Issuer: s.issuer(), Audience: id.String()})
	}
	return out, nil
}

// servicePort is the port of SERVICE: the one said, else the only one it has; 0 while nobody knows.
func (v *view) servicePort(r admin.ExposeRequest, service admin.Name) (uint16, error) {
	i := slices.IndexFunc(v.Services, func(s snapshot.Service) bool {
		return s.Namespace == service.Namespace && s.Name == service.Name
	})
	if r.ServicePort != 0 || i < 0 || len(v.Services[i].Ports) == 0 {
		return r.ServicePort, nil
	}
	ports := v.Services[i].Ports
	other := func(p snapshot.Port) bool { return p.Target != ports[0].Target }
	if !slices.ContainsFunc(ports, other) {
		return ports[0].Number, nil
	}
	var numbers []string
	for _, p := range ports {
		numbers = append(numbers, fmt.Sprint(p.Number))
	}
	return 0, &admin.Problem{
		Code: "needs_port", Exit: 2, Message: fmt.Sprintf("%s has ports %s", r.Service, strings.Join(numbers, ", ")),
		Hints: []string{"add --service-port " + numbers[0]},
	}
}

// exposeChanges are the changes of a sentence. With the Gateway goes the Workload that it alone earns.
func exposeChanges(made resource.Exposure, known map[string]catalog.Record) []catalog.Change {
	var out []catalog.Change
	for _, o := range made.Put {
		out = append(out, catalog.Change{Object: o})
	}
	for _, o := range made.Removed {
		out = append(out, catalog.Change{Object: o, Remove: true})
		if o.Kind != "Gateway" {
			continue
		}
		if w, ok := known[catalog.Key("Workload", o.Namespace, o.Name)]; ok {
			if e, err := resource.Entry(w.Object, w.First, w.Last); err == nil && e.OfGateway() {
				out = append(out, catalog.Change{Object: w.Object, Remove: true})
			}
		}
	}
	return out
}

func exposeProblem(r admin.ExposeRequest, err error) error {
	var refused *resource.Refusal
	var bad *resource.BadPattern
	switch {
	case errors.As(err, &refused):
		p := &admin.Problem{Code: refused.Code, Message: refused.Text}
		if refused.Hint != "" {
			p.Hints = []string{refused.Hint}
		}
		return p
	case errors.As(err, &bad):
		p := &admin.Problem{Code: "bad_pattern", Exit: 2, Message: bad.Text}
		if bad.Request != "" {
			p.Hints = []string{fmt.Sprintf("countersign expose %s %s %s", r.Host, r.Service, admin.ShellQuote(bad.Request))}
		} else if bad.Hint != "" {
			p.Hints = []string{bad.Hint}
		}
		return p
	case errors.Is(err, resource.ErrNotMine):
		return notMine(err)
	case errors.Is(err, resource.ErrNoDoor):
		return &admin.Problem{Code: "not_found", Message: fmt.Sprintf("%s is not exposed at %s", r.Service, r.Host), Hints: []string{"countersign route list"}}
	}
	return fmt.Errorf("exposing %s: %w", r.Service, err)
}

// notMine names the object of an ErrNotMine, which its text begins with.
func notMine(err error) error {
	id, _, _ := strings.Cut(err.Error(), " ")
	kind, name, _ := strings.Cut(id, "/")
	ns, name, _ := strings.Cut(name, "/")
	k, _ := resource.LookupKind(kind)
	return &admin.Problem{Code: "not_mine", Message: err.Error(), Hints: []string{fmt.Sprintf("countersign get %s %s -n %s -o yaml > %s.yaml", k.Short, name, ns, name)}}
}

// privileged refuses a port that this process may not open. What a service manager opened for it is no new port; and
// nodes elsewhere say so in the status of the Gateway.
func (s *Server) privileged(port uint16) error {
	if port == 0 || port >= 1024 || s.home.Load() == nil || slices.Contains(s.o.Handed, port) {
		return nil
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err == nil {
		l.Close()
		return nil
	}
	if !errors.Is(err, syscall.EACCES) {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		program = "countersign"
	}
	return &admin.Problem{
		Code: "port_privileged", Message: fmt.Sprintf("listening on %s: ports below 1024 need a capability", addr),
		Hints: []string{"sudo setcap cap_net_bind_service=+ep " + program},
	}
}
