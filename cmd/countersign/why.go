package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
)

type whyOptions struct{ from, to, port, host string }

func whyCommand() *command {
	var o whyOptions
	return &command{
		name:    "why",
		summary: "Explain why a call was refused, and what would allow it.",
		examples: []string{
			"countersign why                               # the last refusal",
			"countersign why q7d3k9x2                      # that decision",
			"countersign why web api 'GET /orders/17'      # what would happen",
		},
		usage: "[ID | FROM TO 'METHOD PATH'] [flags]",
		about: `Names the layer that refused (connection, message, token, policy, limit, route),
the deciding rule with file and line, the nearest rules that did not match with
the fields that missed, and the smallest change that would allow exactly this.
Exit 0 if explained or allowed; 1 if FROM TO 'METHOD PATH' would be refused.`,
		flags: func(f *flags) {
			f.text(&o.from, "from", "NAME", "the last refusal of this caller")
			f.text(&o.to, "to", "NAME", "the last refusal of a call to this workload")
			f.text(&o.port, "port", "PORT", "of FROM TO 'METHOD PATH'  [the first of TO]")
			f.text(&o.host, "host", "HOST", "of FROM TO 'METHOD PATH'  [TO]")
			f.doc("n,namespace", "NS", "of bare names  [default]")
		},
		see: "countersign tap, countersign allow",
		run: func(ctx context.Context, e *env, args []string) error { return e.why(ctx, o, args) },
	}
}

func (e *env) why(ctx context.Context, o whyOptions, args []string) error {
	req := admin.WhyRequest{From: o.from, To: o.to, Namespace: e.namespace}
	between := o.from != "" || o.to != ""
	call := o.port != "" || o.host != ""
	switch {
	case len(args) > 3:
		return usage("why takes one request at a time", "countersign why "+args[0]+" "+args[1]+" "+admin.ShellQuote(args[2]))
	case len(args) > 0 && between:
		return usage("--from and --to stand alone", "countersign why --from web --to api")
	case call && len(args) != 3:
		return usage("--port and --host belong to FROM TO 'METHOD PATH'", "countersign why web api 'GET /orders/17'")
	case len(args) == 2:
		return usage("why FROM TO: not without a request in this release", fmt.Sprintf("countersign why %s %s 'GET /orders/17'", args[0], args[1]))
	case len(args) == 3:
		return e.whyCall(ctx, o, args)
	case len(args) == 1 && len(args[0]) < 6:
		return usage(fmt.Sprintf("decision %q: an id has 26 characters, 6 are fewest", args[0]), "countersign tap --refused")
	case len(args) == 1:
		req.ID = args[0]
	}
	w, err := askNode[admin.Why](ctx, e, "/v1/why", req)
	var p *admin.Problem
	if errors.As(err, &p) && p.Code == "nothing_refused" {
		e.say("%s", p.Message)
		return nil
	}
	if errors.As(err, &p) && p.Code == "no_decision" && req.ID != "" { // it may be one of the token service
		if issued, asked := askServer[admin.Why](ctx, e, "/v1/why", req); asked == nil {
			w, err = issued, nil
		}
	}
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(w)
	}
	return e.explain(w, true)
}

// whyCall asks the server what would happen: exit 1 if it would be refused.
func (e *env) whyCall(ctx context.Context, o whyOptions, args []string) error {
	w, err := askServer[admin.Why](ctx, e, "/v1/why", admin.WhyRequest{
		From: args[0], To: args[1], Request: args[2], Namespace: e.namespace, Port: o.port, Host: o.host,
	})
	if err != nil {
		return err
	}
	if e.json {
		err = e.printJSON(w)
	} else {
		err = e.explain(w, false)
	}
	if err == nil && w.Decision != audit.Allow {
		return exit(exitFailed)
	}
	return err
}

// explain writes the answer in the form of cli.md 10.9. happened: of a decision that was made.
func (e *env) explain(w admin.Why, happened bool) error {
	var b strings.Builder
	b.WriteString(e.verdict(w, happened) + "\n")
	if happened {
		e.facts(&b, w)
	}
	for _, line := range w.Lines {
		b.WriteString(escape(line) + "\n")
	}
	for i, m := range w.Nearest {
		e.nearMiss(&b, i+1, m)
	}
	if w.Hint != "" {
		b.WriteString("hint: " + escape(w.Hint) + "\n")
	}
	_, err := fmt.Fprint(e.out, b.String())
	return err
}

// atLayer is how each layer says that it was the one.
var atLayer = map[string]string{
	audit.LayerTLS: "at the connection", audit.LayerHTTP: "as a message", audit.LayerToken: "for its token",
	audit.LayerAuthz: "by policy", audit.LayerLimit: "by a limit", audit.LayerRoute: "without a route",
	audit.LayerIssue: "by the token service",
}

// verdict is the first line: refused 3s ago by policy   q7d3k9x2m4v8r1t6w5z0a3c7er
func (e *env) verdict(w admin.Why, happened bool) string {
	word, colour := "refused", red
	switch w.Decision {
	case audit.Allow:
		word, colour = "allowed", green
	case audit.Failed:
		word = "failed"
	}
	if !happened {
		word = "would be " + word
	} else if !w.Time.IsZero() {
		word += " " + when(w.Time)
	}
	if at := atLayer[w.Layer]; at != "" && w.Decision != audit.Allow {
		word += " " + at
	}
	line := e.tint(e.out, colour, word)
	if w.ID != "" {
		line += "   " + e.tint(e.out, dim, w.ID)
	}
	return line
}

// when is relative for what is fresh, an instant for the rest.
func when(t time.Time) string {
	if d := time.Since(t); d < time.Hour {
		return age(d) + " ago"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// facts are who called whom for what, who was proven, and the policy that was enforced.
func (e *env) facts(b *strings.Builder, w admin.Why) {
	from, to := arrowEnds(w.Call)
	line := func(label, text string) { fmt.Fprintf(b, "  %-8s  %s\n", label, text) }
	line("call", strings.TrimRight(from+" "+mark("→")+" "+to+"   "+strings.TrimSpace(w.Call.Method+" "+stranger(w.Call.Path)), " "))
	switch {
	case w.Peer == nil && w.KeyID != "" && strings.HasPrefix(w.For, "key:"):
		line("caller", "nobody was proven by a certificate; API key "+stranger(w.KeyID))
	case w.Peer == nil && w.KeyID != "":
		line("caller", "nobody was proven; it showed API key "+stranger(w.KeyID))
	case w.Peer == nil:
		line("caller", "nobody was proven")
	case w.Peer.SPIFFEID != "":
		_, label, ok := strings.Cut(from, "/")
		if !ok {
			label = from
		}
		if utf8.RuneCountInString(label) > 20 {
			label = "caller"
		}
		line(label, stranger(w.Peer.SPIFFEID)+", proven by its certificate")
	default:
		line("caller", "it claims to be "+stranger(w.Peer.ClaimedID)+"; nothing was proven")
	}
	if w.Listener != "" {
		at := "Gateway/" + stranger(w.Gateway) + " " + stranger(w.Listener)
		if w.RouteRule != "" {
			at += ", HTTPRoute/" + stranger(w.RouteRule)
		}
		line("at", at)
	}
	if w.For != "" {
		who := stranger(w.For)
		if strings.HasPrefix(w.For, "p1:") {
			who += " (a user)"
		}
		line("for", who)
	}
	if w.PolicyRevision != "" && w.Layer == audit.LayerAuthz {
		line("policy", fmt.Sprintf("%s, revision %d", w.PolicyRevision[:min(12, len(w.PolicyRevision))], w.Revision))
	}
}

func arrowEnds(c admin.Call) (from, to string) {
	from, to = stranger(c.From), stranger(c.To)
	if from == "" {
		from = "?"
	}
	if to == "" {
		to = "?"
	}
	return from, to
}

// nearMiss is a rule that nearly matched, with the fields that missed.
func (e *env) nearMiss(b *strings.Builder, number int, m admin.Miss) {
	where := ""
	switch {
	case m.Place != nil && m.Place.File != "":
		where = "   " + escape(m.Place.String())
	case m.WrittenBy != "":
		where = "   written by " + escape(m.WrittenBy)
	}
	fmt.Fprintf(b, "  %d  %s#%d%s\n", number, m.Policy, m.Rule, where)
	width := len("principal")
	for _, f := range m.Misses {
		width = max(width, utf8.RuneCountInString(f.Field))
	}
	for _, f := range m.Misses {
		allows := strings.Join(f.Allows, ", ")
		if f.More > 0 {
			allows += fmt.Sprintf(" and %d more", f.More)
		}
		got := stranger(f.Got)
		if got == "" {
			got = "(absent)"
		}
		fmt.Fprintf(b, "       %-*s  allows %s; got %s\n", width, escape(f.Field), escape(allows), got)
	}
}
