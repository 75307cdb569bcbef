//go:build linux

// Command bench measures the real program from outside: it builds the binary, starts it as a
// child, lets programs call each other through it, and asks the kernel what that cost.
//
// Its words: a hop is one proxy passed, of which every call here passes two; a cell is one
// subject (ours, nginx) at one number of connections, measured once a round; the crew are the
// processes that were started.
//
// Its promise: CPU time and not the clock is what it compares, rounds of both subjects are
// interleaved, a run with a single wrong answer has no result, nothing but loopback is spoken
// to, and every process it started is ended by its pid, also on Ctrl-C.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// options are the flags.
type options struct {
	binary  string
	nginx   string
	only    []string
	time    time.Duration
	warm    time.Duration
	rounds  int
	starts  int
	idle    time.Duration
	soak    time.Duration
	tokens  bool
	gateway bool
	caddy   string
	pin     int
	json    bool
}

// The parts that run unless -only names some.
var parts = []string{"hops", "start", "idle"}

func init() {
	// A child that is to end with this process ends with the thread that started it.
	runtime.LockOSThread()
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, in io.Reader, out, talk io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	switch {
	case len(args) == 2 && args[0] == programChild:
		err = serveProgram(ctx, args[1])
	case len(args) == 1 && args[0] == loadChild:
		err = serveLoad(ctx, in, out)
	case len(args) == 1 && args[0] == svidChild:
		err = printSVID(ctx, out)
	default:
		var o options
		if o, err = parse(args, talk); err == nil {
			err = measure(ctx, o, out, talk)
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(talk, "bench:", err)
	return 1
}

func parse(args []string, talk io.Writer) (options, error) {
	var o options
	var only string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(talk)
	fs.StringVar(&o.binary, "binary", "", "countersign to measure (default: it is built)")
	fs.StringVar(&o.nginx, "nginx", "", "nginx to hold it against (default: the installed one)")
	fs.StringVar(&only, "only", "", "parts to run: "+strings.Join(parts, ",")+"; of -gateway: "+strings.Join(gatewayParts, ","))
	fs.DurationVar(&o.time, "time", 3*time.Second, "of one cell")
	fs.DurationVar(&o.warm, "warm", 700*time.Millisecond, "before a cell is counted")
	fs.IntVar(&o.rounds, "rounds", 3, "of each cell; the median counts")
	fs.IntVar(&o.starts, "starts", 10, "of up, on fresh directories and on one that exists")
	fs.DurationVar(&o.idle, "quiet", 10*time.Second, "before idle memory is read")
	fs.DurationVar(&o.soak, "soak", 0, "call for so long over certificates of 10 s life, and nothing else")
	fs.BoolVar(&o.tokens, "tokens", false, "measure the token service against its aims, and nothing else")
	fs.BoolVar(&o.gateway, "gateway", false, "measure the gateway against its aims, and nothing else")
	fs.StringVar(&o.caddy, "caddy", "", "caddy to hold it against (default: the one on the path)")
	fs.IntVar(&o.pin, "pin", -1, "CPU for this process and all it starts")
	fs.BoolVar(&o.json, "json", false, "results as JSON")
	if err := fs.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	parts := parts
	if o.gateway {
		parts = gatewayParts
	}
	o.only = parts
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, part := range o.only {
		if !slices.Contains(parts, part) {
			return o, fmt.Errorf("-only %q: parts are %s", part, strings.Join(parts, ", "))
		}
	}
	if o.soak > 0 || o.tokens {
		o.only = nil
	}
	return o, nil
}

// stand is what every part needs: the binary, a directory for everything that is written, and
// who was started.
type stand struct {
	options
	crew crew
	dir  string
	self string // this binary, for the children that call and answer
	talk io.Writer
}

// measure runs the parts and prints what came of them. Whatever happens, the crew is ended.
func measure(ctx context.Context, o options, out, talk io.Writer) (err error) {
	s := &stand{options: o, talk: talk}
	if s.self, err = os.Executable(); err != nil {
		return fmt.Errorf("finding this binary: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "csbench"); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(s.dir)
	defer s.crew.end()
	if o.pin >= 0 {
		var set unix.CPUSet
		set.Set(o.pin)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pinning to CPU %d: %w", o.pin, err)
		}
	}
	if s.binary == "" {
		if err := s.build(ctx); err != nil {
			return err
		}
	}
	res := newResults(o)
	if o.gateway {
		if res.Gateway, err = s.gateway(ctx); err != nil {
			return fmt.Errorf("measuring the gateway: %w", err)
		}
		o.only = nil
	}
	for _, part := range o.only {
		switch part {
		case "hops":
			res.Hops, err = s.hops(ctx)
		case "start":
			res.Start, err = s.start(ctx)
		case "idle":
			res.Idle, err = s.atRest(ctx)
		}
		if err != nil {
			return fmt.Errorf("measuring %s: %w", part, err)
		}
	}
	if o.soak > 0 {
		if res.Soak, err = s.rotate(ctx); err != nil {
			return fmt.Errorf("measuring rotation: %w", err)
		}
	}
	if o.tokens {
		if res.Tokens, err = s.tokenService(ctx); err != nil {
			return fmt.Errorf("measuring tokens: %w", err)
		}
	}
	if o.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(res)
	} else {
		res.print(out)
	}
	if err == nil && res.Gateway != nil {
		err = res.Gateway.failed()
	}
	if err == nil && res.Soak != nil && res.Soak.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed: %s", res.Soak.Failed, res.Soak.Requests, res.Soak.First)
	}
	return err
}

func (s *stand) say(format string, args ...any) { fmt.Fprintf(s.talk, format+"\n", args...) }
