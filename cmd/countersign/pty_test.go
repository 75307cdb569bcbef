package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What a person at a terminal sees, on a real one.

// terminal opens a pseudo terminal of so many columns.
func terminal(t *testing.T, columns int) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: 40}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// self is this test binary as countersign.
func self(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := exec.LookPath("countersign") // put there by testscript.Main
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{
		Path: exe, Args: append([]string{"countersign"}, args...), Dir: dir,
		Env: []string{"HOME=" + dir, "COUNTERSIGN_DIR=" + filepath.Join(dir, "d"), "TERM=xterm", "LC_ALL=C.UTF-8", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")},
	}
}

// startUp runs countersign up in a directory of its own until the test ends.
func startUp(t *testing.T) (dir string) {
	t.Helper()
	dir, _ = startUpAt(t)
	return dir
}

// upReady is what up says of itself when it is ready.
type upReady struct {
	Ready      bool   `json:"ready"`
	Issuer     string `json:"issuer"`
	TokensMTLS string `json:"tokens_mtls"`
}

func startUpAt(t *testing.T) (dir string, ready upReady) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	up := self(t, dir, "up", "--json", "--inbound", fmt.Sprintf("127.0.0.1:%d", freePorts(1)[0]))
	var errs bytes.Buffer
	up.Stderr = &errs
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		up.Process.Signal(syscall.SIGTERM)
		if err := up.Wait(); err != nil {
			t.Errorf("up ended with %v\n%s", err, errs.String())
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil || !ready.Ready {
		t.Fatalf("up is not ready: %v\n%s", err, errs.String())
	}
	return dir, ready
}

// onTerminal runs a command with a terminal for all three streams, types what it is told, and
// gives what was shown.
func onTerminal(t *testing.T, columns int, cmd *exec.Cmd, typed string) (shown string, status int) {
	t.Helper()
	return afterPrompt(t, columns, cmd, "", typed)
}

// afterPrompt types once the prompt is shown.
func afterPrompt(t *testing.T, columns int, cmd *exec.Cmd, prompt, typed string) (shown string, status int) {
	t.Helper()
	master, slave := terminal(t, columns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	read := make(chan string)
	go func() {
		var b bytes.Buffer
		if prompt != "" {
			one := make([]byte, 1)
			for !strings.HasSuffix(b.String(), prompt) {
				if _, err := master.Read(one); err != nil {
					break
				}
				b.Write(one)
			}
			io.WriteString(master, typed)
		}
		io.Copy(&b, master) // until EIO: the last one closed the terminal
		read <- b.String()
	}()
	if prompt == "" && typed != "" {
		io.WriteString(master, typed)
	}
	cmd.Wait()
	return strings.ReplaceAll(<-read, "\r\n", "\n"), cmd.ProcessState.ExitCode()
}

func TestTerminalPrompt(t *testing.T) {
	dir := startUp(t)
	words := []string{"delete", "ap", "allow-nothing", "-n", "istio-system"}
	shown, status := onTerminal(t, 80, self(t, dir, words...), "n\n")
	if status != 1 || !strings.Contains(shown, "every call without its own policy will be allowed. go on? [y/N] ") || !strings.Contains(shown, "nothing was changed") {
		t.Errorf("no: status %d, shown\n%s", status, shown)
	}
	shown, status = onTerminal(t, 80, self(t, dir, words...), "y\n")
	if status != 0 || !strings.Contains(shown, "deleted    AuthorizationPolicy/istio-system/allow-nothing") {
		t.Errorf("yes: status %d, shown\n%s", status, shown)
	}
}

// TestTerminalSecret holds that a secret that is typed is not shown, and that Ctrl-C ends the
// waiting for it, and for tokens, at once.
func TestTerminalSecret(t *testing.T) {
	dir := startUp(t)
	issue := []string{"token", "issue", "--client", "ci", "--secret-file", "-", "--audience", "x"}
	shown, status := afterPrompt(t, 80, self(t, dir, issue...), "secret: ", "css_typed\r")
	if status != 1 || strings.Contains(shown, "css_typed") || !strings.Contains(shown, "client authentication failed") {
		t.Errorf("status %d, shown %q", status, shown)
	}
	if shown, status := afterPrompt(t, 80, self(t, dir, issue...), "secret: ", "css_\x03"); status != 130 || strings.Contains(shown, "css_") {
		t.Errorf("Ctrl-C: status %d, shown %q", status, shown)
	}
	for _, words := range [][]string{{"jwt", "inspect"}, {"token", "revoke"}} {
		if shown, status := afterPrompt(t, 80, self(t, dir, words...), "Ctrl-D ends\r\n", "\x03"); status != 130 {
			t.Errorf("%v: status %d, shown %q", words, status, shown)
		}
	}
	shown, status = afterPrompt(t, 80, self(t, dir, "token", "revoke", "--before", "now"), "[y/N] ", "n\n")
	if status != 1 || !strings.Contains(shown, "revoke every token issued until now? [y/N] ") || !strings.Contains(shown, "nothing was changed") {
		t.Errorf("status %d, shown %q", status, shown)
	}
}

func TestTerminalWidth(t *testing.T) {
	dir := startUp(t)
	shown, _ := onTerminal(t, 40, self(t, dir, "get", "ap", "-A"), "")
	if !strings.Contains(shown, "…") {
		t.Errorf("nothing is cut:\n%s", shown)
	}
	for l := range strings.Lines(shown) {
		if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > 40 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

func TestTerminalColour(t *testing.T) {
	dir := startUp(t)
	for _, test := range []struct {
		name   string
		args   []string
		env    string
		colour bool
	}{
		{"terminal", nil, "", true},
		{"NO_COLOR", nil, "NO_COLOR=1", false},
		{"dumb", nil, "TERM=dumb", false},
		{"flag", []string{"--no-color"}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := self(t, dir, append([]string{"why", "web", "api", "GET /x"}, test.args...)...)
			cmd.Env = append(cmd.Env, test.env)
			shown, status := onTerminal(t, 80, cmd, "")
			if status != 1 || !strings.Contains(shown, "would be refused") {
				t.Errorf("status %d, shown %q", status, shown)
			}
			if got := strings.Contains(shown, "\x1b"); got != test.colour {
				t.Errorf("colour %v, shown %q", got, shown)
			}
		})
	}
}

func TestTerminalDemo(t *testing.T) {
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	shown, status := onTerminal(t, 80, self(t, dir, "demo", "--for", "1200ms"), "")
	if status != 0 || !regexp.MustCompile(`\x1b\[\d+A`).MatchString(shown) || !strings.Contains(shown, "as intended") {
		t.Errorf("status %d, shown %q", status, shown)
	}
}

// TestClosedStdout holds that | head ends quietly.
func TestClosedStdout(t *testing.T) {
	dir := startUp(t)
	for _, words := range [][]string{{"help"}, {"get", "ap", "-A"}, {"get", "ap", "-A", "-o", "yaml"}, {"status"}, {"ca", "root"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd := self(t, dir, words...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &errs
		err = cmd.Run()
		w.Close()
		if err != nil || errs.Len() > 0 {
			t.Errorf("%v: %v, stderr %q", words, err, errs.String())
		}
	}
}
