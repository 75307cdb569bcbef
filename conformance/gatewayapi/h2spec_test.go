package gatewayapi

import (
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// excepted are the cases of h2spec that net/http answers otherwise, which http-strictness.md 15 names. All of them are
// refusals; none is let through.
var excepted = []string{
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the connection-specific header field",
}

const door = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: countersign
  listeners:
  - {name: https, port: 8443, protocol: HTTPS}
  - {name: http, port: 8080, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: app, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: app, annotations: {countersign.dev/plaintext: allow}}
spec: {ports: [{name: web, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
endpoints: [{addresses: [127.8.255.1]}]
ports: [{name: web, port: %d}]
`

// withoutTLS is one more where HTTP/1.1 is spoken too: what is no preface is an HTTP/1 request, and a bad one (8.5).
const withoutTLS = "http2/3.5 Sends invalid connection preface"

// TestH2spec runs h2spec 2.2.1 against the listeners of a Gateway: HTTPS, and HTTP/2 without TLS.
func TestH2spec(t *testing.T) {
	work := t.TempDir()
	watched := filepath.Join(work, "watched")
	if err := os.Mkdir(watched, 0o700); err != nil {
		t.Fatal(err)
	}
	app, err := net.Listen("tcp", "127.8.255.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(20 * time.Millisecond) // streams must be open at a time, for their limit to be met
		_, _ = io.WriteString(w, "here\n")
	})}
	go func() { _ = server.Serve(app) }()
	t.Cleanup(func() { _ = server.Close() })
	write(t, filepath.Join(watched, "door.yaml"), fmt.Sprintf(door, app.Addr().(*net.TCPAddr).Port))
	write(t, filepath.Join(watched, "policy.yaml"), everybody)
	start(t, countersign(t, work), work, watched)
	for _, l := range []struct {
		name  string
		port  int
		flags []string
	}{{"HTTPS", 8443, []string{"-t", "-k"}}, {"HTTP", 8080, nil}} {
		t.Run(l.name, func(t *testing.T) {
			wait(t, "127.9.0.1:"+strconv.Itoa(l.port))
			report := filepath.Join(work, l.name+".xml")
			args := append([]string{"tool", "h2spec", "-h", "127.9.0.1", "-p", strconv.Itoa(l.port), "--strict", "-j", report}, l.flags...)
			said, _ := exec.Command("go", args...).CombinedOutput() // ends with 1 where a case failed
			failed, all := readReport(t, report)
			if all < 140 {
				t.Fatalf("%d cases were run\n%s", all, said)
			}
			for _, c := range failed {
				if !slices.Contains(excepted, c) && (l.name == "HTTPS" || c != withoutTLS) {
					t.Errorf("failed: %s", c)
				}
			}
			t.Logf("%d of %d cases passed", all-len(failed), all)
		})
	}
}

func readReport(t *testing.T, file string) (failed []string, all int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			all++
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, s.Package+" "+c.Name)
			}
		}
	}
	return failed, all
}

// wait waits until a port is open.
func wait(t *testing.T, address string) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := dial(address); err == nil {
			_ = c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s", address)
}
