package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

// Everything that writes goes the same way: ask, write, say what became of each object, and
// wait until it is enforced (cli.md 10.7).

const (
	enforceWait = 2 * time.Second // without --wait; who is late is only noted
	enforceStep = time.Second     // one question while waiting, so that progress is said
)

// write sends a request that changes objects. When the server wants a second word, a person is
// asked and again asks the server with it (cli.md 7).
func write[Request any](ctx context.Context, e *env, call, doing string, req Request, confirmed func(*Request)) (admin.ApplyReply, error) {
	if e.yes {
		confirmed(&req)
	}
	reply, err := askServer[admin.ApplyReply](ctx, e, call, req)
	var p *admin.Problem
	if errors.As(err, &p) && p.Code == "needs_yes" {
		if err := e.confirm(p.Message, "go on?"); err != nil {
			return reply, err
		}
		confirmed(&req)
		reply, err = askServer[admin.ApplyReply](ctx, e, call, req)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return reply, &admin.Problem{
			Code: "timeout", Message: fmt.Sprintf("%s: no answer within %s; it may have been done", doing, spoken(e.timeout)),
			Hints: []string{"countersign get ap -A"},
		}
	}
	return reply, err
}

// spoken is a duration in a sentence: 10 s.
func spoken(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

// confirm asks a person on the terminal, never on stdin; where nobody can be asked it is an
// error that says how to go on.
func (e *env) confirm(what, question string) error {
	if e.yes {
		return nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY, 0)
	if err != nil || !isTerminal(e.err) {
		if err == nil {
			tty.Close()
		}
		return &admin.Problem{Code: "needs_yes", Exit: exitUsage, Message: what + ": nobody can be asked here", Hints: []string{typed("countersign", e.args) + " --yes"}}
	}
	defer tty.Close()
	sep := ". "
	if question == "" {
		sep = "?"
	}
	fmt.Fprintf(e.err, "%s%s%s [y/N] ", what, sep, question)
	line, err := bufio.NewReader(tty).ReadString('\n')
	if err != nil && line == "" {
		return &admin.Problem{Code: "not_confirmed", Message: "nothing was changed"}
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return &admin.Problem{Code: "not_confirmed", Message: "nothing was changed"}
	}
	return nil
}

// typed is a command and its arguments for a shell.
func typed(command string, args []string) string {
	words := []string{command}
	for _, a := range args {
		words = append(words, word(a))
	}
	return strings.Join(words, " ")
}

// word is one word of a shell, quoted where it must be.
func word(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+", r)
	}) {
		return admin.ShellQuote(s)
	}
	return s
}

// written says what became of the objects and waits until nodes enforce it.
func (e *env) written(ctx context.Context, reply admin.ApplyReply, w wait) error {
	if !e.json {
		e.printResults(reply)
	}
	changed := slices.ContainsFunc(reply.Objects, func(r admin.Result) bool { return r.Result != "unchanged" })
	var late error
	if !reply.DryRun && (changed || w.given) && !(w.given && w.d == 0) {
		enforced, err := e.enforce(ctx, reply.Revision, w)
		if err != nil {
			return err
		}
		reply.Enforced = &enforced
		late = e.sayEnforced(reply, w)
	}
	if e.json {
		if err := e.printJSON(reply); err != nil {
			return err
		}
		return late
	}
	if reply.DryRun {
		e.say("nothing was changed (--dry-run)")
	}
	for _, line := range reply.Next {
		e.say("%s", line)
	}
	created := func(r admin.Result) bool { return r.Result == "created" }
	if late == nil && reply.Undo != "" && !reply.DryRun && slices.ContainsFunc(reply.Objects, created) {
		e.say("undo: %s", reply.Undo)
	}
	return late
}

// printResults is a line an object on stdout; warnings, notes and sentences are talk.
func (e *env) printResults(reply admin.ApplyReply) {
	width := len("unchanged")
	verbs := map[string]string{}
	if reply.DryRun {
		verbs = map[string]string{"created": "would create", "changed": "would change", "deleted": "would delete"}
		width = len("would create")
	}
	for _, r := range reply.Objects {
		verb := r.Result
		if v := verbs[verb]; v != "" {
			verb = v
		}
		fmt.Fprintf(e.out, "%-*s  %s\n", width, verb, objectName(r.Kind, r.Namespace, r.Name))
	}
	for _, f := range reply.Warnings {
		e.say("%s", f.String())
	}
	for _, n := range reply.Notes {
		e.say("note: %s", n)
	}
	if reply.Sentence != "" {
		e.say("%s", reply.Sentence)
	}
}

// enforce waits until every live node enforces a revision, and says so once that takes long.
func (e *env) enforce(ctx context.Context, revision int64, w wait) (admin.Enforcement, error) {
	longest := enforceWait
	if w.given {
		longest = w.d
	}
	began := time.Now()
	p := e.progress()
	defer p.end()
	for first := true; ; first = false {
		left := longest - time.Since(began)
		step := min(max(left, 0), enforceStep, max(e.timeout/2, time.Millisecond))
		got, err := askServer[admin.Enforcement](ctx, e, "/v1/enforced", map[string]int64{"revision": revision, "wait_ms": step.Milliseconds()})
		if ctx.Err() != nil {
			return got, &admin.Problem{Code: "interrupted", Exit: exitSignal + 2, Message: fmt.Sprintf("revision %d: it was applied; waiting was given up", revision)}
		}
		if err != nil {
			return got, err
		}
		took := time.Since(began)
		if !first {
			got.MS = took.Milliseconds()
		}
		if len(got.Laggards) == 0 || took >= longest {
			return got, nil
		}
		if took >= time.Second {
			p.say("waiting for %s  %d  %s", counted(got.Of, "node"), got.Nodes, spoken(took))
		}
	}
}

// sayEnforced is the last word on a write: everywhere, or who is late.
func (e *env) sayEnforced(reply admin.ApplyReply, w wait) error {
	got := reply.Enforced
	if len(got.Laggards) == 0 {
		if !e.json {
			e.say("enforced everywhere: revision %d, %s, %d ms", reply.Revision, counted(got.Of, "node"), got.MS)
		}
		return nil
	}
	noun := "nodes do"
	if got.Of == 1 {
		noun = "node does"
	}
	p := &admin.Problem{
		Code:    "laggards",
		Message: fmt.Sprintf("waiting for revision %d: %d of %d %s not enforce it", reply.Revision, len(got.Laggards), got.Of, noun),
		Hints:   []string{"countersign status"},
	}
	for _, l := range got.Laggards {
		text := fmt.Sprintf("at %d", l.Revision)
		if l.Refused != "" {
			text = fmt.Sprintf("refused %d: %s", reply.Revision, l.Refused)
		} else if !l.LastSeen.IsZero() {
			text += fmt.Sprintf(", last seen %s ago", age(time.Since(l.LastSeen)))
		}
		p.Details = append(p.Details, admin.Detail{Label: "node " + l.Node, Value: text})
	}
	if w.given {
		return p
	}
	if !e.json {
		e.say("note: %s", p.Message)
		for _, d := range p.Details {
			e.say("  %-8s %s", d.Label, escape(fmt.Sprint(d.Value)))
		}
	}
	return nil
}

// progress says what is being done once it lasts: one line, rewritten, on a terminal;
// elsewhere a line at most every five seconds (cli.md 6).
type progress struct {
	e       *env
	inPlace bool
	last    time.Time
}

func (e *env) progress() *progress {
	return &progress{e: e, inPlace: e.colour(e.err) && !e.quiet}
}

func (p *progress) say(format string, args ...any) {
	switch {
	case p.e.quiet || p.e.json:
	case p.inPlace:
		fmt.Fprintf(p.e.err, "\r\x1b[K"+format, args...)
		p.last = time.Now()
	case time.Since(p.last) >= 5*time.Second:
		p.e.say(format, args...)
		p.last = time.Now()
	}
}

func (p *progress) end() {
	if p.inPlace && !p.last.IsZero() {
		fmt.Fprint(p.e.err, "\r\x1b[K")
	}
}

// objectName is kind, namespace and name; objects of the whole mesh have no namespace.
func objectName(kind, namespace, name string) string {
	if namespace == "" {
		return kind + "/" + name
	}
	return kind + "/" + namespace + "/" + name
}
