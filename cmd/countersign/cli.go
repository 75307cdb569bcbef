package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/term"
)

// Exit statuses (cli.md 5).
const (
	exitFailed   = 1
	exitUsage    = 2
	exitCannot   = 125 // run could not start the program
	exitNotExec  = 126
	exitNotFound = 127
	exitSignal   = 128
)

// command is one sentence of the command line.
type command struct {
	name     string // "run", "ca status"
	summary  string // one sentence
	examples []string
	usage    string // what follows the name
	about    string // at most six lines
	flags    func(*flags)
	see      string
	hidden   bool
	view     bool // ends with 0 on SIGINT and SIGTERM, after a clean stop
	run      func(context.Context, *env, []string) error
}

// env is what a command is given: its streams, the global flags, and where things are.
type env struct {
	in          io.Reader
	out, err    io.Writer
	dir, server string
	namespace   string
	named       bool // -n was given
	all         bool
	output      string
	json        bool
	quiet       bool
	noColor     bool
	timeout     time.Duration
	yes         bool
	after       []string // what stands behind --
	dashes      bool     // there was a --
	cmd         *command
	set         map[string]bool // flags that were given
	args        []string        // as typed, for hints
	rest        []string        // of args, without the command's name
	told        map[string]bool // said once already
	peer        int             // pid of who was asked last
}

// exit ends the process with a status and no further word.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run is the whole program: parse, do, say.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	// A closed stdout (| head) is an error of a write, not the end of the process; caught, not
	// ignored, because what is ignored stays so for programs that are started.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	e := &env{in: in, out: out, err: errw, timeout: 10 * time.Second, args: args, told: map[string]bool{}}
	if len(args) == 0 {
		fmt.Fprint(out, rootHelp(false))
		return 0
	}
	err := e.main(ctx, args)
	return e.report(err)
}

// main finds the command, parses its flags and runs it.
func (e *env) main(ctx context.Context, args []string) error {
	before, after, dashes := args, []string(nil), false
	if i := slices.Index(args, "--"); i >= 0 {
		before, after, dashes = args[:i], args[i+1:], true
	}
	e.after, e.dashes = after, dashes
	e.json = slices.Contains(before, "--json") // also for what is wrong before flags are parsed
	if err := checkSecrets(before); err != nil {
		return err
	}
	leading, words, version, err := leadingFlags(before)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(e.out, rootHelp(false))
		return nil
	case err != nil:
		return err
	case version:
		fmt.Fprintln(e.out, versionLine())
		return nil
	case len(words) == 0 && dashes:
		return usage("a command is missing before --", "countersign help")
	case len(words) == 0:
		return usage("a command is missing", "countersign help")
	case words[0] == "help":
		return e.help(words[1:])
	}
	cmd, rest, err := find(words)
	if err != nil {
		return err
	}
	if cmd == nil { // a noun alone
		fmt.Fprint(e.err, nounHelp(words[0]))
		return &admin.Problem{Code: "missing_verb", Exit: exitUsage, Message: words[0] + " needs a verb"}
	}
	rest = slices.Concat(leading, rest)
	e.cmd, e.rest = cmd, slices.Concat(rest, args[len(before):])
	positional, err := e.parse(cmd, rest)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(e.out, helpText(cmd))
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := e.signals(ctx, cmd)
	defer stop()
	return cmd.run(ctx, e, positional)
}

// signals makes SIGINT and SIGTERM end ctx; a second one of a view ends the process at once.
func (e *env) signals(ctx context.Context, cmd *command) (context.Context, func()) {
	if cmd.name == "run" {
		return ctx, func() {} // it passes them on
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, ok := <-c; !ok {
			return
		}
		cancel(errInterrupted)
		if _, ok := <-c; ok {
			os.Exit(exitSignal + int(syscall.SIGINT))
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		close(c)
		<-done
		cancel(nil)
	}
}

var errInterrupted = errors.New("interrupted")

// find takes the words of a command off args: one, or noun and verb. A noun may be plural.
func find(args []string) (*command, []string, error) {
	table := commands()
	if plural(args) { // alone it lists
		args = append([]string{singular(args[0]), "list"}, args[1:]...)
	}
	for _, n := range []int{2, 1} {
		if len(args) < n {
			continue
		}
		words := slices.Clone(args[:n])
		if n == 2 {
			words[0] = singular(words[0])
		}
		name := strings.Join(words, " ")
		for _, c := range table {
			if c.name == name {
				return c, args[n:], nil
			}
		}
	}
	noun := singular(args[0])
	if slices.ContainsFunc(table, func(c *command) bool { return strings.HasPrefix(c.name, noun+" ") }) {
		if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			return nil, nil, unknownCommand(args[0]+" "+args[1], table)
		}
		if len(args) > 1 && (args[1] == "-h" || args[1] == "--help") {
			return &command{name: noun, run: func(_ context.Context, e *env, _ []string) error {
				fmt.Fprint(e.out, nounHelp(noun))
				return nil
			}}, nil, nil
		}
		return nil, nil, nil
	}
	return nil, nil, unknownCommand(args[0], table)
}

// foreign are names that people bring from elsewhere (cli.md 9.7), as far as ours exists.
var foreign = map[string]string{
	"explain": "why", "start": "up", "stop": "down", "ps": "status", "list": "status", "logs": "tap",
	"describe": "get", "create": "apply", "exec": "run", "intention": "allow", "permit": "allow", "doctor": "status", "check": "status",
	"revoke": "token revoke", "token inspect": "jwt inspect", "token clients": "client list", "token client": "client list", "jwt decode": "jwt inspect",
}

func unknownCommand(name string, table []*command) error {
	var names []string
	for _, c := range table {
		if !c.hidden {
			names = append(names, c.name)
		}
	}
	hint := "countersign help"
	if ours, ok := foreign[name]; ok {
		hint = "countersign " + ours
		if name == "describe" {
			hint = "countersign get ap -o yaml"
		}
	} else if n := nearest(name, names); n != "" {
		hint = "countersign " + n
	}
	return &admin.Problem{Code: "unknown_command", Exit: exitUsage, Message: fmt.Sprintf("unknown command %q", name), Hints: []string{hint}}
}

// plurals are the nouns that may be typed so.
var plurals = map[string]string{"cas": "ca", "tokens": "token", "clients": "client", "jwts": "jwt", "routes": "route", "keys": "key"}

func singular(noun string) string {
	if one, ok := plurals[noun]; ok {
		return one
	}
	return noun
}

// plural reports a noun in the plural without a verb, of things that can be listed.
func plural(args []string) bool {
	if len(args) == 0 || plurals[args[0]] == "" || len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return false
	}
	list := singular(args[0]) + " list"
	return slices.ContainsFunc(commands(), func(c *command) bool { return c.name == list })
}

// usage is an error of the one who typed; nothing was tried.
func usage(message string, hints ...string) error {
	return &admin.Problem{Code: "usage", Exit: exitUsage, Message: message, Hints: hints}
}

// noArgs refuses what a command has no use for.
func noArgs(cmd *command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Sprintf("%s takes no argument %q", cmd.name, args[0]), "countersign help "+cmd.name)
	}
	return nil
}

// colour reports whether a stream may be coloured.
func (e *env) colour(w io.Writer) bool {
	return !e.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// say is talk: stderr, unless --quiet.
func (e *env) say(format string, args ...any) {
	if !e.quiet {
		fmt.Fprintf(e.err, format+"\n", args...)
	}
}
