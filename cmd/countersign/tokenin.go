package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/term"
)

// How tokens and secrets come in: by stdin or a file, never as an argument (cli.md 7).

const (
	maxTokenLine    = 64 << 10 // what is kept of a line: a token that long is refused for its size
	maxSecretInFile = 4 << 10
	headerLine      = "Authorization: Bearer " // before a token that issue --header printed
)

// tokenLine is one line of input; more says that another whole one waits already.
type tokenLine struct {
	number int
	token  string
	more   bool
	err    error
}

// eachToken reads a token a line; the prefix of a whole header line is left out. Only the line
// feed ends a line: what else stands there is of the token. That nothing came is an error, so
// that no tokens never pass for good ones.
func (e *env) eachToken(ctx context.Context, in io.Reader, from string, use func(tokenLine) error) error {
	if f, ok := in.(*os.File); ok && isTerminal(f) {
		e.say("paste tokens, one a line; Ctrl-D ends")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lines := make(chan tokenLine)
	go readLines(ctx, in, lines) // a terminal answers when it likes, Ctrl-C counts at once
	read := 0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case l, ok := <-lines:
			switch {
			case !ok && read == 0:
				return &admin.Problem{Code: "no_token", Message: "reading " + from + ": it is empty", Hints: []string{"countersign help " + e.cmd.name}}
			case !ok:
				return nil
			case l.err != nil:
				return &admin.Problem{Code: "failed", Message: "reading " + from + ": " + reason(l.err)}
			}
			read++
			if err := use(l); err != nil {
				return err
			}
		}
	}
}

func readLines(ctx context.Context, in io.Reader, lines chan<- tokenLine) {
	defer close(lines)
	r := bufio.NewReaderSize(in, maxTokenLine)
	for n := 1; ; n++ {
		text, err := r.ReadSlice('\n')
		line := string(bytes.TrimSuffix(text, []byte("\n")))
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		l := tokenLine{number: n, token: strings.TrimPrefix(line, headerLine)}
		switch {
		case err == nil:
			waiting, _ := r.Peek(r.Buffered())
			l.more = bytes.IndexByte(waiting, '\n') >= 0
		case !errors.Is(err, io.EOF):
			l.err = err
		case line == "":
			return
		}
		select {
		case lines <- l:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// oneToken reads exactly one token; empty lines around it and a carriage return are nobody's.
func (e *env) oneToken(ctx context.Context, in io.Reader, from string) (string, error) {
	var tokens []string
	err := e.eachToken(ctx, in, from, func(l tokenLine) error {
		if t := strings.TrimSpace(l.token); t != "" {
			tokens = append(tokens, t)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if len(tokens) != 1 {
		return "", usage(fmt.Sprintf("%s holds %s, one is needed", from, counted(len(tokens), "token")), "countersign help "+e.cmd.name)
	}
	return tokens[0], nil
}

// tokenFile reads exactly one token of a file.
func (e *env) tokenFile(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", notRead(name, err)
	}
	defer f.Close()
	return e.oneToken(ctx, f, name)
}

func notRead(name string, err error) error {
	return &admin.Problem{Code: "file_not_found", Message: "reading " + name + ": " + reason(err)}
}

// readSecret reads a secret from a file, from stdin, or from who sits at the terminal.
func (e *env) readSecret(ctx context.Context, name string) (string, error) {
	in := e.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", notRead(name, err)
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil {
			e.warnOthers("the secret", name, st)
		}
		in = f
	}
	var b []byte
	var err error
	if f, ok := in.(*os.File); ok && isTerminal(f) {
		b, err = e.typedSecret(ctx, f)
	} else {
		b, err = io.ReadAll(io.LimitReader(in, maxSecretInFile))
	}
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return "", &admin.Problem{Code: "no_secret", Message: "reading the secret in " + name + ": it is empty"}
	}
	return secret, nil
}

// typedSecret reads from a terminal that does not show what is typed, and shows again what
// follows, whatever ends the waiting.
func (e *env) typedSecret(ctx context.Context, f *os.File) ([]byte, error) {
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = term.Restore(int(f.Fd()), before) }()
	type typed struct {
		secret string
		err    error
	}
	done := make(chan typed, 1)
	go func() {
		line, err := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{f, e.err}, "").ReadPassword("secret: ")
		done <- typed{line, err}
	}()
	select {
	case t := <-done:
		if errors.Is(t.err, io.EOF) { // Ctrl-C and Ctrl-D are keys here
			return nil, errInterrupted
		}
		return []byte(t.secret), t.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// checkSecrets refuses tokens and secrets among the arguments before any of them is said again:
// every user of the machine can read them there (cli.md 9.7).
func checkSecrets(args []string) error {
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			_, a, _ = strings.Cut(a, "=")
		}
		what := ""
		switch a = strings.TrimPrefix(strings.TrimPrefix(a, "Authorization: "), "Bearer "); {
		case strings.HasPrefix(a, "eyJ") && len(a) > 20:
			what = "a token"
		case strings.HasPrefix(a, "css_"), strings.HasPrefix(a, "csk_"):
			what = "a secret"
		default:
			continue
		}
		hint := "put it into a file that nobody else can read, or pipe it"
		for _, c := range []string{"jwt inspect", "token verify", "token revoke"} {
			if noun, verb, _ := strings.Cut(c, " "); what == "a token" && len(args) > 1 && singular(args[0]) == noun && args[1] == verb {
				hint = "countersign " + c + " < FILE"
			}
		}
		return &admin.Problem{Code: "secret_argument", Exit: exitUsage, Message: what + " as an argument can be read by every user of this machine", Hints: []string{hint}}
	}
	return nil
}

// notEmpty refuses flags that were given an empty value: a variable of a shell that is not
// set would take a check away.
func (e *env) notEmpty(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if e.set[name] && values[name] == "" {
			return usage("--"+name+" of "+e.cmd.name+" is empty", "countersign help "+e.cmd.name)
		}
	}
	return nil
}

// instant reads RFC 3339, Unix seconds, or a duration, which means that long ago (cli.md 6).
func instant(text string, now time.Time) (time.Time, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(n, 0), true
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, true
	}
	d, err := parseDuration(text)
	return now.Add(-d), err == nil
}
