package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

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
	if d := reply.Door; d != nil && !reply.DryRun && !(o.wait.given && o.wait.d == 0) && !e.opens(ctx, d, o.wait) {
		reply.Notes = append(reply.Notes, fmt.Sprintf("port %d does not answer for %s yet: countersign get gtw edge -n default -o yaml", d.Port, d.Host))
	}
	return e.written(ctx, reply, o.wait)
}

// opens waits until a door on this machine shows a certificate for its host: a port opens, and a certificate for a new
// host is issued, a moment after the objects are in force.
func (e *env) opens(ctx context.Context, d *admin.Door, w wait) bool {
	longest := enforceWait
	if w.given {
		longest = w.d
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	reply, err := askServer[struct {
		Text string `json:"text"`
	}](ctx, e, "/v1/roots", map[string]string{})
	if err != nil {
		return true // nobody can tell
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(reply.Text))
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: d.Host}}
	for {
		c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(d.Port))))
		if err == nil {
			c.Close()
			return true
		}
		if _, shown := errors.AsType[*tls.CertificateVerificationError](err); shown && !d.Own {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(openStep):
		}
	}
}

const openStep = 20 * time.Millisecond
