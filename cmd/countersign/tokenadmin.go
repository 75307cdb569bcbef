package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"countersign.dev/internal/admin"
)

func tokenVerifyCommand() *command {
	var audience string
	return &command{
		name:     "token verify",
		summary:  "Judge access tokens as a proxy of this mesh would, revocation included.",
		examples: []string{"countersign token verify --audience payments < tokens", "countersign token verify --json < tokens"},
		usage:    "[flags] < TOKENS",
		about: `One token a line, one verdict a line. Whether the one who shows it is the one
it is bound to only a proxy can tell. Exit 1 if any is refused.`,
		flags: func(f *flags) {
			f.text(&audience, "audience", "A", "must be for A: a service, or an audience       [any]")
			f.doc("n,namespace", "NS", "of a bare service                              [default]")
		},
		see: "countersign jwt verify, countersign token revoke",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.tokenVerify(ctx, audience)
		},
	}
}

func (e *env) tokenVerify(ctx context.Context, audience string) error {
	var req admin.TokenVerify
	req.Audience, req.Namespace = audience, e.inForce()
	err := e.eachToken(func(_ int, raw string) error {
		req.Tokens = append(req.Tokens, raw)
		return nil
	})
	if err != nil {
		return err
	}
	list, err := askServer[admin.TokenVerdicts](ctx, e, "/v1/token/verify", req)
	if err != nil {
		return err
	}
	bad := false
	for _, v := range list.Verdicts {
		bad = bad || !v.OK
		if e.json {
			continue
		}
		err := e.printVerdict(verdict{Line: v.Line, OK: v.OK, Reason: v.Reason, Text: v.Text, Issuer: v.Issuer, Subject: v.Subject, Typ: v.Typ, Alg: v.Alg, Expires: v.Expires}, time.Now())
		if err != nil {
			return err
		}
	}
	if e.json {
		if err := e.printJSON(list); err != nil {
			return err
		}
	}
	if bad {
		return exit(exitFailed)
	}
	return nil
}

type revokeOptions struct {
	jti, rti, sid, sub, client, kid, before string
}

func tokenRevokeCommand() *command {
	var o revokeOptions
	return &command{
		name:    "token revoke",
		summary: "End a token and everything exchanged from it, everywhere, at once.",
		examples: []string{
			"countersign token revoke < token",
			"countersign token revoke --client spiffe://cluster.local/ns/shop/sa/web",
			"countersign token revoke --before 2026-11-21T20:00:00Z --yes",
		},
		usage: "[flags] [< TOKEN]",
		about: `Without a flag the token on stdin is revoked. --sub and --client end what was
issued until now; --before ends every token issued until then.`,
		flags: func(f *flags) {
			f.text(&o.jti, "jti", "ID", "one token, and what descends from it")
			f.text(&o.rti, "rti", "ID", "a whole chain, by its root")
			f.text(&o.sid, "sid", "ID", "a sign-in")
			f.text(&o.sub, "sub", "SUB", "a subject")
			f.text(&o.client, "client", "ID", "a client: as such, as origin and as actor")
			f.text(&o.kid, "kid", "ID", "all that a key signed")
			f.text(&o.before, "before", "TIME", "all that was issued until TIME, RFC 3339 or now")
		},
		see: "countersign token rotate, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.tokenRevoke(ctx, o)
		},
	}
}

func (e *env) tokenRevoke(ctx context.Context, o revokeOptions) error {
	req := admin.TokenRevoke{WaitMS: enforceWait.Milliseconds()}
	given := 0
	for kind, val := range map[string]string{"jti": o.jti, "rti": o.rti, "sid": o.sid, "sub": o.sub, "client": o.client, "kid": o.kid} {
		if val != "" {
			req.Kind, req.Val = kind, val
			given++
		}
	}
	if o.before != "" {
		given++
		req.Kind, req.Before = "before", time.Now()
		if o.before != "now" {
			at, err := time.Parse(time.RFC3339, o.before)
			if err != nil {
				return usage(fmt.Sprintf("--before %q is no time", o.before), "countersign token revoke --before now")
			}
			req.Before = at
		}
		if err := e.confirm("every token issued until "+req.Before.UTC().Format(time.RFC3339)+" ends", ""); err != nil {
			return err
		}
	}
	switch {
	case given > 1:
		return usage("token revoke takes one flag at a time", "countersign token revoke --jti ID")
	case given == 0:
		token, err := e.oneToken(e.in, "stdin")
		if err != nil {
			return err
		}
		req.Token = token
	}
	got, err := askServer[admin.TokenRevoked](ctx, e, "/v1/token/revoke", req)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(got)
	}
	what := got.Kind + " " + escape(got.Val)
	switch got.Kind {
	case "jti":
		what = shortID(escape(got.Val)) + ", and what was exchanged from it"
	case "before":
		what = "all that was issued until then"
	}
	if _, err := fmt.Fprintln(e.out, "revoked  "+what); err != nil {
		return err
	}
	if late := len(got.Enforced.Laggards); late > 0 {
		e.say("note: %s not heard of it yet: %s", counted(late, "node")+map[bool]string{true: " has", false: " have"}[late == 1], got.Enforced.Laggards[0].Node)
		return nil
	}
	e.say("enforced everywhere: %s, %d ms", counted(got.Enforced.Of, "node"), got.Enforced.MS)
	return nil
}

func tokenRotateCommand() *command {
	var req admin.TokenRotate
	return &command{
		name:     "token rotate",
		summary:  "Change the key that signs tokens; no token is refused for it.",
		examples: []string{"countersign token rotate", "countersign token rotate --now --revoke-previous"},
		usage:    "[flags]",
		about: `A new key is published, and signs two hours later, when every verifier that reads
the key set has seen it. It happens by itself every day. --now does not wait for
verifiers outside the mesh; --revoke-previous is for a key that leaked.`,
		flags: func(f *flags) {
			f.yes(&req.Now, "now", "sign with the new key as soon as every node knows it")
			f.yes(&req.RevokePrevious, "revoke-previous", "end all that the old key signed; needs --now")
		},
		see: "countersign token revoke",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.tokenRotate(ctx, req)
		},
	}
}

func (e *env) tokenRotate(ctx context.Context, req admin.TokenRotate) error {
	if req.RevokePrevious {
		if err := e.confirm("every token signed by the key in use ends", ""); err != nil {
			return err
		}
	}
	got, err := askServer[admin.TokenRotated](ctx, e, "/v1/token/rotate", req)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(got)
	}
	t := newTable("KEY", "STATE", "SINCE")
	for _, k := range got.Keys {
		since := k.Created
		for _, at := range []time.Time{k.Activated, k.Retired} {
			if !at.IsZero() {
				since = at
			}
		}
		t.add(k.KeyID, map[string]string{"prepare": "prepared", "publish": "published", "activate": "signs", "retire": "retired"}[k.State], ago(since))
	}
	return e.printTable(t)
}

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
			"countersign client create ci --audience https://reports.example --scope reports:read",
			"countersign client create batch --auth private_key_jwt --jwks keys.json --audience https://reports.example",
		},
		usage: "NAME [flags]",
		about: `Writes an OAuthClient. Workloads of the mesh need none for services that ask
for no scope: their identity is the client.`,
		flags: func(f *flags) {
			f.list(&o.audiences, "audience", "A", "that it may ask tokens for; may be repeated")
			f.list(&o.scopes, "scope", "S", "that it may have there, and has by default; may be repeated")
			f.text(&o.auth, "auth", "METHOD", "client_secret, private_key_jwt, spiffe           [client_secret]")
			f.text(&o.jwks, "jwks", "FILE", "its public keys, for private_key_jwt")
			f.text(&o.spiffeID, "spiffe-id", "ID", "a SPIFFE ID, or all below one: ID/*")
			f.duration(&o.expires, "expires", "D", "life of the secret                               [365d]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client rotate, countersign get oauthclients",
		run: func(ctx context.Context, e *env, args []string) error { return e.clientCreate(ctx, o, args) },
	}
}

func (e *env) clientName(args []string) (string, error) {
	if len(args) != 1 {
		return "", &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: e.cmd.name + " needs one NAME", Hints: []string{"countersign " + e.cmd.name + " ci"}}
	}
	return args[0], nil
}

func (e *env) clientCreate(ctx context.Context, o clientOptions, args []string) error {
	name, err := e.clientName(args)
	if err != nil {
		return err
	}
	req := admin.ClientCreate{Namespace: e.inForce(), Name: name, Audiences: o.audiences, Scopes: o.scopes, Auth: o.auth, SPIFFEID: o.spiffeID, Expires: o.expires}
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
	return e.clientMade(made, "created")
}

// clientMade prints a client and its secret, this once.
func (e *env) clientMade(m admin.ClientMade, verb string) error {
	if e.json {
		return e.printJSON(m)
	}
	for _, n := range m.Notes {
		e.say("note: %s", escape(n))
	}
	if m.Secret == "" {
		_, err := fmt.Fprintf(e.out, "%s  OAuthClient/%s/%s\n", verb, m.Namespace, m.Name)
		return err
	}
	e.say("%s  OAuthClient/%s/%s, client_id %s", verb, m.Namespace, m.Name, escape(m.ClientID))
	if _, err := fmt.Fprintln(e.out, m.Secret); err != nil {
		return err
	}
	e.say("shown once, ends %s; keep it in a file: chmod 600", m.Expires.UTC().Format(time.DateOnly))
	return nil
}

func clientRotateCommand() *command {
	var o clientOptions
	o.overlap = 24 * time.Hour
	return &command{
		name:     "client rotate",
		summary:  "Give a client a new secret; the old one counts for a while more.",
		examples: []string{"countersign client rotate ci", "countersign client rotate ci --overlap 0s"},
		usage:    "NAME [flags]",
		about:    `A client has two secrets at most: the new one, and the one before it.`,
		flags: func(f *flags) {
			f.duration(&o.overlap, "overlap", "D", "how long the old secret counts                   [24h]")
			f.duration(&o.expires, "expires", "D", "life of the new secret                           [365d]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client show",
		run: func(ctx context.Context, e *env, args []string) error {
			name, err := e.clientName(args)
			if err != nil {
				return err
			}
			made, err := askServer[admin.ClientMade](ctx, e, "/v1/client/rotate", admin.ClientRotate{Namespace: e.inForce(), Name: name, Expires: o.expires, Overlap: o.overlap})
			if err != nil {
				return err
			}
			return e.clientMade(made, "rotated")
		},
	}
}

func clientListCommand() *command {
	return &command{
		name:     "client list",
		summary:  "List OAuth clients, what they may ask for and when their secrets end.",
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
		e.say("no clients; workloads of the mesh need no record")
		return nil
	}
	t := newTable("NAMESPACE", "NAME", "CLIENT ID", "AUTH", "AUDIENCES", "SECRET ENDS")
	for _, c := range list.Clients {
		ends := ""
		if n := len(c.Secrets); n > 0 {
			ends = c.Secrets[n-1].Expires.UTC().Format(time.DateOnly)
		}
		auth := c.Auth
		if c.Disabled {
			auth += ", disabled"
		}
		t.add(c.Namespace, c.Name, stranger(c.ClientID), auth, stranger(audiencesOf(c)), ends)
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
			name, err := e.clientName(args)
			if err != nil {
				return err
			}
			return e.clientShow(ctx, name)
		},
	}
}

func (e *env) clientShow(ctx context.Context, name string) error {
	list, err := askServer[admin.ClientList](ctx, e, "/v1/client/list", admin.ClientQuery{Namespace: e.inForce(), Name: name})
	if err != nil {
		return err
	}
	if len(list.Clients) != 1 {
		return &admin.Problem{Code: "not_found", Message: fmt.Sprintf("OAuthClient/%s/%s does not exist", e.inForce(), name), Hints: []string{"countersign client list -A"}}
	}
	c := list.Clients[0]
	if e.json {
		return e.printJSON(c)
	}
	fmt.Fprintf(e.out, "%s/%s   client_id %s   %s\n", c.Namespace, c.Name, stranger(c.ClientID), c.Auth)
	if c.Disabled {
		fmt.Fprintln(e.out, "  disabled: everything is refused")
	}
	for _, t := range c.Targets {
		line := "  may ask for  " + stranger(t.Audience)
		for _, s := range t.Scopes {
			line += "  " + stranger(s)
		}
		if t.Exchange {
			line += "  by exchange too"
		}
		if t.Attach {
			line += "  attached to its calls"
		}
		fmt.Fprintln(e.out, line)
	}
	for _, s := range c.Secrets {
		fmt.Fprintf(e.out, "  secret       made %s, ends %s\n", s.Created.Format(time.DateOnly), s.Expires.Format(time.DateOnly))
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
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign client list, countersign delete",
		run: func(ctx context.Context, e *env, args []string) error {
			name, err := e.clientName(args)
			if err != nil {
				return err
			}
			req := admin.DeleteRequest{Refs: []admin.Ref{{Kind: "OAuthClient", Namespace: e.inForce(), Name: name}}}
			reply, err := write(ctx, e, "/v1/delete", "deleting a client", req, func(r *admin.DeleteRequest) { r.Confirmed = true })
			if err != nil {
				return err
			}
			return e.written(ctx, reply, w)
		},
	}
}
