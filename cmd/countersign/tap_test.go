package main

import (
	"os"
	"os/exec"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

type tapKey struct{}

// cmdTapping starts countersign tap with its output in a file: tapping FILE ARGUMENTS…
func cmdTapping(ts *testscript.TestScript, neg bool, args []string) {
	exe, err := exec.LookPath("countersign")
	ts.Check(err)
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer out.Close()
	cmd := exec.Command(exe, append([]string{"tap"}, args[1:]...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = scriptEnv(ts), out, out
	ts.Check(cmd.Start())
	ts.Value(tapKey{}).(map[string]*exec.Cmd)[args[0]] = cmd
	ts.Defer(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// cmdUntil runs a command again until a file has a text: until FILE REGEXP COMMAND…
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	const most = 10 * time.Second
	re := regexp.MustCompile("(?m)" + args[1])
	words := args[2:]
	if words[0] == "exec" {
		words = words[1:]
	}
	for began := time.Now(); time.Since(began) < most; {
		ts.Check(ts.Exec(words[0], words[1:]...))
		for range 5 {
			if re.MatchString(ts.ReadFile(args[0])) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	ts.Fatalf("%s has no %q within %v:\n%s", args[0], args[1], most, ts.ReadFile(args[0]))
}

// cmdUntap ends a tap by SIGINT, as Ctrl-C does; it must end with 0.
func cmdUntap(ts *testscript.TestScript, neg bool, args []string) {
	cmd := ts.Value(tapKey{}).(map[string]*exec.Cmd)[args[0]]
	ts.Check(cmd.Process.Signal(os.Interrupt))
	ts.Check(cmd.Wait())
}
