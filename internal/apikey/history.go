package apikey

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// ErrNoGit is what Scan answers to history where there is no git.
var ErrNoGit = errors.New("the history is read with git, which is not in PATH")

var errMissing = errors.New("the repository does not hold this object")

const (
	maxLine   = 4 << 10 // bytes of an object's name, commit and path: what is longer is cut
	maxStderr = 4 << 10
	waitDelay = 5 * time.Second // for what a git that was ended leaves open
)

// history searches every blob that a ref reaches, once: rev-list names it with the first commit
// and path that it has, cat-file gives its bytes.
func (s *scan) history(ctx context.Context, dir string) error {
	git, err := exec.LookPath("git")
	if err != nil {
		return ErrNoGit
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list := command(ctx, git, dir, "rev-list", "--objects", "--in-commit-order", "--reverse", "--missing=print", "--all", "--")
	show := command(ctx, git, dir, "cat-file", "--buffer", "--batch=%(objecttype) %(objectsize) %(objectname) %(rest)")
	names, err := list.StdoutPipe()
	if err != nil {
		return err
	}
	asked, err := show.StdinPipe()
	if err != nil {
		return err
	}
	contents, err := show.StdoutPipe()
	if err != nil {
		return err
	}
	if err := list.Start(); err != nil {
		return fmt.Errorf("starting git: %w", err)
	}
	if err := show.Start(); err != nil {
		cancel()
		return errors.Join(fmt.Errorf("starting git: %w", err), list.Wait())
	}
	fed := make(chan error, 1)
	go func() {
		err := ask(names, asked)
		if err != nil {
			cancel() // else rev-list would wait for a reader
		}
		fed <- err
	}()
	searched := s.objects(ctx, contents)
	if searched != nil {
		cancel()
	}
	asking := <-fed
	listed, shown := list.Wait(), show.Wait()
	if outer.Err() != nil {
		return context.Cause(outer)
	}
	return cmp.Or(exited(list), exited(show), searched, asking, listed, shown)
}

// command is git without settings of the machine, hooks, pager, questions and network: a
// repository may have been written by a stranger. That git refuses one that another user owns
// stays as it is, and so do the user's own settings, for they say which of these are safe.
func command(ctx context.Context, git, dir string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, git, append([]string{"--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.DevNull}, args...)...)
	c.Dir = dir
	c.WaitDelay = waitDelay
	c.Stderr = new(head)
	c.Env = []string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", // what a partial clone lacks is not fetched
	}
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "SystemRoot", "USERPROFILE"} {
		if v, ok := os.LookupEnv(name); ok {
			c.Env = append(c.Env, name+"="+v)
		}
	}
	return c
}

// head keeps the beginning of what is written to it.
type head struct{ text []byte }

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), maxStderr-len(h.text))]...)
	return len(p), nil
}

// exited is the error of a git that ended by itself, in its own words.
func exited(c *exec.Cmd) error {
	if c.ProcessState == nil || c.ProcessState.ExitCode() <= 0 {
		return nil
	}
	said := strings.TrimSpace(string(c.Stderr.(*head).text))
	said = said[max(0, strings.Index(said, "fatal: ")):] // behind warnings
	said, _, _ = strings.Cut(said, "\n")
	return fmt.Errorf("git ended with %d: %s", c.ProcessState.ExitCode(), shorten(said))
}

// ask turns what rev-list names into what cat-file reads: an object, and after it the commit
// and the path, which cat-file repeats before the bytes.
func ask(names io.Reader, asked io.WriteCloser) error {
	in, out := bufio.NewReader(names), bufio.NewWriter(asked)
	defer asked.Close()
	commit := "-" // none yet
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return out.Flush()
		} else if err != nil {
			return err
		}
		oid, file, object := strings.Cut(line, " ")
		switch {
		case object:
			_, err = fmt.Fprintf(out, "%s %s %s\n", oid, commit, file)
		case strings.HasPrefix(oid, "?"):
			_, err = fmt.Fprintln(out, oid) // cat-file calls it missing
		default:
			commit = oid
		}
		if err != nil {
			return err
		}
	}
}

// objects searches what cat-file writes.
func (s *scan) objects(ctx context.Context, contents io.Reader) error {
	in := bufio.NewReader(contents)
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		field := strings.SplitN(line, " ", 5)
		if len(field) == 2 && field[1] == "missing" {
			s.unread(strings.TrimPrefix(field[0], "?"), errMissing)
			continue
		}
		if len(field) != 5 {
			return errors.New("git cat-file says something unexpected")
		}
		kind, oid, commit, file := field[0], field[2], field[3], field[4]
		size, err := strconv.ParseInt(field[1], 10, 64)
		if err != nil {
			return errors.New("git cat-file says no size")
		}
		body := io.LimitReader(in, size)
		if kind == "blob" {
			if file == "" { // a ref names it, no commit
				commit, file = "", oid
			}
			s.name(file, commit)
			if err := s.search(ctx, body, shorten(file), commit); err != nil {
				return err
			}
		} else if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		if _, err := in.Discard(1); err != nil { // the line feed behind it
			return io.ErrUnexpectedEOF
		}
	}
}

// readLine reads a line and cuts it where it is longer than a path that is told: before a key
// rather than in it.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for cut := false; ; {
		part, err := r.ReadSlice('\n')
		if !cut {
			line = append(line, part...)
		}
		if len(line) > maxLine {
			cut, line = true, line[:maxLine]
			if i := bytes.LastIndex(line, []byte(Prefix)); i > maxLine-Len {
				line = line[:i]
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && len(line) > 0 && errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		default:
			return strings.TrimSuffix(string(line), "\n"), nil
		}
	}
}
