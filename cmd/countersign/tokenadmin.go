package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/jose"
)

func tokenVerifyCommand() *command {
	var audience string
	return &command{
		name:     "token verify",
		summary:  "Judge access tokens as a proxy of this mesh would.",
		examples: []string{"countersign token verify --audience payments < tokens", "countersign token verify --json < tokens"},
		usage:    "[flags] < TOKENS",
		about: `One token a line, one verdict a line, revocation included. Whether who shows it
is the one it is bound to, only a proxy can tell. Exit 1 if any is refused.`,
		flags: func(f *flags) {
			f.text(&audience, "audience", "A", "must be for A: a service, or an audience  [any]")
			f.doc("n,namespace", "NS", "of a bare service  [default]")
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

// verifyBatch is how many tokens are asked about at once, while more wait on stdin.
const verifyBatch = 200

func (e *env) tokenVerify(ctx context.Context, audience string) error {
	if err := e.notEmpty(map[string]string{"audience": audience}); err != nil {
		return err
	}
	var batch []tokenLine
	bad := false
	ask := func() error {
		if len(batch) == 0 {
			return nil
		}
		req := admin.TokenVerify{Audience: audience, Namespace: e.inForce()}
		for _, l := range batch {
			req.Tokens = append(req.Tokens, l.token)
		}
		list, err := askServer[admin.TokenVerdicts](ctx, e, "/v1/token/verify", req)
		if err != nil {
			return err
		}
		if len(list.Verdicts) != len(batch) {
			return fmt.Errorf("judging tokens: %d verdicts on %d tokens", len(list.Verdicts), len(batch))
		}
		for i, v := range list.Verdicts {
			bad = bad || !v.OK
			if err := e.printVerdict(verdictOf(v, batch[i]), time.Now()); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	err := e.eachToken(ctx, e.in, "stdin", func(l tokenLine) error {
		batch = append(batch, l)
		if l.more && len(batch) < verifyBatch {
			return nil
		}
		return ask()
	})
	if err == nil {
		err = ask()
	}
	if err == nil && bad {
		return exit(exitFailed)
	}
	return err
}

// verdictOf is the server's verdict, with what a good token says of itself.
func verdictOf(v admin.TokenVerdict, l tokenLine) verdict {
	out := verdict{Line: l.number, OK: v.OK, Reason: v.Reason, Text: v.Text}
	if !v.OK {
		return out
	}
	out.Subject, out.Issuer, out.Typ, out.Alg = v.Subject, v.Issuer, v.Typ, v.Alg
	out.Binding, out.Actors, out.Scopes = v.Binding, v.Actors, v.Scopes
	out.until(v.Expires)
	if u, err := jose.Inspect(l.token); err == nil {
		out.KeyID = u.KeyID
		for _, m := range u.Claims {
			var one string
			if m.Name == "aud" && json.Unmarshal([]byte(m.Value), &one) == nil {
				out.Audience = []string{one}
			} else if m.Name == "aud" {
				_ = json.Unmarshal([]byte(m.Value), &out.Audience)
			}
		}
	}
	return out
}

type revokeOptions struct {
	jti, rti, sid, sub, client, kid, before string
}

func tokenRevokeCommand() *command {
	var o revokeOptions
	return &command{
		name:    "token revoke",
		summary: "End a token and what was exchanged from it, everywhere.",
		examples: []string{
			"countersign token revoke < token",
			"countersign token revoke --client spiffe://cluster.local/ns/shop/sa/web",
			"countersign token revoke --before 2h --yes",
		},
		usage: "[flags] [< TOKEN]",
		about: `Without a flag the token on stdin is revoked. --sub and --client end what was
issued until now. Nodes refuse at once, and close what is open under it.`,
		flags: func(f *flags) {
			f.text(&o.jti, "jti", "ID", "one token, and what descends from it")
			f.text(&o.rti, "rti", "ID", "a whole chain, by its root")
			f.text(&o.sid, "sid", "ID", "a sign-in")
			f.text(&o.sub, "sub", "SUB", "a subject")
			f.text(&o.client, "client", "ID", "a client: as such, as origin and as actor")
			f.text(&o.kid, "kid", "ID", "all that a key signed")
			f.text(&o.before, "before", "TIME", "all issued until TIME: RFC 3339, now, or 2h for 2 hours ago")
			f.doc("yes", "", "do not ask")
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

// entry is what the flags name, in the words of the log; ok is false when none was given.
func (o revokeOptions) entry(e *env, now time.Time) (req admin.TokenRevoke, ask string, ok bool, err error) {
	req.WaitMS = enforceWait.Milliseconds()
	const way = "countersign token revoke --jti ID"
	given := 0
	for _, f := range []struct{ kind, val, ask string }{
		{"jti", o.jti, ""}, {"rti", o.rti, ""}, {"sid", o.sid, ""}, {"sub", o.sub, ""},
		{"client", o.client, "revoke every token of client " + escape(o.client)},
		{"kid", o.kid, "revoke every token that key " + escape(o.kid) + " signed"},
		{"before", o.before, "revoke every token issued until " + escape(o.before)},
	} {
		if e.set[f.kind] {
			given++
			req.Kind, req.Val, ask = f.kind, f.val, f.ask
		}
	}
	switch {
	case given == 0:
		return req, "", false, nil
	case given > 1:
		return req, "", false, usage("token revoke takes one flag at a time", way)
	case req.Val == "":
		return req, "", false, usage("--"+req.Kind+" of token revoke is empty", "countersign help token revoke")
	case req.Kind != "before":
		return req, ask, true, nil
	}
	req.Val, req.Before = "", now
	if o.before != "now" {
		if req.Before, ok = instant(o.before, now); !ok {
			return req, "", false, usage(fmt.Sprintf("--before %q is no time", o.before), "countersign token revoke --before now")
		}
	}
	return req, ask, true, nil
}

func (e *env) tokenRevoke(ctx context.Context, o revokeOptions) error {
	req, ask, named, err := o.entry(e, time.Now())
	if err != nil {
		return err
	}
	if !named {
		if req.Token, err = e.oneToken(ctx, e.in, "stdin"); err != nil {
			return err
		}
	}
	if ask != "" {
		if err := e.confirm(ask, ""); err != nil {
			return err
		}
	}
	got, err := askServer[admin.TokenRevoked](ctx, e, "/v1/token/revoke", req)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(got)
	}
	what := got.Kind + " " + stranger(got.Val)
	switch got.Kind {
	case "jti":
		what = shortID(stranger(got.Val)) + ", and what was exchanged from it"
	case "before":
		what = "all that was issued until " + req.Before.UTC().Format(time.RFC3339)
	}
	if _, err := fmt.Fprintln(e.out, "revoked  "+what); err != nil {
		return err
	}
	e.sayHeard(got.Enforced)
	return nil
}

// sayHeard says who enforces the log of revoked tokens, and who is late.
func (e *env) sayHeard(got admin.Enforcement) {
	if len(got.Laggards) == 0 {
		e.say("enforced everywhere: %s, %d ms", counted(got.Of, "node"), got.MS)
		return
	}
	verb := "have"
	if len(got.Laggards) == 1 {
		verb = "has"
	}
	e.say("note: %s of %d %s not heard of it yet", counted(len(got.Laggards), "node"), got.Of, verb)
	for _, l := range got.Laggards {
		seen := "never seen"
		if !l.LastSeen.IsZero() {
			seen = "last seen " + age(time.Since(l.LastSeen)) + " ago"
		}
		e.say("  %-8s %s", "node "+escape(l.Node), seen)
	}
}

func tokenRotateCommand() *command {
	var req admin.TokenRotate
	return &command{
		name:     "token rotate",
		summary:  "Change the key that signs tokens; no token is refused for it.",
		examples: []string{"countersign token rotate", "countersign token rotate --now --revoke-previous"},
		usage:    "[flags]",
		about: `A new key is published, and signs two hours later, when every verifier outside
the mesh has read it. It happens by itself every day. --now waits for the nodes
alone; --revoke-previous is for a key that leaked.`,
		flags: func(f *flags) {
			f.yes(&req.Now, "now", "sign with the new key as soon as every node knows it")
			f.yes(&req.RevokePrevious, "revoke-previous", "end all that the old key signed; needs --now")
			f.doc("yes", "", "do not ask")
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

// rotateWait is how long the server waits for nodes that are away (tokens.md 10.2), and a
// little more.
const rotateWait = 10*time.Minute + 30*time.Second

func (e *env) tokenRotate(ctx context.Context, req admin.TokenRotate) error {
	if req.RevokePrevious && !req.Now {
		return usage("--revoke-previous needs --now: the key that signs cannot go before another does", "countersign token rotate --now --revoke-previous")
	}
	if req.RevokePrevious {
		if err := e.confirm("revoke every token that the key in use signed", ""); err != nil {
			return err
		}
	}
	got, err := e.rotate(ctx, req)
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
		t.add(k.KeyID, cmp.Or(keyStates[k.State], k.State), ago(since))
	}
	return e.printTable(t)
}

var keyStates = map[string]string{"prepare": "prepared", "publish": "published", "activate": "signs", "retire": "retired"}

// rotate asks, and says what is waited for once that lasts: a key signs when every node knows it.
func (e *env) rotate(ctx context.Context, req admin.TokenRotate) (admin.TokenRotated, error) {
	patient := *e
	if !e.set["timeout"] {
		patient.timeout = rotateWait
	}
	type answer struct {
		rotated admin.TokenRotated
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		got, err := askServer[admin.TokenRotated](ctx, &patient, "/v1/token/rotate", req)
		done <- answer{got, err}
	}()
	began, p := time.Now(), e.progress()
	defer p.end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case a := <-done:
			switch p, ok := errors.AsType[*admin.Problem](a.err); {
			case ctx.Err() != nil:
				return a.rotated, &admin.Problem{Code: "interrupted", Exit: exitSignal + 2, Message: "the rotation goes on; waiting was given up"}
			case ok && p.Code == "not_answering":
				p.Message, p.Hints = "rotating the key: no answer within "+spoken(patient.timeout)+"; the rotation goes on", []string{"countersign status"}
			}
			return a.rotated, a.err
		case <-tick.C:
			p.say("waiting until every node knows the new key  %s", spoken(time.Since(began)))
		}
	}
}
