package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/files"
	"golang.org/x/sys/unix"
)

const (
	demosKept   = 3
	demoReady   = 30 * time.Second // longest time until the shop is open
	demoRefresh = 500 * time.Millisecond

	webID = "spiffe://cluster.local/ns/default/sa/web"

	// In the demo's directory.
	policiesFile = "policies.yaml"
	doorFile     = "door.yaml"
	rootsFile    = "ca.pem"
	tokenFile    = "customer.token"
	leakFile     = "leaked.token"
)

//go:embed demo.yaml
var demoPolicies string

//go:embed demodoor.yaml
var demoDoor string

func demoCommand() *command {
	var lasts time.Duration
	return &command{
		name: "demo", view: true,
		summary:  "See it work: up, with a small shop of real programs and an intruder.",
		examples: []string{"countersign demo", "countersign demo --for 10s"},
		usage:    "[flags]",
		about: `Ordinary HTTP programs call each other by name. A gateway is their front door:
customers come in with a token, partners with an API key and not too often,
nobody with nothing. Policies allow what the shop needs; a call for nobody, an
intruder and a stolen token are refused. Everything lies in a directory of its
own, <data>/demo/<time>, of which the last three are kept. Ctrl-C ends it.`,
		flags: func(f *flags) {
			f.duration(&lasts, "for", "D", "end after D with a summary; exit 1 if it is not as intended")
		},
		see: "countersign why, countersign tap, countersign up",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.demo(ctx, lasts)
		},
	}
}

// demo is one demo: a house of its own, the programs of the shop, and what is seen of them.
type demo struct {
	e        *env
	h        *house
	dir      string
	lasts    time.Duration
	began    time.Time
	node     *admin.Client
	table    audit.Table
	login    *loginService
	door     admin.Door // of the shop, for callers from outside
	children []*child
	died     chan *child
}

// demo opens a house in a directory of its own and plays the shop in it.
func (e *env) demo(ctx context.Context, lasts time.Duration) error {
	dir, err := e.demoDir(time.Now())
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "demo.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the demo's log: %w", err)
	}
	defer logFile.Close()
	d := &demo{e: e, dir: dir, lasts: lasts, began: time.Now(), died: make(chan *child, 8)}
	if d.login, err = newLoginService(dir); err != nil {
		return err
	}
	defer d.login.close()
	d.node = admin.NewClient(filepath.Join(dir, "run", "node.sock"), func(uint32) error { return nil })
	d.progress("starting")
	inner := *e // what `up` says goes to the log
	inner.dir, inner.err, inner.json = dir, logFile, false
	if d.h, err = inner.openHouse(ctx, upOptions{freePorts: true, log: "info"}); err != nil {
		d.progress("\n")
		return err
	}
	d.progress("  store " + mark("✓"))
	// The house lives until the programs have ended, whatever ends the show: Ctrl-C, --for, a
	// program that died, countersign down.
	life, closeHouse := context.WithCancel(context.WithoutCancel(ctx))
	defer closeHouse()
	show, stop := context.WithCancel(ctx)
	defer stop()
	played := make(chan error, 1)
	opened := false
	err = d.h.serve(life, func(*house) {
		opened = true
		go func() {
			defer closeHouse()
			played <- d.play(show)
		}()
	})
	stop()
	if opened {
		if showErr := <-played; showErr != nil {
			return showErr
		}
	}
	return err
}

// play opens the shop, shows it until it ends, and closes it.
func (d *demo) play(ctx context.Context) error {
	defer d.closeShop()
	tapped, untap := context.WithCancel(ctx)
	defer untap()
	over, err := d.watch(tapped)
	if err == nil {
		err = d.openShop(ctx)
	}
	if err != nil {
		d.progress("\n")
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	d.progress("\n")
	d.e.say("ready in %s in %s\n", seconds(time.Since(d.began)), tilde(d.dir))
	return d.show(ctx, over)
}

// demoDir makes the directory of this demo and removes all but the last three.
func (e *env) demoDir(now time.Time) (string, error) {
	data, err := e.dataDir()
	if err != nil {
		return "", err
	}
	demos := filepath.Join(data, "demo")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", (&house{data: data}).words(fmt.Errorf("making %s: %w", data, err))
	}
	root, err := files.PrivateDir(demos, 0o711)
	if err != nil {
		return "", (&house{data: data}).words(err)
	}
	root.Close()
	stamp := now.Format("20060102-150405")
	name := stamp
	for i := 2; ; i++ {
		err := os.Mkdir(filepath.Join(demos, name), 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || i > 100 {
			return "", fmt.Errorf("making %s: %w", filepath.Join(demos, name), err)
		}
		name = fmt.Sprintf("%s-%d", stamp, i)
	}
	forgetDemos(demos)
	return filepath.Join(demos, name), nil
}

var demoName = regexp.MustCompile(`^\d{8}-\d{6}(-\d+)?$`)

// forgetDemos removes all but the newest three, and never one that runs.
func forgetDemos(demos string) {
	entries, err := os.ReadDir(demos)
	if err != nil {
		return
	}
	var names []string
	for _, d := range entries {
		if d.IsDir() && demoName.MatchString(d.Name()) {
			names = append(names, d.Name())
		}
	}
	slices.Sort(names)
	for _, name := range names[:max(0, len(names)-demosKept)] {
		if dir := filepath.Join(demos, name); !locked(dir) {
			os.RemoveAll(dir)
		}
	}
}

// locked reports whether a process holds the server's lock of a data directory.
func locked(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "server", "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// watch feeds the table from a tap on the node's socket, as any client's. The channel is
// closed when the node ends.
func (d *demo) watch(ctx context.Context) (<-chan struct{}, error) {
	body, err := d.node.Open(ctx, "POST /v1/tap", tapRequest{})
	if err != nil {
		return nil, fmt.Errorf("watching the shop: %w", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer body.Close()
		in := bufio.NewReaderSize(body, 64<<10)
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			var rec audit.Record
			if json.Unmarshal(line, &rec) == nil {
				d.table.Feed(&rec)
			}
		}
	}()
	return over, nil
}

// openShop starts the programs, applies the policies as any client would, and returns once
// the first call for a customer, the first theft and the first limit are decided.
func (d *demo) openShop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoReady)
	defer cancel()
	d.progress(fmt.Sprintf("  authority %s  node %s", mark("✓"), mark("✓")))
	behind := []string{"payments", "inventory", "orders"}
	for _, name := range behind {
		if err := d.startServer(ctx, name); err != nil {
			return err
		}
	}
	if err := d.writeDoor(ctx); err != nil {
		return err
	}
	if _, err := d.client(ctx, "apply", "-q", "-f", policiesFile, "-f", doorFile); err != nil {
		return err
	}
	if err := d.until(ctx, "the shop's programs to listen", func() (bool, error) { return d.ready(ctx, behind) }); err != nil {
		return err
	}
	leak := filepath.Join(d.dir, leakFile)
	if err := d.startServer(ctx, "web", "--client-id", webID, "--leak", leak); err != nil {
		return err
	}
	if err := d.until(ctx, "web to listen", func() (bool, error) { return d.ready(ctx, []string{"web"}) }); err != nil {
		return err
	}
	if err := d.openDoor(ctx); err != nil {
		return err
	}
	if err := d.startChild(intruder, "run", intruder, "--", executable(), "shop", intruder, "--leak", leak); err != nil {
		return err
	}
	if err := d.until(ctx, "the first calls", func() (bool, error) { return opened(d.table.Rows()), nil }); err != nil {
		return err
	}
	for _, name := range []string{"web", "orders", "payments", "inventory", "edge"} {
		d.progress(fmt.Sprintf("  %s %s", name, mark("✓")))
	}
	return nil
}

// progress is the line "starting  store ✓  authority ✓ …", on stderr.
func (d *demo) progress(text string) {
	if !d.e.quiet {
		fmt.Fprint(d.e.err, text)
	}
}
