package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/admin"
)

func routeListCommand() *command {
	return &command{
		name:     "route list",
		summary:  "List what the Gateways route where, in order of precedence.",
		examples: []string{"countersign route list", "countersign route list -n shop --json"},
		usage:    "[flags]",
		about: `A row is one match of a rule on one listener; of those that fit a request the
first takes it. BACKENDS shows shares; one that answers 500 says why.`,
		flags: func(f *flags) {
			f.doc("n,namespace", "NS", "routes of NS alone  [every namespace]")
		},
		see: "countersign route test, countersign get httproutes",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.routeList(ctx)
		},
	}
}

func (e *env) routeList(ctx context.Context) error {
	q := admin.RouteQuery{}
	if e.named {
		q.Namespace = e.namespace
	}
	list, err := askServer[admin.Routes](ctx, e, "/v1/routes", q)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	for _, l := range list.Listeners {
		if l.Fault != "" {
			e.say("note: %s does not serve: %s", e.listenerName(l.Gateway, l.Port, l.Listener), escape(l.Fault))
		}
	}
	if len(list.Routes) == 0 {
		e.say("no routes; countersign apply -f takes a Gateway and HTTPRoutes")
		return nil
	}
	return e.routeTable(list.Routes)
}

func (e *env) routeTable(rows []admin.RouteRow) error {
	t := newTable("LISTENER", "HOST", "MATCH", "BACKENDS", "FROM")
	for _, r := range rows {
		t.add(e.listenerName(r.Gateway, r.Port, r.Listener), hostOrAny(r.Host), stranger(r.Match), stranger(e.destination(r)), ruleOf(r.Route, r.Rule, r.RuleName))
	}
	return e.printTable(t)
}

// listenerName is edge:8443 https.
func (e *env) listenerName(gateway string, port uint16, listener string) string {
	return fmt.Sprintf("%s:%d %s", e.bare(gateway), port, listener)
}

// bare leaves the namespace in force away from ns/name.
func (e *env) bare(name string) string {
	namespace, last, _ := strings.Cut(name, "/")
	return admin.Bare(namespace, last, e.inForce())
}

func hostOrAny(host string) string { return cmp.Or(host, "*") }

// ruleOf is how people and records name a rule of a route.
func ruleOf(route string, rule int, name string) string {
	return route + "#" + cmp.Or(name, strconv.Itoa(rule))
}

// destination is what becomes of requests that a rule takes.
func (e *env) destination(r admin.RouteRow) string {
	switch {
	case r.Fault != "":
		return "500: " + r.Fault
	case r.Redirect != "":
		return mark("→") + " " + r.Redirect
	}
	return strings.Join(e.shares(r.Backends), ", ")
}

// shares are the backends with their percentages.
func (e *env) shares(backends []admin.RouteBackend) []string {
	total := 0
	for _, b := range backends {
		total += b.Weight
	}
	var out []string
	for _, b := range backends {
		share := e.bare(b.Service) + " " + percent(b.Weight, total)
		if b.Plaintext && b.Status == 0 {
			share += " (plaintext)"
		}
		if b.Status != 0 {
			share += fmt.Sprintf(" (%d: %s)", b.Status, b.Reason)
		}
		out = append(out, share)
	}
	return out
}

// percent is a share for people: 90 %, 33.3 %.
func percent(part, of int) string {
	if part == 0 || of == 0 {
		return "0 %"
	}
	p := 100 * float64(part) / float64(of)
	if p < 0.1 {
		return "< 0.1 %"
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', 1, 64), ".0") + " %"
}

func routeShowCommand() *command {
	return &command{
		name:     "route show",
		summary:  "Show what a Gateway does for one host.",
		examples: []string{"countersign route show shop.test"},
		usage:    "HOST [flags]",
		about: `The listeners that take its requests, their certificates, what is refused in
paths and why, and all rules that may take one, in order of precedence.`,
		see: "countersign route test, countersign route list",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usage("route show takes one HOST", "countersign route show shop.test")
			}
			return e.routeShow(ctx, args[0])
		},
	}
}

func (e *env) routeShow(ctx context.Context, host string) error {
	q := admin.RouteQuery{Host: host}
	if e.named {
		q.Namespace = e.namespace
	}
	list, err := askServer[admin.Routes](ctx, e, "/v1/routes", q)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	var b strings.Builder
	for _, l := range list.Listeners {
		fmt.Fprintf(&b, "Gateway/%s %s, port %d, %s, host %s\n", l.Gateway, l.Listener, l.Port, l.Protocol, hostOrAny(l.Hostname))
		line := func(label, text string) { fmt.Fprintf(&b, "  %-11s  %s\n", label, escape(text)) }
		if l.Fault != "" {
			line("serves", "not: "+l.Fault)
		}
		if l.Certificate != "" {
			line("certificate", l.Certificate)
		}
		if len(l.Options) > 0 {
			line("options", strings.Join(l.Options, "; "))
		}
		if l.StrictBecause != "" {
			line("strict", "paths with %2F %5C %25 %3B %23 or %3F are refused: "+l.StrictBecause)
		}
	}
	if _, err := fmt.Fprintln(e.out, b.String()); err != nil { // an empty line ends it
		return err
	}
	if len(list.Routes) == 0 {
		e.say("no route has this host: every request gets 404")
		return nil
	}
	if err := e.routeTable(list.Routes); err != nil {
		return err
	}
	for _, part := range []struct {
		title string
		of    func(admin.RouteRow) []string
	}{
		{"limits", func(r admin.RouteRow) []string { return r.Limits }},
		{"options", func(r admin.RouteRow) []string { return r.Options }},
		{"needs", func(r admin.RouteRow) []string {
			return slices.DeleteFunc([]string{r.Needs}, func(s string) bool { return s == "" })
		}},
	} {
		if err := e.ruleLines(part.title, list.Routes, part.of); err != nil {
			return err
		}
	}
	return nil
}

// ruleLines are what holds for rules, each with the rules that it holds for.
func (e *env) ruleLines(title string, rows []admin.RouteRow, of func(admin.RouteRow) []string) error {
	var order []string
	from := map[string][]string{}
	for _, r := range rows {
		for _, text := range of(r) {
			if from[text] == nil {
				order = append(order, text)
			}
			if name := ruleOf(r.Route, r.Rule, r.RuleName); !slices.Contains(from[text], name) {
				from[text] = append(from[text], name)
			}
		}
	}
	var b strings.Builder
	for i, text := range order {
		if i == 0 {
			b.WriteString("\n" + title + ":\n")
		}
		b.WriteString("  " + escape(text) + "   " + strings.Join(from[text], ", ") + "\n")
	}
	_, err := fmt.Fprint(e.out, b.String())
	return err
}
