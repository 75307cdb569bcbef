package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

type keyOptions struct {
	owner, env, limitClass           string
	audiences, routes, scopes, cidrs []string
	expires, overlap                 time.Duration
}

func keyCreateCommand() *command {
	var o keyOptions
	return &command{
		name:    "key create",
		summary: "Make an API key; it is shown once.",
		examples: []string{
			"countersign key create partner-ci --audience orders --scope orders:read",
			"countersign key create kiosk -n shop --route shop/public --expires 30d",
		},
		usage: "NAME --audience A|--route NS/NAME [flags]",
		about: `For callers outside the mesh, at Gateways that take keys. The key alone is
printed to stdout; a hash of it is kept.`,
		flags: func(f *flags) {
			f.list(&o.audiences, "audience", "A", "a service that it is for; may be repeated")
			f.list(&o.routes, "route", "NS/NAME", "an HTTPRoute that it is for; may be repeated")
			f.list(&o.scopes, "scope", "S", "that it has there; may be repeated")
			f.list(&o.cidrs, "cidr", "C", "where it may be used from; may be repeated  [anywhere]")
			f.text(&o.owner, "owner", "O", "a service account, or a user: alias:id  [who asks]")
			f.duration(&o.expires, "expires", "D", "its life, at most 365d  [90d]")
			f.text(&o.limitClass, "limit-class", "NAME", "a RateLimit of the namespace")
			f.text(&o.env, "env", "ENV", "live or test  [live]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign key rotate, countersign get apikeys, countersign run",
		run: func(ctx context.Context, e *env, args []string) error {
			ns, name, err := e.keyName(args, "partner")
			if err != nil {
				return err
			}
			made, err := askServer[admin.KeyMade](ctx, e, "/v1/key/create", admin.KeyCreate{
				Namespace: ns, Name: name, Owner: o.owner, Env: o.env, Audiences: o.audiences, Routes: o.routes, Scopes: o.scopes,
				CIDRs: o.cidrs, LimitClass: o.limitClass, Expires: o.expires,
			})
			if err != nil {
				return err
			}
			return e.keyMade(ctx, made, "; a key proves less than an identity: prefer run")
		},
	}
}

// keyName is the namespace and name of the one key that was typed.
func (e *env) keyName(args []string, example string) (namespace, name string, err error) {
	if len(args) != 1 {
		return "", "", &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: e.cmd.name + " needs one NAME", Hints: []string{"countersign " + e.cmd.name + " " + example}}
	}
	if space, bare, ok := strings.Cut(args[0], "/"); ok {
		if e.named && space != e.namespace {
			return "", "", usage(fmt.Sprintf("name %q is of namespace %s, -n says %s", args[0], space, e.namespace), fmt.Sprintf("countersign %s %s -n %s", e.cmd.name, bare, space))
		}
		return space, bare, nil
	}
	return e.inForce(), args[0], nil
}

// keyMade prints a key, this once, and then waits until it counts.
func (e *env) keyMade(ctx context.Context, m admin.KeyMade, more string) error {
	if e.json {
		return e.printJSON(m)
	}
	if _, err := fmt.Fprintln(e.out, m.Secret); err != nil {
		return err
	}
	e.say("shown once, %s%s", ending(m.Expires, time.Now()), more)
	for _, n := range m.Notes {
		e.say("note: %s", escape(n))
	}
	got, err := e.enforce(ctx, m.Revision, wait{})
	if err == nil && len(got.Laggards) > 0 {
		e.say("note: %s not know it yet", map[bool]string{true: "1 node does", false: counted(len(got.Laggards), "node") + " do"}[len(got.Laggards) == 1])
	}
	return err
}

func keyRotateCommand() *command {
	o := keyOptions{overlap: 24 * time.Hour}
	return &command{
		name:     "key rotate",
		summary:  "Give an API key a new secret; the one before counts a while more.",
		examples: []string{"countersign key rotate partner-ci", "countersign key rotate partner-ci --overlap 0s"},
		usage:    "NAME [flags]",
		about: `Policies, limits and records go by the name, which stays. The key has two
secrets at most: where there are two, the older goes at once.`,
		flags: func(f *flags) {
			f.duration(&o.overlap, "overlap", "D", "how long the secret before counts  [24h]")
			f.doc("n,namespace", "NS", "[default]")
		},
		see: "countersign key show, countersign key revoke",
		run: func(ctx context.Context, e *env, args []string) error {
			ns, name, err := e.keyName(args, "partner")
			if err != nil {
				return err
			}
			made, err := askServer[admin.KeyMade](ctx, e, "/v1/key/rotate", admin.KeyRotate{Namespace: ns, Name: name, Overlap: o.overlap})
			if err != nil {
				return err
			}
			more := "; the one before it counts no more"
			if made.Before != "" {
				more = fmt.Sprintf("; %s before it counts until %s", made.Before, made.Until.UTC().Format(time.RFC3339))
			}
			return e.keyMade(ctx, made, more)
		},
	}
}

func keyRevokeCommand() *command {
	var w wait
	return &command{
		name:     "key revoke",
		summary:  "End one secret of an API key; with the last the key goes.",
		examples: []string{"countersign key revoke 7Kq2m9XbTa"},
		usage:    "ID [flags]",
		about: `The ID is the part of a key between its environment and its secret. What was
exchanged from it ends too.`,
		flags: func(f *flags) {
			f.wait(&w)
			f.doc("yes", "", "do not ask")
		},
		see: "countersign key list, countersign key rotate",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 {
				return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "key revoke needs one ID", Hints: []string{"countersign keys -A"}}
			}
			reply, err := write(ctx, e, "/v1/key/revoke", "revoking a key", admin.KeyRevoke{ID: args[0]}, func(r *admin.KeyRevoke) { r.Confirmed = true })
			if err != nil {
				return err
			}
			return e.written(ctx, reply, w)
		},
	}
}

func keyListCommand() *command {
	return &command{
		name:     "key list",
		summary:  "List API keys, when they end and when they were last used.",
		examples: []string{"countersign keys", "countersign keys -A"},
		usage:    "[flags]",
		about:    `A row for each secret: while a key is rotated it has two.`,
		flags: func(f *flags) {
			f.doc("n,namespace", "NS", "[default]")
			f.doc("A,all-namespaces", "", "of every namespace")
		},
		see: "countersign key show, countersign get apikeys",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.keyList(ctx)
		},
	}
}

func (e *env) keyList(ctx context.Context) error {
	q := admin.KeyQuery{Namespace: e.inForce()}
	if e.all {
		q.Namespace = ""
	}
	list, err := askServer[admin.KeyList](ctx, e, "/v1/key/list", q)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	if len(list.Keys) == 0 {
		where := ""
		if !e.all {
			where = " in namespace " + e.inForce()
		}
		e.say("no API keys%s", where)
		return nil
	}
	head := []string{"ID", "NAME", "OWNER", "SCOPES", "ENDS", "LAST USED", "STATE"}
	if e.all {
		head = append([]string{"NAMESPACE"}, head...)
	}
	t := newTable(head...)
	now := time.Now()
	for _, k := range list.Keys {
		row := []string{k.ID, k.Name, stranger(ownerName(k)), stranger(strings.Join(k.Scopes, ",")), left(k, now), usedAgo(k, now), keyState(k)}
		if e.all {
			row = append([]string{k.Namespace}, row...)
		}
		t.add(row...)
	}
	return e.printTable(t)
}

// ownerName is the service account, where the owner is one of the key's namespace.
func ownerName(k admin.KeyRow) string {
	if _, account, ok := strings.Cut(k.Owner, "/ns/"+k.Namespace+"/sa/"); ok {
		return account
	}
	return k.Owner
}

// left is how long a secret counts.
func left(k admin.KeyRow, now time.Time) string {
	end := k.Expires
	if !k.Until.IsZero() && k.Until.Before(end) {
		end = k.Until
	}
	return age(end.Sub(now))
}

func usedAgo(k admin.KeyRow, now time.Time) string {
	switch d := now.Sub(k.LastUsed); {
	case k.LastUsed.IsZero():
		return "never"
	case d < 2*time.Minute: // minutes are all that is kept
		return "just now"
	default:
		return age(d.Truncate(time.Minute)) + " ago"
	}
}

func keyState(k admin.KeyRow) string {
	state := strings.ReplaceAll(k.State, "_", " ")
	if k.State == "active" && !k.Until.IsZero() {
		state = "rotating out"
	}
	if k.Env != "live" {
		state += ", " + k.Env
	}
	if !k.Exposed.IsZero() {
		state += ", exposed"
	}
	return state
}

func keyShowCommand() *command {
	return &command{
		name:     "key show",
		summary:  "Show one API key: what it is for, and its secrets by their ids.",
		examples: []string{"countersign key show partner-ci"},
		usage:    "NAME [flags]",
		about:    `The key itself is never shown again: only a hash of it is kept.`,
		flags:    func(f *flags) { f.doc("n,namespace", "NS", "[default]") },
		see:      "countersign key rotate, countersign get apikeys -o yaml",
		run: func(ctx context.Context, e *env, args []string) error {
			ns, name, err := e.keyName(args, "partner")
			if err != nil {
				return err
			}
			return e.keyShow(ctx, ns, name)
		},
	}
}

func (e *env) keyShow(ctx context.Context, ns, name string) error {
	list, err := askServer[admin.KeyList](ctx, e, "/v1/key/list", admin.KeyQuery{Namespace: ns, Name: name})
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	now := time.Now()
	k := list.Keys[0]
	var b strings.Builder
	line := func(label string, values ...string) {
		if text := strings.Join(values, "  "); text != "" {
			fmt.Fprintf(&b, "  %-9s  %s\n", label, stranger(text))
		}
	}
	fmt.Fprintf(&b, "APIKey/%s/%s   principal key:%s:%s\n", k.Namespace, k.Name, k.Namespace, k.Name)
	line("owner", k.Owner)
	line("env", k.Env)
	line("audiences", k.Audiences...)
	line("routes", k.Routes...)
	line("scopes", k.Scopes...)
	line("from", k.CIDRs...)
	line("limits", k.LimitClass)
	line("ends", k.Expires.UTC().Format(time.RFC3339))
	line("made by", k.CreatedBy)
	var notes []string
	for _, x := range list.Keys {
		text := x.ID + "  " + keyState(x) + ", made " + x.Created.UTC().Format(time.DateOnly) + ", used " + usedAgo(x, now)
		if !x.Until.IsZero() {
			text += ", " + ending(x.Until, now)
		}
		line("secret", text)
		if x.Where != "" {
			line("exposed", x.Exposed.UTC().Format(time.RFC3339)+" in "+x.Where)
		}
		notes = append(notes, x.Notes...)
	}
	if _, err := io.WriteString(e.out, b.String()); err != nil {
		return err
	}
	for _, n := range notes {
		e.say("note: %s", escape(n))
	}
	return nil
}
