package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"countersign.dev/internal/admin"
)

const helpWidth = 80

// rootHelp is `countersign help`; all shows what is hidden too.
func rootHelp(all bool) string {
	var b strings.Builder
	b.WriteString(`Countersign proves who is calling, on every call.

  countersign demo                              see it work, in one command
  countersign up                                start everything on this machine
  countersign run api --port 8081 -- ./api      give a program an identity
  countersign allow web api 'GET /orders/{*}'   say what it may do
  countersign why                               explain the last refusal

Every day
  up, down     server, node and store in one process; end it
  demo         the same with a small shop of real programs and an intruder
  run          run a program as a workload
  allow        write the policy that allows exactly this
  expose       open one front door: a host name, a service, who may enter
  why          explain a refusal, or what would happen
  tap          decisions as they are made
  status       what runs, what lags, when certificates end

Objects (Istio and Gateway API files as they are)
  apply, get, delete

Identity        ca
Tokens          token  client  jwt  key
Gateway         route
Program         version  help
`)
	if all {
		b.WriteString("\nHidden\n")
		for _, c := range commands() {
			if c.hidden {
				fmt.Fprintf(&b, "  %-12s %s\n", c.name, strings.ToLower(c.summary[:1])+strings.TrimSuffix(c.summary[1:], "."))
			}
		}
	}
	b.WriteString(`
  --dir DIR        data directory                [~/.local/state/countersign]
  --server ADDR    unix:///path of a socket      [the one on this machine]
  -n, -A           a namespace; all namespaces   [default]
  --json           data for programs
  -q, --no-color, --timeout D, --yes

countersign help COMMAND shows more. Exit: 0 done, 1 no, 2 usage.
`)
	return b.String()
}

// nounHelp is the help of a noun alone: its verbs.
func nounHelp(noun string) string {
	noun = singular(noun)
	var b strings.Builder
	about := map[string]string{
		"ca":     "The authorities of this mesh: what their keys are, and what they signed.",
		"token":  "Access tokens of this mesh: get, exchange, judge and revoke them.",
		"client": "OAuth clients: who may ask for which tokens, beside the workloads themselves.",
		"jwt":    "Any JSON Web Token, offline.",
		"key":    "API keys: make, rotate and end them, and find those that leaked.",
		"route":  "The routes of Gateways: which rule takes a request, and why.",
	}[noun]
	if about == "" {
		about = noun + " needs a verb."
	}
	fmt.Fprintf(&b, "%s\n\n", about)
	width := 0
	var verbs []*command
	for _, c := range commands() {
		if strings.HasPrefix(c.name, noun+" ") && !c.hidden {
			verbs = append(verbs, c)
			width = max(width, len(c.name))
		}
	}
	for _, c := range verbs {
		fmt.Fprintf(&b, "  %-*s   %s\n", width, c.name, strings.ToLower(c.summary[:1])+strings.TrimSuffix(c.summary[1:], "."))
	}
	fmt.Fprintf(&b, "\nusage: countersign %s VERB [flags]\n", noun)
	return b.String()
}

// helpText is the help of one command, in the layout of cli.md 8.
func helpText(c *command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", c.summary)
	for _, x := range c.examples {
		fmt.Fprintf(&b, "  %s\n", x)
	}
	fmt.Fprintf(&b, "\nusage: %s\n", strings.TrimSpace("countersign "+c.name+" "+c.usage))
	if c.about != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(c.about))
	}
	if c.flags != nil {
		f := newFlags(c.name)
		c.flags(f)
		if lines := flagLines(f.order); len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s\n", strings.Join(lines, "\n"))
		}
	}
	if c.see != "" {
		fmt.Fprintf(&b, "\nsee also: %s\n", c.see)
	}
	return b.String()
}

// flagLines aligns flags, what they do, and at the right edge their defaults.
func flagLines(docs []flagDoc) []string {
	type line struct{ label, text, standard string }
	var lines []line
	labels, texts := 0, 0
	for _, d := range docs {
		label := flagLabel(d)
		for i, text := range strings.Split(d.text, "\n") {
			l := line{text: text}
			if i == 0 {
				l.label = label
			}
			if at := strings.LastIndex(text, "  ["); at >= 0 && strings.HasSuffix(text, "]") {
				l.text, l.standard = strings.TrimRight(text[:at], " "), text[at+2:]
			}
			lines = append(lines, l)
			labels = max(labels, len(l.label))
			width := utf8.RuneCountInString(l.text)
			if l.standard != "" {
				width += 2 + utf8.RuneCountInString(l.standard)
			}
			texts = max(texts, width)
		}
	}
	gap := 3
	if 2+labels+gap+texts > helpWidth {
		gap = 2
	}
	var out []string
	for _, l := range lines {
		s := fmt.Sprintf("  %-*s%s", labels+gap, l.label, l.text)
		if l.standard != "" {
			pad := texts - utf8.RuneCountInString(l.text) - utf8.RuneCountInString(l.standard)
			s += strings.Repeat(" ", max(2, pad)) + l.standard
		}
		out = append(out, s)
	}
	return out
}

// flagLabel is "-n, --namespace NS".
func flagLabel(d flagDoc) string {
	var names []string
	for _, n := range strings.Split(d.name, ",") {
		names = append(names, dashed(n))
	}
	label := strings.Join(names, ", ")
	if d.value == "" || strings.HasPrefix(d.value, "[") {
		return label + d.value
	}
	return label + " " + d.value
}

// help answers `countersign help [COMMAND]`.
func (e *env) help(args []string) error {
	switch {
	case len(args) == 0, args[0] == "-h", args[0] == "--help":
		fmt.Fprint(e.out, rootHelp(false))
		return nil
	case args[0] == "--all":
		fmt.Fprint(e.out, rootHelp(true))
		return nil
	case args[0] == "help":
		fmt.Fprint(e.out, rootHelp(false))
		return nil
	}
	cmd, rest, err := find(args)
	switch {
	case err != nil:
		return err
	case cmd == nil:
		fmt.Fprint(e.out, nounHelp(args[0]))
		return nil
	case len(rest) > 0:
		return &admin.Problem{Code: "usage", Exit: exitUsage, Message: fmt.Sprintf("help takes no argument %q", rest[0]), Hints: []string{"countersign help " + cmd.name}}
	}
	fmt.Fprint(e.out, helpText(cmd))
	return nil
}
