package node

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
)

// world is what the doors of TestRouteTestIsTheDoor serve: hosts that overlap, matches of every kind, redirects,
// rewrites, CORS, options, backends that are not there, and policies.
const doorWorld = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, annotations: {countersign.dev/trusted-proxies: "1", countersign.dev/trusted-proxy-addresses: 127.0.0.0/8}}
spec:
  gatewayClassName: countersign
  listeners:
  - {name: web, port: PLAIN, protocol: HTTP}
  - {name: web-a, port: PLAIN, protocol: HTTP, hostname: a.test}
  - {name: a, port: SECURE, protocol: HTTPS, hostname: a.test}
  - {name: wild, port: SECURE, protocol: HTTPS, hostname: "*.test"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop, annotations: {countersign.dev/websocket: deny}}
spec:
  parentRefs: [{name: edge}]
  hostnames: [a.test, "*.a.test", b.test]
  rules:
  - matches: [{path: {type: PathPrefix, value: /api}, method: GET}, {path: {type: Exact, value: /api/v2}, headers: [{name: X-V, value: "2"}]}]
    backendRefs: [{name: ext, port: 80}]
  - name: moved
    matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - matches: [{path: {type: RegularExpression, value: "/r[0-9]+/.*"}, queryParams: [{name: q, value: "1"}]}]
    backendRefs: [{name: nobody, port: 80}]
  - name: cors
    matches: [{path: {type: PathPrefix, value: /cors}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://o.test"], allowMethods: [GET, PUT]}}]
    backendRefs: [{name: ext, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: rest, namespace: shop, annotations: {countersign.dev/ip-deny: 203.0.113.0/24}}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: ext, port: 80, weight: 0}]
    matches: [{headers: [{name: X-V, value: "3"}]}]
  - backendRefs: [{name: ext, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: ext, namespace: shop, annotations: {countersign.dev/plaintext: allow}}
spec: {ports: [{port: 80, targetPort: 9}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ext-1, namespace: shop, labels: {kubernetes.io/service-name: ext}}
addressType: IPv4
ports: [{port: 9}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  rules:
  - to: [{operation: {methods: [GET, HEAD, OPTIONS]}}]
  - to: [{operation: {methods: [POST], hosts: [a.test, "a.test:*"], paths: ["/api/*", "/old/*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/api/secret", "/api/secret/*"]}}]}]
`

// For any request route test says which rule takes it and what is answered, as the doors themselves do.
func TestRouteTestIsTheDoor(t *testing.T) {
	m := newMesh(t)
	plain, secure := freePort(m), freePort(m)
	doc := strings.NewReplacer("PLAIN", strconv.Itoa(int(plain)), "SECURE", strconv.Itoa(int(secure))).Replace(doorWorld)
	objects, faults := resource.Decode([]resource.File{{Name: "world.yaml", Data: []byte(doc)}}, resource.Options{Gateway: true})
	if resource.Stops(faults) {
		t.Fatal(faults)
	}
	for _, o := range objects {
		m.change(catalog.Change{Object: o})
	}
	m.untilEdge("edge", "web Programmed=True", "wild Programmed=True")
	m.changed("the policies", func() bool { return len(m.n.snap.Load().Set.Policies) >= 2 })
	ask, records := m.router(), m.n.recorder.Tap(t.Context(), func(r *audit.Record) bool { return r.Gateway != "" })

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	ruled := make(chan map[uint16]string) // the rules of the records, by the port that asked
	last := make(chan uint16, 1)
	go func() {
		rules, until := map[uint16]string{}, uint16(0)
		for t := range records {
			rules[t.Record.SrcPort] = t.Record.RouteRule
			select {
			case until = <-last:
			default:
			}
			if _, whole := rules[until]; whole {
				break
			}
		}
		ruled <- rules
	}()
	seen, rules, asked, twice := map[int]int{}, map[uint16]string{}, map[uint16]admin.RouteTest{}, map[uint16]bool{}
	for range 400 {
		q := strangeRequest(rnd, plain, secure)
		v := ask(q)
		status, from := sendRaw(t, q, plain, secure)
		seen[status]++
		want, rule := v.Status, ""
		switch {
		case v.Needs != "":
			want = 403
		case v.Reason == "unrecognized_name", status == 0 && want == 400 && v.Gateway == "": // refused whatever listener it is for
			want = 0
		case want == 0:
			want = 503 // nobody is dialled here
		}
		if v.Taken {
			rule = v.Route + "#" + cmp.Or(v.RuleName, strconv.Itoa(*v.Rule))
		}
		if status != want {
			t.Fatalf("%+v\nthe door answers %d, route test says %d by %q (%s %s, needs %q)", q, status, want, rule, v.Reason, v.Text, v.Needs)
		}
		if _, again := asked[from]; again { // the kernel gave a port twice, and a record may be of either
			twice[from] = true
		}
		rules[from], asked[from] = rule, q
	}
	_, end := sendRaw(t, admin.RouteTest{Method: "GET", URL: fmt.Sprintf("http://c.test:%d/end", plain), Header: []string{"X-V: 9"}}, plain, secure)
	last <- end
	compared := 0
	for from, rule := range <-ruled {
		if q, known := asked[from]; known && !twice[from] { // some are folded, and have no record
			compared++
			if rule != rules[from] {
				t.Errorf("%+v: the door takes it by %q, route test says %q", q, rule, rules[from])
			}
		}
	}
	if compared < 150 {
		t.Errorf("only %d records", compared)
	}
	t.Log(seen)
	for _, status := range []int{0, 204, 302, 400, 403, 404, 421, 500, 503} {
		if seen[status] == 0 {
			t.Errorf("no request was answered %d", status)
		}
	}
}

func strangeRequest(rnd *rand.Rand, plain, secure uint16) admin.RouteTest {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	scheme, port := "http", plain
	if rnd.IntN(2) == 0 {
		scheme, port = "https", secure
	}
	q := admin.RouteTest{Method: pick("GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"), SourceIP: "127.0.0.1"}
	path := ""
	for range rnd.IntN(4) {
		path += pick("/api", "/old", "/new", "/r17", "/cors", "/v2", "/secret", "/", "/..", "/x%2Fy", "/%61pi", "/a;b", "/.well-known", "/countersign")
	}
	if path == "" {
		path = "/"
	}
	if rnd.IntN(10) == 0 {
		q.Method, path = "OPTIONS", "/cors"
		q.Header = []string{pick("Origin: https://o.test", "Origin: https://bad.test"), "Access-Control-Request-Method: GET"}
		q.URL = fmt.Sprintf("%s://a.test:%d/cors", scheme, port)
		return q
	}
	if rnd.IntN(3) == 0 {
		path += pick("?q=1", "?q=2", "?", "?q=1&q=2")
	}
	host := pick("a.test", "a.test", "x.a.test", "b.test", "c.test", "A.Test", "else.example", "localhost")
	q.URL = fmt.Sprintf("%s://%s:%d%s", scheme, host, port, path)
	if scheme == "https" && rnd.IntN(6) == 0 {
		q.SNI = pick("a.test", "b.test", "else.example")
	}
	for _, line := range []string{"X-V: 2", "X-V: 3", "Origin: https://o.test", "Origin: https://bad.test", "Access-Control-Request-Method: PUT", "X-Forwarded-For: 203.0.113.9", "X-Countersign-Peer: x"} {
		if rnd.IntN(5) == 0 {
			q.Header = append(q.Header, line)
		}
	}
	return q
}

// sendRaw sends the request as it stands; 0: there was no answer.
func sendRaw(t *testing.T, q admin.RouteTest, plain, secure uint16) (status int, from uint16) {
	t.Helper()
	scheme, rest, _ := strings.Cut(q.URL, "://")
	at := strings.IndexAny(rest, "/?")
	authority, target := rest[:at], rest[at:]
	host, _, _ := net.SplitHostPort(authority)
	port, sni := plain, host
	if q.SNI != "" {
		sni = q.SNI
	}
	if scheme == "https" {
		port = secure
	}
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from = c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if scheme == "https" {
		secured := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: sni})
		if secured.Handshake() != nil {
			return 0, from
		}
		c = secured
	}
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", q.Method, target, authority, strings.Join(append(q.Header, ""), "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: q.Method})
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, from
}

// router asks the server, from another process as it wants to be asked.
func (m *mesh) router() func(admin.RouteTest) admin.RouteVerdict {
	m.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), routeVar+"="+filepath.Join(m.run, "admin.sock"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { in.Close(); cmd.Wait() })
	to, from := json.NewEncoder(in), json.NewDecoder(out)
	return func(q admin.RouteTest) (v admin.RouteVerdict) {
		m.t.Helper()
		if err := to.Encode(q); err != nil {
			m.t.Fatal(err)
		}
		if err := from.Decode(&v); err != nil {
			m.t.Fatalf("%+v: %v", q, err)
		}
		return v
	}
}
