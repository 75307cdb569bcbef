package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// svidFiles writes the SVID of its identity where it stands, as helpers of SPIFFE do: svid.pem
// and svid.key.
func svidFiles() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx)
	var chain, key []byte
	if err == nil {
		chain, key, err = svid.Marshal()
	}
	if err == nil {
		err = os.WriteFile("svid.pem", chain, 0o600)
	}
	if err == nil {
		err = os.WriteFile("svid.key", key, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// transcript is what the manual says that is typed, and what comes of it.
type transcript struct{ typed, answer string }

// transcripts are the blocks of a page that are marked transcript=NAME.
func transcripts(t *testing.T, page string) map[string]transcript {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]transcript{}
	for _, m := range regexp.MustCompile("(?ms)^```(sh|json) transcript=(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		x := out[m[2]]
		if m[1] == "sh" {
			x.typed += m[3]
		} else {
			x.answer = m[3]
		}
		out[m[2]] = x
	}
	return out
}

// TestManualFirstToken runs the first token of the manual, in its three ways, as it stands there.
func TestManualFirstToken(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl is missing: the first token of docs/tokens.md is got with curl alone. apt-get install curl")
		}
		t.Skip("curl is missing")
	}
	ways := transcripts(t, "../../docs/tokens.md")
	for _, name := range []string{"workload", "files", "secret"} {
		if w := ways[name]; w.typed == "" || w.answer == "" {
			t.Errorf("docs/tokens.md has no transcript=%s, or no answer of it", name)
		}
	}
	dir, ready := startUpAt(t)
	_, mtls, err := net.SplitHostPort(ready.TokensMTLS)
	if err != nil {
		t.Fatal(err)
	}
	// The ports of the page are those of a machine that has no other countersign.
	ports := strings.NewReplacer("https://localhost:7445", "https://localhost:"+mtls, "https://localhost:7444", ready.Issuer)
	shell := func(line string) (string, error) {
		cmd := self(t, dir)
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-e", "-c", line}
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, errs.String())
		}
		return string(out), err
	}
	port := fmt.Sprint(freePorts(1)[0])
	api := self(t, dir, "run", "api", "--port", port, "--", "httpserver", port)
	if err := api.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		api.Process.Signal(syscall.SIGTERM)
		api.Wait()
	})
	if _, err := shell("for i in $(seq 100); do countersign run web -q -- get 403 http://api/ && break; sleep 0.1; done; countersign run web -- svidfiles"); err != nil {
		t.Fatal(err)
	}
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			out, err := shell(ports.Replace(w.typed))
			if err != nil {
				t.Fatal(err)
			}
			// What other commands of the block print stands before the answer.
			out = out[max(0, strings.LastIndex(strings.TrimSpace(out), "\n")):]
			var got, want map[string]any
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if err := json.Unmarshal([]byte(w.answer), &want); err != nil {
				t.Fatalf("%q: %v", w.answer, err)
			}
			begin, _ := want["access_token"].(string)
			token, _ := got["access_token"].(string)
			if !strings.HasPrefix(token, strings.TrimSuffix(begin, "…")) || strings.Count(token, ".") != 2 {
				t.Errorf("the token is %q", token)
			}
			delete(got, "access_token")
			delete(want, "access_token")
			if !maps.Equal(got, want) {
				t.Errorf("the answer is %v, the manual says %v", got, want)
			}
		})
	}
}
