package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/identity"
)

// flags are those of one command: the standard package, asked again after each argument, so
// that flags may stand anywhere before --; a flag given twice is an error.
type flags struct {
	fs    *flag.FlagSet
	order []flagDoc
	seen  map[string]bool
}

type flagDoc struct{ name, value, text string }

func newFlags(name string) *flags {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return &flags{fs: fs, seen: map[string]bool{}}
}

// value adapts a function to flag.Value, once.
type value struct {
	f       *flags
	names   string
	shown   string
	set     func(string) error
	boolean bool
	repeat  bool
}

func (v *value) String() string   { return "" }
func (v *value) IsBoolFlag() bool { return v.boolean }
func (v *value) Set(s string) error {
	if v.f.seen[v.names] && !v.repeat {
		return errors.New("given twice")
	}
	v.f.seen[v.names] = true
	return v.set(s)
}

// add defines a flag under names ("n,namespace"); value is what help shows after it.
func (f *flags) add(names, shown, text string, boolean, repeat bool, set func(string) error) {
	v := &value{f: f, names: names, shown: shown, set: set, boolean: boolean, repeat: repeat}
	for _, n := range strings.Split(names, ",") {
		f.fs.Var(v, n, text)
	}
	if text != "" {
		f.order = append(f.order, flagDoc{names, shown, text})
	}
}

func (f *flags) text(p *string, names, shown, text string) {
	f.add(names, shown, text, false, false, func(s string) error { *p = s; return nil })
}

func (f *flags) list(p *[]string, names, shown, text string) {
	f.add(names, shown, text, false, true, func(s string) error { *p = append(*p, s); return nil })
}

func (f *flags) yes(p *bool, names, text string) {
	f.add(names, "", text, true, false, func(s string) error {
		switch s {
		case "true":
			*p = true
		case "false":
			*p = false
		default:
			return errors.New("it takes no value, or true or false")
		}
		return nil
	})
}

func (f *flags) duration(p *time.Duration, names, shown, text string) {
	f.add(names, shown, text, false, false, func(s string) error {
		d, err := parseDuration(s)
		*p = d
		return err
	})
}

// wait is --wait[=D]: alone it means 60s.
func (f *flags) wait(p *wait) {
	f.add("wait", "[=D]", "fail unless every live node enforces it in D      [60s]", true, false, func(s string) error {
		p.given = true
		p.d = time.Minute
		if s == "true" {
			return nil
		}
		d, err := parseDuration(s)
		p.d = d
		return err
	})
}

type wait struct {
	given bool
	d     time.Duration
}

// parseDuration reads Go's syntax plus d.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok && !strings.ContainsAny(days, "hms") {
		h, err := time.ParseDuration(days + "h")
		if err == nil && h >= 0 {
			return 24 * h, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("it is no duration; write 90s, 1h30m or 30d")
	}
	return d, nil
}

// global adds the flags that every command has.
func (e *env) global(f *flags) {
	f.text(&e.dir, "dir", "DIR", "")
	f.text(&e.server, "server", "ADDR", "")
	f.add("n,namespace", "NS", "", false, false, func(s string) error { e.namespace, e.named = s, true; return nil })
	f.yes(&e.all, "A,all-namespaces", "")
	f.text(&e.output, "o,output", "F", "")
	f.yes(&e.json, "json", "")
	f.yes(&e.quiet, "q,quiet", "")
	f.yes(&e.noColor, "no-color", "")
	f.duration(&e.timeout, "timeout", "D", "")
	f.yes(&e.yes, "yes", "")
}

// leadingFlags splits the global flags off that stand before the command (cli.md 2.1); parse
// reads them with the others.
func leadingFlags(args []string) (leading, words []string, version bool, err error) {
	f := newFlags("")
	(&env{}).global(f)
	f.yes(&version, "version", "")
	if err := f.fs.Parse(args); err != nil {
		return nil, nil, false, flagError(&command{}, f, err)
	}
	words = f.fs.Args()
	return args[:len(args)-len(words)], words, version, nil
}

// parse takes the flags off args, wherever they stand, and gives the rest.
func (e *env) parse(cmd *command, args []string) ([]string, error) {
	f := newFlags(cmd.name)
	e.global(f)
	if cmd.flags != nil {
		cmd.flags(f)
	}
	var rest []string
	for len(args) > 0 {
		if err := f.fs.Parse(args); err != nil {
			return nil, flagError(cmd, f, err)
		}
		args = f.fs.Args()
		if len(args) > 0 {
			rest = append(rest, args[0])
			args = args[1:]
		}
	}
	e.set = f.seen
	if e.all && e.named {
		return nil, usage("-A and -n exclude each other")
	}
	if e.output != "" && cmd.name != "get" {
		return nil, &admin.Problem{Code: "unknown_flag", Exit: exitUsage, Message: fmt.Sprintf("unknown flag \"-o\" of %s", cmd.name), Hints: []string{"countersign " + cmd.name + " --json"}}
	}
	if e.namespace == "" {
		e.namespace = os.Getenv("COUNTERSIGN_NAMESPACE")
	}
	if e.namespace != "" {
		if err := identity.CheckLabel(e.namespace); err != nil {
			return nil, usage(fmt.Sprintf("namespace %q: a-z, 0-9 and -, at most 63 bytes", e.namespace), "countersign "+cmd.name+" -n shop")
		}
	}
	return rest, nil
}

// inForce is the namespace of bare names.
func (e *env) inForce() string {
	if e.namespace == "" {
		return "default"
	}
	return e.namespace
}

// doc mentions a flag in a command's help that every command has.
func (f *flags) doc(names, shown, text string) {
	f.order = append(f.order, flagDoc{names, shown, text})
}

// flagError gives the standard package's words ours. A command without a name stands for the
// flags before it.
func flagError(cmd *command, f *flags, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	of, help := " of "+cmd.name, "countersign help "+cmd.name
	if cmd.name == "" {
		of, help = "", "countersign help"
	}
	text := err.Error()
	if unknown, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		shown := "--" + unknown
		if len(unknown) == 1 {
			shown = "-" + unknown
		}
		var names []string
		f.fs.VisitAll(func(x *flag.Flag) { names = append(names, x.Name) })
		hint := help
		if n := nearest(unknown, names); n != "" {
			v := f.fs.Lookup(n).Value.(*value)
			first, _, _ := strings.Cut(v.names, ",")
			hint = flagLabel(flagDoc{name: first, value: v.shown})
			if cmd.name == "" {
				hint = "did you mean " + hint + "?"
			} else {
				hint = "countersign " + cmd.name + " " + hint
			}
		}
		return &admin.Problem{Code: "unknown_flag", Exit: exitUsage, Message: fmt.Sprintf("unknown flag %q%s", shown, of), Hints: []string{hint}}
	}
	if flagged, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usage(dashed(flagged)+of+" needs a value", help)
	}
	if _, rest, ok := strings.Cut(text, " for flag -"); ok { // invalid value "x" for flag -port: why
		flagged, why, _ := strings.Cut(rest, ": ")
		return usage(fmt.Sprintf("%s%s: %s", dashed(flagged), of, why), help)
	}
	return usage(text, help)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
