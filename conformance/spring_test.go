package conformance

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// Spring forgives a clock that is wrong by this much.
const springSkew = 60 * time.Second

// brief is a client whose tokens end after the shortest life there is.
const brief = `
---
apiVersion: countersign.dev/v1
kind: OAuthClient
metadata: {name: brief}
spec: {auth: client_secret, ttl: 5s, targets: [{audience: https://legacy.example}]}
`

// A resource server of Spring Boot that knows the issuer and nothing else.
func TestSpring(t *testing.T) {
	need(t, "java", "javac", "mvn", "keytool")
	m := startMesh(t, resources+secretClient+brief)
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, m.client(t))
	issue := func(client, secret, audience string) *oauth2.Token {
		c := clientcredentials.Config{ClientID: client, ClientSecret: secret, TokenURL: m.issuer + "/oauth2/token", EndpointParams: url.Values{"audience": {audience}}}
		token, err := c.Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	secret, briefSecret := m.secret(t, "ci"), m.secret(t, "brief")
	trust := m.path("trust.p12")
	finish(t, nil, "keytool", "-importcert", "-noprompt", "-alias", "root", "-file", m.path("root.pem"),
		"-keystore", trust, "-storetype", "PKCS12", "-storepass", "changeit")

	versions := []string{"boot-3.5.7", "boot-4.0.7"}
	for _, dir := range versions {
		prepare(t, ".", "a JDK of 17 or later, and what spring/"+dir+"/pom.xml names", "mvn", "-B", "-q", "-ntp", "-f", "spring/"+dir, "package")
	}
	for _, dir := range versions {
		t.Run(dir, func(t *testing.T) {
			t.Parallel() // both wait for a token to end
			at := startSpring(t, filepath.Join("spring", dir, "target", "reports.jar"), trust, m.issuer)
			good, expiring := issue("ci", secret, legacy).AccessToken, issue("brief", briefSecret, legacy)
			for _, tt := range []struct {
				name, token string
				want        int
			}{
				{"good", good, http.StatusOK},
				{"brief", expiring.AccessToken, http.StatusOK},
				{"none", "", http.StatusUnauthorized},
				{"tampered", tampered(good), http.StatusUnauthorized},
				{"at+jwt", issue("ci", secret, reports).AccessToken, http.StatusUnauthorized}, // why typ: JWT exists
			} {
				if got := call(t, at, tt.token); got != tt.want {
					t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
				}
			}
			m.countersign(t, "token", "rotate", "--now")
			if got := call(t, at, issue("ci", secret, legacy).AccessToken); got != http.StatusOK {
				t.Errorf("after a rotation: %d", got)
			}
			time.Sleep(time.Until(expiring.Expiry.Add(springSkew + 2*time.Second)))
			if got := call(t, at, expiring.AccessToken); got != http.StatusUnauthorized {
				t.Errorf("expired: %d, want 401", got)
			}
		})
	}
}

// call asks the resource server with that token, or with none.
func call(t *testing.T, at, token string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

var started = regexp.MustCompile(`Tomcat started on port (\d+)`)

// startSpring starts the jar on a free port and gives its address.
func startSpring(t *testing.T, jar, trust, issuer string) string {
	t.Helper()
	cmd := exec.Command("java", "-XX:TieredStopAtLevel=1",
		"-Djavax.net.ssl.trustStore="+trust, "-Djavax.net.ssl.trustStoreType=PKCS12", "-Djavax.net.ssl.trustStorePassword=changeit",
		"-jar", jar, "--server.address=127.0.0.1", "--server.port=0", "--spring.security.oauth2.resourceserver.jwt.issuer-uri="+issuer)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var reading sync.WaitGroup
	ports := make(chan string, 1)
	reading.Go(func() {
		defer close(ports)
		lines := bufio.NewScanner(io.TeeReader(out, &log))
		for found := false; lines.Scan(); {
			if port := started.FindSubmatch(lines.Bytes()); port != nil && !found {
				found = true
				ports <- string(port[1])
			}
		}
	})
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s", log.Bytes())
		}
	})
	select {
	case port, ok := <-ports:
		if !ok {
			t.Fatal("the resource server ended")
		}
		return "http://127.0.0.1:" + port + "/"
	case <-time.After(2 * time.Minute):
		t.Fatal("the resource server did not start within 2 minutes")
	}
	return ""
}
