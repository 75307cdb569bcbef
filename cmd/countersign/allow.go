package main

import (
	"context"
	"fmt"

	"countersign.dev/internal/admin"
)

type allowOptions struct {
	ports, hosts []string
	dryRun       bool
	wait         wait
}

func allowCommand() *command {
	var o allowOptions
	return &command{
		name:    "allow",
		summary: "Let one workload make certain calls to another, and nothing else.",
		examples: []string{
			"countersign allow web api 'GET /orders/{*}'",
			"countersign allow web api 'GET,HEAD /**' 'POST /orders'",
			"countersign allow 'shop/*' shop/payments 'POST /v1/payments'",
			"countersign allow web api 'GET /**' --dry-run > policy.yaml",
		},
		usage: "FROM TO ['METHOD PATH' ...] [flags]",
		about: `Writes an ordinary Istio AuthorizationPolicy, named TO-from-FROM. Said again, it
adds to it. {*} is one path segment; /** is everything below. Without a request
every call from FROM to TO is allowed.`,
		flags: func(f *flags) {
			f.list(&o.ports, "port", "PORT", "only this port of TO; may be repeated")
			f.list(&o.hosts, "host", "HOST", "only this host; may be repeated")
			f.yes(&o.dryRun, "dry-run", "print the policy, change nothing")
			f.wait(&o.wait)
			f.doc("n,namespace", "NS", "of bare names  [default]")
		},
		see: "countersign why, countersign get ap",
		run: func(ctx context.Context, e *env, args []string) error { return e.allow(ctx, o, args) },
	}
}

func (e *env) allow(ctx context.Context, o allowOptions, args []string) error {
	if len(args) < 2 {
		return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "allow needs FROM and TO", Hints: []string{"countersign allow web api 'GET /orders/{*}'"}}
	}
	req := admin.AllowRequest{
		From: args[0], To: args[1], Requests: args[2:], Ports: o.ports, Hosts: o.hosts,
		Namespace: e.namespace, DryRun: o.dryRun,
	}
	reply, err := write(ctx, e, "/v1/allow", fmt.Sprintf("allowing %s to call %s", args[0], args[1]), req, func(*admin.AllowRequest) {})
	if err != nil {
		return err
	}
	if !o.dryRun || e.json {
		return e.written(ctx, reply, o.wait)
	}
	return e.printDry(reply)
}

// printDry prints the objects that would be there.
func (e *env) printDry(reply admin.ApplyReply) error {
	for _, n := range reply.Notes {
		e.say("note: %s", n)
	}
	_, err := fmt.Fprint(e.out, reply.YAML)
	return err
}
