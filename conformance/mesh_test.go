// Package conformance drives public OAuth and JWT clients, unchanged, against a real
// `countersign up` (tokens.md 23.1).
//
// Its words: a mesh is one running up with its directory and ports; a client is somebody else's
// library, at a pinned version.
//
// Its promise: nothing here imports the product. Whatever passes works with the binary and the
// library alone, and what is missing on the machine fails the test that needs it, by name.
package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// svidDir names where the test binary, started as a workload, writes its SVID.
const svidDir = "CONFORMANCE_SVID_DIR"

// patience is how long up may take to start, and to stop.
const patience = time.Minute

// program is the countersign that all tests share.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if dir := os.Getenv(svidDir); dir != "" {
			err = writeSVID(dir)
		} else {
			var clean func()
			if clean, err = build(); err == nil {
				defer clean()
				return m.Run()
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}())
}

// build makes the program from the tree that this folder lies in, unless COUNTERSIGN names one.
func build() (clean func(), err error) {
	if program = os.Getenv("COUNTERSIGN"); program != "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	program = filepath.Join(dir, "countersign")
	cmd := exec.Command("go", "build", "-o", program, "./cmd/countersign")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("building countersign: %w\n%s", err, out)
	}
	return func() { os.RemoveAll(dir) }, nil
}

// writeSVID runs inside `countersign run`: its own identity goes to files, as other programs
// want it.
func writeSVID(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx)
	if err != nil {
		return fmt.Errorf("fetching the SVID: %w", err)
	}
	cert, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "svid.pem"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "svid.key"), key, 0o600))
}

// mesh is one running up, on free ports.
type mesh struct {
	dir    string // --dir
	files  string // private directory of the test: keys, roots, certificates
	issuer string
	mtls   string // issuer's name, on the port that asks for certificates
}

// startMesh starts up and applies objects; it ends with the test.
func startMesh(t *testing.T, objects string) *mesh {
	t.Helper()
	m := &mesh{files: t.TempDir()}
	if err := os.Chmod(m.files, 0o700); err != nil {
		t.Fatal(err)
	}
	m.dir = m.path("mesh")
	config := m.write(t, "up.yaml", "token: {listen: 127.0.0.1:0, mtlsListen: 127.0.0.1:0}\n")
	cmd := exec.Command(program, "up", "--dir", m.dir, "--inbound", "127.0.0.1:0", "--config", config, "--json")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("up ended: %v", err)
		}
		if t.Failed() {
			t.Logf("up said: %s", log.Bytes())
		}
	})
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	var ready struct {
		Issuer string `json:"issuer"`
		MTLS   string `json:"tokens_mtls"`
	}
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		t.Fatalf("up did not start: %v", err)
	}
	_, port, _ := strings.Cut(ready.MTLS, ":")
	m.issuer, m.mtls = ready.Issuer, "https://localhost:"+port
	m.write(t, "root.pem", m.countersign(t, "ca", "root"))
	m.countersign(t, "apply", "-f", m.write(t, "objects.yaml", objects))
	return m
}

// path is where a file of that name lies in the private directory.
func (m *mesh) path(name string) string { return filepath.Join(m.files, name) }

func (m *mesh) write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return m.path(name)
}

func (m *mesh) environment() []string {
	return append(os.Environ(), "COUNTERSIGN_DIR="+m.dir, "NO_COLOR=1")
}

// countersign runs a command of the product and gives its stdout.
func (m *mesh) countersign(t *testing.T, args ...string) string {
	t.Helper()
	return finish(t, m.environment(), program, args...)
}

// secret is a new secret of the client, made as an operator makes it.
func (m *mesh) secret(t *testing.T, client string) string {
	t.Helper()
	return strings.TrimSpace(m.countersign(t, "client", "rotate", client))
}

// svid writes svid.pem and svid.key of the workload name, whose SPIFFE ID it gives.
func (m *mesh) svid(t *testing.T, name string) (id string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	finish(t, append(m.environment(), svidDir+"="+m.files), program, "run", name, "--", self)
	return "spiffe://cluster.local/ns/default/sa/" + name
}

// client believes the root of the mesh alone, and shows certificate if there is one.
func (m *mesh) client(t *testing.T, certificate ...tls.Certificate) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(m.path("root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no root in %q", pem)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificate}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// finish runs a command to its good end and gives its stdout.
func finish(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = env
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err, errs.Bytes(), out.Bytes())
	}
	return out.String()
}

// need fails the test where a program is missing: nothing here is skipped.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("needs %s, which is not on this machine (README.md says what to install)", p)
		}
	}
}

// prepare fetches or builds what a client is made of, at the versions that its files pin.
func prepare(t *testing.T, dir, what, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("needs %s: %s: %v\n%s", what, name, err, out)
	}
}
