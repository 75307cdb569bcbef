//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// webID is what the calling program arrives as.
const webID = "URI=spiffe://cluster.local/ns/default/sa/web"

// up is one `countersign up`.
type up struct {
	*member
	s      *stand
	dir    string
	health string        // host:port of /readyz and /metrics
	took   time.Duration // from its start to ready
}

// up starts countersign on a directory and waits for it to be ready.
func (s *stand) up(ctx context.Context, dir string, args ...string) (*up, error) {
	inbound, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.binary, append([]string{"up", "--json", "--log", "warn", "--dir", dir, "--inbound", inbound}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	u := &up{s: s, dir: dir}
	began := time.Now()
	if u.member, err = s.crew.add("countersign up", cmd); err != nil {
		return nil, err
	}
	line, err := lineOf(ctx, out)
	u.took = time.Since(began)
	if err != nil {
		s.crew.dismiss(u.member)
		return nil, u.failed("not ready")
	}
	var said struct {
		Ready  bool   `json:"ready"`
		Health string `json:"health"`
	}
	if err := json.Unmarshal(line, &said); err != nil || !said.Ready {
		return nil, fmt.Errorf("countersign up said %q", line)
	}
	u.health = said.Health
	return u, nil
}

// lineOf reads one line, but not for ever.
func lineOf(ctx context.Context, from io.Reader) ([]byte, error) {
	type read struct {
		line []byte
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(from).ReadBytes('\n')
		got <- read{line, err}
	}()
	select {
	case r := <-got:
		return r.line, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(20 * time.Second):
		return nil, fmt.Errorf("nothing was said in 20 s")
	}
}

// freePort is a loopback address that nobody listens on now.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// program starts one of our two children under `countersign run`.
func (u *up) program(name string, flags []string, child ...string) *exec.Cmd {
	args := append([]string{"run", name, "--dir", u.dir}, flags...)
	return exec.Command(u.s.binary, append(append(args, "--", u.s.self), child...)...)
}

// api starts the program that is called, and gives its address.
func (u *up) api(ctx context.Context) (string, error) {
	addr, err := freePort()
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(addr)
	m, err := u.s.crew.add("api", u.program("api", []string{"--port", port}, programChild, port))
	if err != nil {
		return "", err
	}
	return addr, m.answers(ctx, addr)
}

// web is the program that calls, which takes orders.
type web struct {
	*member
	orders *json.Encoder
	said   *json.Decoder
}

func newWeb(m *member, in io.Writer, out io.Reader) *web {
	return &web{member: m, orders: json.NewEncoder(in), said: json.NewDecoder(out)}
}

// web starts the program that calls.
func (u *up) web(ctx context.Context) (*web, error) {
	cmd := u.program("web", nil, loadChild)
	in, out, err := pipes(cmd)
	if err != nil {
		return nil, err
	}
	m, err := u.s.crew.add("web", cmd)
	if err != nil {
		return nil, err
	}
	w := newWeb(m, in, out)
	// The first answers may be refusals: the instance has to be seen ready.
	return w, m.until(ctx, "web reaches api", func() bool {
		t, err := w.drive(order{Want: webID, Conns: 1, Time: 50 * time.Millisecond})
		return err == nil && t.Failed == 0 && t.Requests > 0
	})
}

// drive has one cell driven and waits for what comes of it.
func (w *web) drive(o order) (tally, error) {
	var t tally
	if err := w.orders.Encode(o); err != nil {
		return t, w.failed("takes no order")
	}
	if err := w.said.Decode(&t); err != nil {
		return t, w.failed("gave no tally")
	}
	return t, nil
}

// allow lets web call api.
func (u *up) allow(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, u.s.binary, "allow", "web", "api", "--dir", u.dir)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("allowing web to call api: %w: %s", err, b)
	}
	return nil
}

// shop is web that may call api, behind one up.
func (u *up) shop(ctx context.Context) (*web, string, error) {
	if err := u.allow(ctx); err != nil {
		return nil, "", err
	}
	addr, err := u.api(ctx)
	if err != nil {
		return nil, "", err
	}
	w, err := u.web(ctx)
	return w, addr, err
}

// metric reads one metric; ok is false if it is not exposed.
func (u *up) metric(ctx context.Context, name string) (value float64, ok bool) {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+u.health+"/metrics", nil)
	if err != nil {
		return 0, false
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			value, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return value, err == nil
		}
	}
	return 0, false
}

// fresh is a directory that does not exist yet.
func (s *stand) fresh(name string) (string, error) {
	dir, err := os.MkdirTemp(s.dir, name)
	if err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	return filepath.Join(dir, "d"), nil
}
