package main

import (
	"context"
	"fmt"
	"strconv"

	"countersign.dev/internal/admin"
)

type exposeOptions struct {
	req  admin.ExposeRequest
	wait wait
}

func exposeCommand() *command {
	var o exposeOptions
	return &command{
		name:    "expose",
		summary: "Open one front door: a host name, a service, who may enter.",
		examples: []string{
			"countersign expose api.localhost api --public",
			"countersign expose api.localhost api 'GET /orders/**' --key",
			"countersign expose shop.test shop/web --jwt https://id.example --audience shop",
			"countersign expose api.localhost api --remove",
		},
		usage: "HOST SERVICE ['METHOD PATH' ...] [flags]",
		about: `Writes the shared Gateway default/edge, an HTTPRoute, and who may enter, as
ordinary objects. Said again it adds requests and ways in, and takes none. New
requests are for the ways in that are named with them, or else for all that
there are. Without a request every call may pass; without a way in nobody.`,
		flags: func(f *flags) {
			r := &o.req
			f.list(&r.JWT, "jwt", "ISSUER", "who has a token of ISSUER for A; may be repeated.\nown: one of this mesh, for SERVICE")
			f.text(&r.Audience, "audience", "A", "the name that ISSUER knows the service by")
			f.yes(&r.Key, "key", "who has an API key for SERVICE")
			f.yes(&r.Public, "public", "everybody")
			f.port(&r.Port, "port", "of the door  [8443]")
			f.port(&r.ServicePort, "service-port", "of SERVICE  [the only one]")
			f.text(&r.Certificate, "certificate", "CHAIN,KEY", "files of the gateway's host  [our own]")
			f.yes(&r.Remove, "remove", "take all of HOST and SERVICE that nothing else needs")
			f.yes(&r.DryRun, "dry-run", "print the objects, change nothing")
			f.wait(&o.wait)
			f.doc("n,namespace", "NS", "of a bare SERVICE  [default]")
		},
		see: "countersign route show, countersign allow, countersign ca root",
		run: func(ctx context.Context, e *env, args []string) error { return e.expose(ctx, o, args) },
	}
}

// port is a flag for a port, 1 to 65535.
func (f *flags) port(p *uint16, names, text string) {
	f.add(names, "N", text, false, false, func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is not a port: 1 to 65535", s)
		}
		*p = uint16(n)
		return nil
	})
}

func (e *env) expose(ctx context.Context, o exposeOptions, args []string) error {
	if len(args) < 2 {
		return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "expose needs HOST and SERVICE", Hints: []string{"countersign expose api.localhost api --public"}}
	}
	req := o.req
	req.Host, req.Service, req.Requests, req.Namespace = args[0], args[1], args[2:], e.namespace
	if req.Remove && (len(req.Requests) > 0 || len(req.JWT) > 0 || req.Key || req.Public || req.Certificate != "") {
		return usage("--remove takes all of HOST and SERVICE: it goes with nothing else", "countersign expose "+word(req.Host)+" "+word(req.Service)+" --remove")
	}
	reply, err := write(ctx, e, "/v1/expose", fmt.Sprintf("exposing %s at %s", req.Service, req.Host), req, func(*admin.ExposeRequest) {})
	if err != nil {
		return err
	}
	if req.DryRun && !req.Remove && !e.json {
		return e.printDry(reply)
	}
	return e.written(ctx, reply, o.wait)
}
