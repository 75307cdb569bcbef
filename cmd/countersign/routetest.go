package main

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"countersign.dev/internal/admin"
)

func routeTestCommand() *command {
	var t admin.RouteTest
	return &command{
		name:    "route test",
		summary: "Say which rule of a Gateway takes a request. Nothing is sent.",
		examples: []string{
			"countersign route test GET https://shop.test/api/orders/17",
			"countersign route test -H 'X-Version: 2' GET http://shop.test:8080/",
		},
		usage: "METHOD URL [flags]",
		about: `Names the rule with file and line, why better placed ones do not take it,
what becomes of the request, which policy decides, and what it asks of a caller
who shows nothing. --as names one who shows what policy knows him by: an SVID,
or a token, of which no claims are known. A URL without a port means that of
its scheme, else any listener of its scheme.
Exit 1 if no rule takes it, or the Gateway refuses it.`,
		flags: func(f *flags) {
			f.list(&t.Header, "H", "'NAME: VALUE'", "a header field; may be repeated")
			f.text(&t.SNI, "sni", "NAME", "server name of the handshake  [the host of URL]")
			f.text(&t.SourceIP, "source-ip", "IP", "address that calls  [lists of addresses are not asked]")
			f.text(&t.As, "as", "PRINCIPAL", "a SPIFFE ID, key:NAMESPACE:NAME, or ISSUER/SUBJECT")
		},
		see: "countersign route list, countersign why",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 2 || args[0] == "" {
				return usage("route test takes METHOD and URL", "countersign route test GET https://shop.test/orders/17")
			}
			t.Method, t.URL = args[0], args[1]
			return e.routeTest(ctx, t)
		},
	}
}

func (e *env) routeTest(ctx context.Context, t admin.RouteTest) error {
	if err := e.notEmpty(map[string]string{"sni": t.SNI, "source-ip": t.SourceIP, "as": t.As}); err != nil {
		return err
	}
	v, err := askServer[admin.RouteVerdict](ctx, e, "/v1/route/test", t)
	if err != nil {
		return err
	}
	if e.json {
		err = e.printJSON(v)
	} else {
		err = e.routeVerdict(v)
	}
	if err == nil && (!v.Taken || v.Status >= 400) {
		return exit(exitFailed)
	}
	return err
}

// routeVerdict writes the answer in the form of cli.md 10.15.
func (e *env) routeVerdict(v admin.RouteVerdict) error {
	var b strings.Builder
	line := func(label, text string) { fmt.Fprintf(&b, "  %-8s  %s\n", label, escape(text)) }
	if v.Taken {
		b.WriteString(e.tint(e.out, green, "taken by HTTPRoute/"+ruleOf(v.Route, *v.Rule, v.RuleName)) + placed(v.Place) + "\n")
	} else {
		b.WriteString(e.tint(e.out, red, "no route takes it") + "\n")
		answer := ""
		if v.Status != 0 {
			answer = fmt.Sprintf("%d: ", v.Status)
		}
		line("answer", answer+v.Text)
	}
	if v.Listener != "" {
		at := fmt.Sprintf("Gateway/%s %s, port %d", v.Gateway, v.Listener, v.Port)
		if v.Taken {
			at += ", host " + hostKind(v.Host)
		}
		line("listener", at)
	}
	if v.Taken {
		line("match", v.Match)
		label := "then"
		for _, text := range e.then(v) {
			line(label, text)
			label = ""
		}
		label = "limits"
		for _, text := range v.Limits {
			line(label, text)
			label = ""
		}
		if v.Decides != "" {
			line("policy", v.Decides)
		}
		if v.Needs != "" {
			line("needs", v.Needs)
		}
	}
	e.routeMisses(&b, v)
	for _, n := range v.Notes {
		b.WriteString("note: " + escape(n) + "\n")
	}
	_, err := fmt.Fprint(e.out, b.String())
	return err
}

// hostKind says how precise the hostname is that takes a request.
func hostKind(host string) string {
	switch {
	case host == "":
		return "* (any)"
	case strings.HasPrefix(host, "*."):
		return host + " (wildcard)"
	}
	return host + " (exact)"
}

func placed(p *admin.Place) string {
	if p == nil {
		return ""
	}
	return "   " + escape(p.String())
}

// then is what becomes of a request, in the order of gateway.md 15: one line, and what is wrong with it below.
func (e *env) then(v admin.RouteVerdict) []string {
	steps, wrong := otherFilters(v.Filters), []string(nil)
	if v.RewrittenPath != "" {
		steps = append([]string{"path becomes " + v.RewrittenPath}, steps...)
	}
	for _, b := range v.Backends {
		name := e.bare(b.Service)
		for _, f := range b.Filters {
			steps = append(steps, f+" for "+name)
		}
		switch {
		case b.Fault != "":
			wrong = append(wrong, fmt.Sprintf("the share of %s gets %d: %s", name, b.Status, b.Fault))
		case b.Weight > 0 && b.State != "ready":
			wrong = append(wrong, fmt.Sprintf("%s has no instance that is ready", name))
		}
	}
	switch {
	case v.Location != "":
		steps = append(steps, fmt.Sprintf("answer %d, Location: %s", v.Status, v.Location))
	case v.Status != 0:
		steps = append(steps, fmt.Sprintf("answer %d: %s", v.Status, v.Text))
	default:
		steps = append(steps, strings.Join(e.shares(v.Backends), ", "))
	}
	return append([]string{strings.Join(steps, "; ")}, wrong...)
}

// otherFilters leaves out what is said with the request's own path or URL.
func otherFilters(filters []string) (out []string) {
	for _, f := range filters {
		if !strings.HasPrefix(f, "path becomes ") && !strings.HasPrefix(f, "prefix becomes ") && !strings.HasPrefix(f, "answers ") {
			out = append(out, f)
		}
	}
	return out
}

// routeMisses are the matches that do not take it: rule, what it asks for, and what the request has instead.
func (e *env) routeMisses(b *strings.Builder, v admin.RouteVerdict) {
	if len(v.Nearest) == 0 {
		return
	}
	if v.Taken {
		b.WriteString("better placed, and why not:\n")
	} else {
		b.WriteString("nearest:\n")
	}
	rules, forms := 0, 0
	for _, m := range v.Nearest {
		rules = max(rules, utf8.RuneCountInString(ruleOf(m.Route, m.Rule, m.RuleName)))
		forms = max(forms, utf8.RuneCountInString(stranger(m.Match)))
	}
	for i, m := range v.Nearest {
		fmt.Fprintf(b, "  %d  %-*s  %-*s  %s%s\n", i+1, rules, ruleOf(m.Route, m.Rule, m.RuleName), min(forms, 40), stranger(m.Match), stranger(m.Why), placed(m.Place))
	}
	if v.More > 0 {
		fmt.Fprintf(b, "  and %d more\n", v.More)
	}
}
