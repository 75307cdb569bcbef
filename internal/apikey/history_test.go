package apikey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repo is a repository in a directory of its own. Without git these tests fail: it is part of
// what is tested.
type repo struct {
	*testing.T
	dir string
}

func newRepo(t *testing.T) repo {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+who+"_NAME", "a")
		t.Setenv("GIT_"+who+"_EMAIL", "a@shop.test")
	}
	r := repo{t, t.TempDir()}
	r.git("", "init", "-q")
	return r
}

func (r repo) git(stdin string, args ...string) string {
	r.Helper()
	c := exec.CommandContext(r.Context(), "git", args...)
	c.Dir, c.Stdin = r.dir, strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		r.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repo) commit() string {
	r.Helper()
	r.git("", "add", "-A")
	r.git("", "commit", "-q", "--allow-empty", "-m", "a")
	return r.git("", "rev-parse", "HEAD")
}

func TestScanHistory(t *testing.T) {
	r := newRepo(t)
	removed, branch, tagged, bare, stashed := minted(t, Live), minted(t, Test), minted(t, Live), minted(t, Live), minted(t, Live)
	write(t, r.dir, "README", "nothing\n")
	r.commit()
	write(t, r.dir, "ci/a key.sh", "#!\n  "+removed.Reveal()+"\n")
	write(t, r.dir, "copy", "#!\n  "+removed.Reveal()+"\n") // the same blob
	first := r.commit()
	r.git("", "rm", "-q", "-r", "ci", "copy")
	r.commit()
	write(t, r.dir, "ci/again", "#!\n  "+removed.Reveal()+"\n") // and again
	r.commit()
	r.git("", "rm", "-q", "-r", "ci")
	r.commit()
	r.git("", "checkout", "-q", "-b", "other")
	write(t, r.dir, "long", strings.Repeat("x", 2*window)+"\n"+branch.Reveal())
	second := r.commit()
	write(t, r.dir, "long", "clean")
	write(t, r.dir, "t", tagged.Reveal())
	third := r.commit()
	r.git("", "tag", "-a", "-m", "a", "v1")
	r.git("", "checkout", "-q", "-")
	r.git("", "branch", "-q", "-D", "other") // only the tag holds it
	oid := r.git("\n"+bare.Reveal(), "hash-object", "-w", "--stdin")
	r.git("", "tag", "blob", oid)
	write(t, r.dir, "README", stashed.Reveal())
	r.git("", "stash", "-q")
	stash := r.git("", "rev-parse", "stash")

	hits, unread := scanned(t, r.dir, false)
	want(t, hits)
	hits, unread2 := scanned(t, r.dir, true)
	got := make(map[string]int)
	for _, h := range hits {
		got[h]++
	}
	for _, h := range []string{
		"ci/a key.sh:2:3 " + removed.ID() + " live " + first,
		"long:2:1 " + branch.ID() + " test " + second,
		"t:1:1 " + tagged.ID() + " live " + third,
		oid + ":2:1 " + bare.ID() + " live ",
		"README:1:1 " + stashed.ID() + " live " + stash,
	} {
		if got[h] != 1 {
			t.Errorf("%d times %s", got[h], h)
		}
	}
	if len(hits) != 5 || len(unread)+len(unread2) > 0 {
		t.Errorf("got %d hits:\n%s\nnot read: %v", len(hits), strings.Join(hits, "\n"), unread2)
	}
	// Below its top, and in a repository without files.
	sub := filepath.Join(r.dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if hits, _ := scanned(t, sub, true); len(hits) != 5 {
		t.Errorf("below: %d hits", len(hits))
	}
	clone := filepath.Join(t.TempDir(), "bare")
	r.git("", "clone", "-q", "--mirror", r.dir, clone)
	if hits, _ := scanned(t, clone, true); len(hits) != 5 {
		t.Errorf("bare: %d hits", len(hits))
	}
	if hits, _ := scanned(t, filepath.Join(r.dir, "README"), true); len(hits) != 5 {
		t.Errorf("a file of it: %d hits", len(hits))
	}
}

func TestScanHistoryNames(t *testing.T) {
	r := newRepo(t)
	k := minted(t, Live)
	line := k.ID() + " live "
	long := strings.Repeat(strings.Repeat("d", 240)+"/", 20) + "x"
	oid := r.git(k.Reveal(), "hash-object", "-w", "--stdin")
	other := r.git("x"+k.Reveal(), "hash-object", "-w", "--stdin")
	third := r.git("xx"+k.Reveal(), "hash-object", "-w", "--stdin")
	clean := r.git("clean", "hash-object", "-w", "--stdin")
	r.git("100644 "+oid+"\t a  \"b\x00100644 "+other+"\tline\nfeed\x00100644 "+third+"\t"+long+"\x00100644 "+clean+"\t"+k.Reveal()+"\x00",
		"update-index", "-z", "--add", "--index-info")
	r.git("", "commit", "-q", "-m", "a")
	c := r.git("", "rev-parse", "HEAD")
	if err := os.Remove(filepath.Join(r.dir, ".git/index")); err != nil { // it holds the names too
		t.Fatal(err)
	}
	hits, _ := scanned(t, r.dir, true)
	if len(hits) != 4 {
		t.Fatalf("got %q", hits)
	}
	want(t, hits[:1], " a  \"b:1:1 "+line+c)
	for _, h := range hits {
		if len(h) > maxLine+200 || strings.Contains(h, k.part(secretAt, secretEnd)) {
			t.Errorf("got %s", h)
		}
	}
	for _, part := range []string{k.String() + ":0:0 ", "line:1:2 ", "ddd/ddd"} {
		if !strings.Contains(strings.Join(hits, "\n"), part) {
			t.Errorf("no %s in %.80q", part, hits)
		}
	}
}

func TestScanHistoryErrors(t *testing.T) {
	none := func(Hit) { t.Error("a hit") }
	r := newRepo(t)
	if err := Scan(t.Context(), r.dir, true, none, nil); err != nil {
		t.Errorf("a repository without commits: %v", err)
	}
	if err := Scan(t.Context(), t.TempDir(), true, none, nil); err == nil || !strings.Contains(err.Error(), "not a git repository") {
		t.Errorf("no repository: %v", err)
	}
	write(t, r.dir, "a", "clean")
	oid := r.commit()
	object := filepath.Join(r.dir, ".git/objects", oid[:2], oid[2:])
	if err := os.Remove(object); err != nil {
		t.Fatal(err)
	}
	if err := Scan(t.Context(), r.dir, true, none, nil); err == nil || !strings.Contains(err.Error(), "git ended with 128: fatal: ") {
		t.Errorf("a commit is gone: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Scan(t.Context(), r.dir, true, none, nil); !errors.Is(err, ErrNoGit) {
		t.Errorf("no git: %v", err)
	}
}

func TestScanHistoryStops(t *testing.T) {
	r := newRepo(t)
	for i := range 50 {
		write(t, r.dir, fmt.Sprint(i), minted(t, Live).Reveal())
	}
	r.commit()
	r.git("", "rm", "-q", "-r", ".")
	r.commit()
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	hits := 0
	err := Scan(ctx, r.dir, true, func(Hit) { hits++; cancel(stopped) }, nil)
	if !errors.Is(err, stopped) || hits != 1 {
		t.Errorf("got %v after %d hits", err, hits)
	}
}

// A repository that a stranger made runs nothing and fetches nothing, and the environment names
// no other one.
func TestSecScanRunsNothingOfTheRepository(t *testing.T) {
	r := newRepo(t)
	k, here := minted(t, Live), minted(t, Live)
	write(t, r.dir, "a", k.Reveal())
	write(t, r.dir, "b", here.Reveal())
	commit := r.commit()
	oid := r.git("", "rev-parse", "HEAD:a")
	r.git("", "rm", "-q", "a", "b")
	r.commit()
	if err := os.Remove(filepath.Join(r.dir, ".git/objects", oid[:2], oid[2:])); err != nil {
		t.Fatal(err)
	}
	ran := filepath.Join(t.TempDir(), "ran")
	run := "touch " + ran + "; false"
	for _, set := range [][2]string{
		{"core.repositoryformatversion", "1"}, {"extensions.partialClone", "origin"}, {"remote.origin.promisor", "true"},
		{"remote.origin.url", "ext::sh -c 'touch% " + ran + "'"}, {"protocol.ext.allow", "always"}, {"remote.origin.uploadpack", run},
		{"core.fsmonitor", run}, {"core.sshCommand", run}, {"core.pager", run}, {"pager.rev-list", run}, {"pager.cat-file", run},
		{"core.alternateRefsCommand", run}, {"core.hooksPath", filepath.Dir(ran)}, {"alias.rev-list", "!" + run},
	} {
		r.git("", "config", set[0], set[1])
	}
	other := t.TempDir()
	t.Setenv("GIT_DIR", filepath.Join(other, "none"))
	t.Setenv("GIT_OBJECT_DIRECTORY", other)
	t.Setenv("GIT_EXTERNAL_DIFF", run)
	hits, unread := scanned(t, r.dir, true)
	want(t, hits, "b:1:1 "+here.ID()+" live "+commit)
	if len(unread) != 1 || unread[0] != oid+": "+errMissing.Error() {
		t.Errorf("not read: %q", unread)
	}
	if _, err := os.Stat(ran); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the repository ran something: %v", err)
	}
	for _, arg := range command(t.Context(), "git", r.dir, "rev-list").Args {
		if strings.Contains(arg, "safe.directory") {
			t.Error("git is told to trust whoever owns the repository")
		}
	}
}

func TestGitSpeaks(t *testing.T) {
	var asked bytes.Buffer
	names := "aaaa\nbbbb ann\ncccc \ndddd a b\n?eeee\nffff\n1111 " + strings.Repeat("x", maxLine) + "\n2222 y\n" +
		"3333 " + strings.Repeat("x", maxLine-40) + vector + strings.Repeat("y", 2*maxLine) + "\n4444 z\n"
	if err := ask(strings.NewReader(names), nopCloser{&asked}); err != nil {
		t.Fatal(err)
	}
	wanted := "bbbb aaaa ann\ncccc aaaa \ndddd aaaa a b\n?eeee\n1111 ffff " + strings.Repeat("x", maxLine-5) + "\n2222 ffff y\n" +
		"3333 ffff " + strings.Repeat("x", maxLine-40) + "\n4444 ffff z\n"
	if got := asked.String(); got != wanted {
		t.Errorf("got %q, want %q", got, wanted)
	}
	for _, text := range []string{"aaaa", "aaaa ann\nbbb"} {
		if err := ask(strings.NewReader(text), nopCloser{io.Discard}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	for _, text := range []string{
		"blob 5 aaaa bbbb c\nabc", "blob 3 aaaa bbbb c\nabc", "blob x aaaa bbbb c\nabc\n", "blob 3\nabc\n", "tree 9 aaaa bbbb c\nabc\n", "blob",
	} {
		s := scan{buf: make([]byte, window)}
		if err := s.objects(t.Context(), strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	var h head
	for range 3 {
		if n, err := h.Write(make([]byte, maxStderr/2+1)); n != maxStderr/2+1 || err != nil || len(h.text) > maxStderr {
			t.Errorf("wrote %d, %v; %d are kept", n, err, len(h.text))
		}
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
