package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

type clientOptions struct {
	audiences, scopes    []string
	auth, jwks, spiffeID string
	expires, overlap     time.Duration
}

func clientCreateCommand() *command {
	var o clientOptions
	return &command{
		name:    "client create",
		summary: "Make an OAuth client; its secret is shown once.",
		examples: []string{
			"countersign client create ci --audience reports --scope reports:read",
			"countersign client create batch --jwks keys.json --audience reports",
		},
		usage: "NAME [flags]",
		about: `Writes an OAuthClient. Workloads of the mesh need none for services that ask
for no scope: their identity is the client.`,
		flags: func(f *flags) {
			f.list(&o.audiences, "audience", "A", "that it may ask tokens for; may be repeated")
			f.list(&o.scopes, "scope", "S", "that it has there; may be repeated")
			f.text(&o.auth, "auth", "METHOD", "client_secret, private_key_jwt, spiffe  [client_secret]")
			f.text(&o.jwks, "jwks", "FILE", "its public keys, for private_key_jwt")
			f.text(&o.spiffeID, "spiffe-id", "ID", "a SPIFFE ID, or all below one: ID/*")
			f.duration(&o.expires, "expires", "D", "life of the secret  [365d]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client rotate, countersign get oauthclients",
		run: func(ctx context.Context, e *env, args []string) error { return e.clientCreate(ctx, o, args) },
	}
}

// clientName is the namespace and name of the one client that was typed.
func (e *env) clientName(args []string) (admin.Ref, error) {
	ref := admin.Ref{Kind: "OAuthClient", Namespace: e.inForce()}
	if len(args) != 1 {
		return ref, &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: e.cmd.name + " needs one NAME", Hints: []string{"countersign " + e.cmd.name + " ci"}}
	}
	ref.Name = args[0]
	if space, bare, ok := strings.Cut(ref.Name, "/"); ok {
		if e.named && space != e.namespace {
			return ref, usage(fmt.Sprintf("name %q is of namespace %s, -n says %s", ref.Name, space, e.namespace), fmt.Sprintf("countersign %s %s -n %s", e.cmd.name, bare, space))
		}
		ref.Namespace, ref.Name = space, bare
	}
	return ref, nil
}

func (e *env) clientCreate(ctx context.Context, o clientOptions, args []string) error {
	ref, err := e.clientName(args)
	switch {
	case err != nil:
		return err
	case len(o.scopes) > 0 && len(o.audiences) == 0:
		return usage("--scope needs --audience: a scope is of an audience", "countersign client create "+ref.Name+" --audience api --scope "+word(o.scopes[0]))
	}
	req := admin.ClientCreate{Namespace: ref.Namespace, Name: ref.Name, Audiences: o.audiences, Scopes: o.scopes, Auth: o.auth, SPIFFEID: o.spiffeID, Expires: o.expires}
	if o.jwks != "" {
		text, err := readLimited(o.jwks)
		if err != nil {
			return err
		}
		req.JWKS = string(text)
	}
	made, err := askServer[admin.ClientMade](ctx, e, "/v1/client/create", req)
	if err != nil {
		return err
	}
	if len(o.audiences) == 0 {
		made.Notes = append(made.Notes, "it may ask for no token yet: its OAuthClient names no target")
	}
	return e.clientMade(made, "created", "")
}

// clientMade prints a client and its secret, this once.
func (e *env) clientMade(m admin.ClientMade, verb, more string) error {
	if e.json {
		return e.printJSON(m)
	}
	line := fmt.Sprintf("%-9s  OAuthClient/%s/%s", verb, m.Namespace, m.Name)
	if m.Secret == "" {
		if _, err := fmt.Fprintln(e.out, line); err != nil {
			return err
		}
		e.say("client_id %s", stranger(m.ClientID))
	} else {
		e.say("%s, client_id %s", line, stranger(m.ClientID))
		if _, err := fmt.Fprintln(e.out, m.Secret); err != nil {
			return err
		}
		e.say("shown once, %s%s", ending(m.Expires, time.Now()), more)
	}
	for _, n := range m.Notes {
		e.say("note: %s", escape(n))
	}
	return nil
}

// ending says when a secret ends: the day, or the time where the day would tell too little.
func ending(at, now time.Time) string {
	verb, form := "ends ", time.DateOnly
	if now.After(at) {
		verb = "ended "
	}
	if at.Sub(now).Abs() < 48*time.Hour {
		form = time.RFC3339
	}
	return verb + at.UTC().Format(form)
}

func clientRotateCommand() *command {
	var o clientOptions
	o.overlap = 24 * time.Hour
	return &command{
		name:     "client rotate",
		summary:  "Give a client a new secret; the old one counts a while more.",
		examples: []string{"countersign client rotate ci", "countersign client rotate ci --overlap 0s"},
		usage:    "NAME [flags]",
		about:    `A client has two secrets at most: the new one, and the one before it.`,
		flags: func(f *flags) {
			f.duration(&o.overlap, "overlap", "D", "how long the old secret counts  [24h]")
			f.duration(&o.expires, "expires", "D", "life of the new secret  [365d]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client show",
		run: func(ctx context.Context, e *env, args []string) error {
			ref, err := e.clientName(args)
			if err != nil {
				return err
			}
			made, err := askServer[admin.ClientMade](ctx, e, "/v1/client/rotate", admin.ClientRotate{Namespace: ref.Namespace, Name: ref.Name, Expires: o.expires, Overlap: o.overlap})
			if err != nil {
				return err
			}
			more := "; the one before it counts no more"
			if o.overlap > 0 {
				more = "; the one before it counts for " + age(o.overlap) + " more"
			}
			return e.clientMade(made, "rotated", more)
		},
	}
}

func clientListCommand() *command {
	return &command{
		name:     "client list",
		summary:  "List OAuth clients, and when their secrets end.",
		examples: []string{"countersign client list -A"},
		usage:    "[flags]",
		about:    `Workloads without a record are clients too, and stand in no list.`,
		flags: func(f *flags) {
			f.doc("n,namespace", "NS", "[default]")
			f.doc("A,all-namespaces", "", "of every namespace")
		},
		see: "countersign client show, countersign get oauthclients",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.clientList(ctx)
		},
	}
}

func (e *env) clientList(ctx context.Context) error {
	q := admin.ClientQuery{Namespace: e.inForce()}
	if e.all {
		q.Namespace = ""
	}
	list, err := askServer[admin.ClientList](ctx, e, "/v1/client/list", q)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	if len(list.Clients) == 0 {
		where := ""
		if !e.all {
			where = " in namespace " + e.inForce()
		}
		e.say("no clients%s; workloads of the mesh need no record", where)
		return nil
	}
	head := []string{"NAME", "CLIENT ID", "AUTH", "AUDIENCES", "SECRET ENDS"}
	if e.all {
		head = append([]string{"NAMESPACE"}, head...)
	}
	t := newTable(head...)
	for _, c := range list.Clients {
		ends := ""
		if n := len(c.Secrets); n > 0 {
			ends = c.Secrets[n-1].Expires.UTC().Format(time.DateOnly)
		}
		auth := c.Auth
		if c.Disabled {
			auth += ", disabled"
		}
		row := []string{c.Name, stranger(c.ClientID), auth, stranger(audiencesOf(c)), ends}
		if e.all {
			row = append([]string{c.Namespace}, row...)
		}
		t.add(row...)
	}
	return e.printTable(t)
}

func audiencesOf(c admin.ClientRow) string {
	switch len(c.Targets) {
	case 0:
		return ""
	case 1:
		return c.Targets[0].Audience
	}
	return c.Targets[0].Audience + " and " + strconv.Itoa(len(c.Targets)-1) + " more"
}

func clientShowCommand() *command {
	return &command{
		name:     "client show",
		summary:  "Show one OAuth client and what weakens it.",
		examples: []string{"countersign client show ci"},
		usage:    "NAME [flags]",
		about:    `Secrets are never shown: only hashes of them are kept.`,
		flags:    func(f *flags) { f.doc("n,namespace", "NS", "[default]") },
		see:      "countersign client rotate, countersign get oauthclients -o yaml",
		run: func(ctx context.Context, e *env, args []string) error {
			ref, err := e.clientName(args)
			if err != nil {
				return err
			}
			return e.clientShow(ctx, ref)
		},
	}
}

func (e *env) clientShow(ctx context.Context, ref admin.Ref) error {
	list, err := askServer[admin.ClientList](ctx, e, "/v1/client/list", admin.ClientQuery{Namespace: ref.Namespace, Name: ref.Name})
	if err != nil {
		return err
	}
	if len(list.Clients) != 1 {
		return &admin.Problem{Code: "not_found", Message: fmt.Sprintf("OAuthClient/%s/%s does not exist", ref.Namespace, ref.Name), Hints: []string{"countersign client list -A"}}
	}
	c := list.Clients[0]
	if e.json {
		return e.printJSON(c)
	}
	var b strings.Builder
	line := func(label, text string) { fmt.Fprintf(&b, "  %-8s  %s\n", label, text) }
	fmt.Fprintf(&b, "OAuthClient/%s/%s   client_id %s\n", c.Namespace, c.Name, stranger(c.ClientID))
	line("auth", c.Auth)
	if c.SPIFFEID != "" && c.SPIFFEID != c.ClientID {
		line("identity", stranger(c.SPIFFEID))
	}
	if c.Disabled {
		line("disabled", "everything is refused")
	}
	for _, t := range c.Targets {
		text := stranger(t.Audience)
		for _, s := range t.Scopes {
			text += "  " + stranger(s)
		}
		if t.Exchange {
			text += "  by exchange too"
		}
		if t.Attach {
			text += "  attached to its calls"
		}
		line("asks for", text)
	}
	for _, s := range c.Secrets {
		line("secret", "made "+s.Created.UTC().Format(time.DateOnly)+", "+ending(s.Expires, time.Now()))
	}
	line("made", c.Created.UTC().Format(time.DateOnly))
	if _, err := io.WriteString(e.out, b.String()); err != nil {
		return err
	}
	for _, n := range c.Notes {
		e.say("note: %s", escape(n))
	}
	return nil
}

func clientDeleteCommand() *command {
	var w wait
	return &command{
		name:     "client delete",
		summary:  "Remove an OAuth client, its secrets and its tokens.",
		examples: []string{"countersign client delete ci"},
		usage:    "NAME [flags]",
		about:    `What it asked for and what was exchanged from that is revoked everywhere.`,
		flags: func(f *flags) {
			f.wait(&w)
			f.doc("yes", "", "do not ask")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client list, countersign delete",
		run: func(ctx context.Context, e *env, args []string) error {
			ref, err := e.clientName(args)
			if err != nil {
				return err
			}
			req := admin.DeleteRequest{Refs: []admin.Ref{ref}}
			reply, err := write(ctx, e, "/v1/delete", "deleting a client", req, func(r *admin.DeleteRequest) { r.Confirmed = true })
			if err != nil {
				return err
			}
			return e.written(ctx, reply, w)
		},
	}
}
