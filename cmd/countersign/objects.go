package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"countersign.dev/internal/admin"
)

type applyOptions struct {
	files   []string
	dryRun  bool
	unknown bool
	wait    wait
}

func applyCommand() *command {
	var o applyOptions
	return &command{
		name:    "apply",
		summary: "Write objects from files, all of them or none.",
		examples: []string{
			"countersign apply -f policy.yaml",
			"countersign apply -f policies/ --dry-run",
			"countersign get ap -A -o yaml | countersign apply -f -",
		},
		usage: "-f FILE|DIR|- [flags]",
		about: `Takes Istio's AuthorizationPolicy, PeerAuthentication and RequestAuthentication
as they are; Workload, OAuthClient, OAuthResource, TrustedIssuer,
DelegationPolicy, RateLimit, APIKey; of the Gateway API GatewayClass, Gateway,
HTTPRoute, ReferenceGrant, Namespace, Secret, Service, EndpointSlice, ConfigMap.
Every fault of every file is told at once, with its place; then nothing is
changed. Of a directory: .yaml, .yml, .json, sorted.`,
		flags: func(f *flags) {
			f.list(&o.files, "f", "FILE|DIR|-", "what to apply; may be repeated")
			f.yes(&o.dryRun, "dry-run", "say what would change, change nothing")
			f.wait(&o.wait)
			f.yes(&o.unknown, "ignore-unknown-kinds", "leave out kinds that are not security's")
			f.doc("n,namespace", "NS", "of objects that name none  [default]")
			f.doc("yes", "", "do not ask")
		},
		see: "countersign get, countersign delete, countersign allow",
		run: func(ctx context.Context, e *env, args []string) error { return e.apply(ctx, o, args) },
	}
}

func (e *env) apply(ctx context.Context, o applyOptions, args []string) error {
	switch {
	case len(args) > 0:
		return usage(fmt.Sprintf("apply takes no argument %q", args[0]), "countersign apply -f "+args[0])
	case len(o.files) == 0:
		return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "apply needs -f", Hints: []string{"countersign apply -f policy.yaml"}}
	}
	files, err := e.readFiles("applying", o.files)
	if err != nil {
		return err
	}
	req := admin.ApplyRequest{Files: files, Namespace: e.namespace, DryRun: o.dryRun, IgnoreUnknownKinds: o.unknown}
	reply, err := write(ctx, e, "/v1/apply", "applying "+what(files), req, func(r *admin.ApplyRequest) { r.Confirmed = true })
	if err != nil {
		return err
	}
	return e.written(ctx, reply, o.wait)
}

// what names the files of a command in a sentence.
func what(files []admin.File) string {
	if len(files) == 1 {
		return files[0].Name
	}
	return fmt.Sprintf("%d files", len(files))
}

type deleteOptions struct {
	files  []string
	all    bool
	ignore bool
	dryRun bool
	wait   wait
}

func deleteCommand() *command {
	var o deleteOptions
	return &command{
		name:    "delete",
		summary: "Remove objects, by name or as files name them, all of them or none.",
		examples: []string{
			"countersign delete ap api-from-web",
			"countersign delete ap orders payments -n shop",
			"countersign delete -f policies/",
			"countersign delete ap --all -n shop",
		},
		usage: "KIND NAME... | KIND --all | -f FILE|DIR|- [flags]",
		about: `KIND is one of authorizationpolicies (ap), peerauthentications (pa),
requestauthentications (ra), workloads (wl), oauthclients, oauthresources,
trustedissuers, delegationpolicies, apikeys, ratelimits, or one of the Gateway
API and what goes with it: see get.
A Workload that is gone takes its identity with it: its programs have none from
then on. An OAuthClient takes its secrets and tokens.`,
		flags: func(f *flags) {
			f.list(&o.files, "f", "FILE|DIR|-", "delete what these files hold; may be repeated")
			f.yes(&o.all, "all", "every object of KIND in the namespace, with -A in all")
			f.yes(&o.ignore, "ignore-not-found", "what does not exist is no error")
			f.yes(&o.dryRun, "dry-run", "say what would be deleted, change nothing")
			f.wait(&o.wait)
			f.doc("n,namespace", "NS", "of bare names  [default]")
			f.doc("A,all-namespaces", "", "with --all: of every namespace")
			f.doc("yes", "", "do not ask")
		},
		see: "countersign get, countersign apply",
		run: func(ctx context.Context, e *env, args []string) error { return e.delete(ctx, o, args) },
	}
}

func (e *env) delete(ctx context.Context, o deleteOptions, args []string) error {
	req, ask, err := e.deleteRequest(ctx, o, args)
	if err != nil {
		return err
	}
	if len(req.Refs) == 0 && len(req.Files) == 0 {
		return nil // --all of nothing; it was said
	}
	if ask && !o.dryRun && !e.yes {
		n, err := e.wouldDelete(ctx, req)
		if err != nil {
			return err
		}
		if err := e.confirm("delete "+counted(n, "object"), ""); err != nil {
			return err
		}
	}
	req.DryRun = o.dryRun
	reply, err := write(ctx, e, "/v1/delete", "deleting", req, func(r *admin.DeleteRequest) { r.Confirmed = true })
	if err != nil {
		return err
	}
	return e.written(ctx, reply, o.wait)
}

// deleteRequest reads what was typed. ask says that a person must be asked first: a directory
// and --all may be more than was meant (cli.md 7).
func (e *env) deleteRequest(ctx context.Context, o deleteOptions, args []string) (req admin.DeleteRequest, ask bool, err error) {
	req = admin.DeleteRequest{Namespace: e.namespace, IgnoreNotFound: o.ignore}
	switch {
	case len(o.files) > 0 && (len(args) > 0 || o.all):
		return req, false, usage("-f excludes KIND, NAME and --all", "countersign delete -f "+o.files[0])
	case len(o.files) > 0:
		ask = slices.ContainsFunc(o.files, func(f string) bool {
			st, err := os.Stat(f)
			return err == nil && st.IsDir()
		})
		req.Files, err = e.readFiles("deleting", o.files)
		return req, ask, err
	case len(args) == 0:
		return req, false, &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "delete needs KIND and NAME, or -f", Hints: []string{"countersign delete ap api-from-web"}}
	}
	kind, refs, err := e.objectNames(args)
	if err != nil {
		return req, false, err
	}
	req.Refs = refs
	switch {
	case o.all && len(refs) > 0:
		return req, false, usage("--all excludes names", "countersign delete "+kind.Short+" --all")
	case o.all:
		req.Refs, err = e.allOf(ctx, kind.Name)
		if err == nil && len(req.Refs) == 0 {
			e.say("%s", e.none(kind))
		}
		return req, true, err
	case e.all:
		return req, false, usage("-A goes with --all", "countersign delete "+kind.Short+" --all -A")
	case len(refs) == 0:
		return req, false, &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: fmt.Sprintf("delete %s needs a NAME", args[0]),
			Hints: []string{"countersign get " + kind.Short, "countersign delete " + kind.Short + " --all"}}
	}
	return req, false, nil
}

// allOf lists every object of a kind in the namespace in force, or with -A everywhere.
func (e *env) allOf(ctx context.Context, kind string) ([]admin.Ref, error) {
	q := admin.Query{Kind: kind, Namespace: e.inForce()}
	if e.all {
		q.Namespace = ""
	}
	list, err := askServer[admin.Objects](ctx, e, "/v1/objects", q)
	var refs []admin.Ref
	for _, o := range list.Objects {
		refs = append(refs, admin.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	return refs, err
}

// wouldDelete counts what a request would delete.
func (e *env) wouldDelete(ctx context.Context, req admin.DeleteRequest) (int, error) {
	req.DryRun = true
	reply, err := askServer[admin.ApplyReply](ctx, e, "/v1/delete", req)
	return len(reply.Objects), err
}
