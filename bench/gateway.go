//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

const (
	edgeHost   = "shop.test"
	edgeID     = "URI=spiffe://cluster.local/ns/default/sa/edge"
	edgeIssuer = "https://login.test"
)

// front is one `up` with a Gateway, and what stands behind and beside it.
type front struct {
	*up
	admin   *admin.Client
	backend string // host:port, clear text
	port    string // of the HTTPS listener
	plain   string // of the HTTP listener
	root    []byte
	token   string
	load    *web
}

// frontObjects are a Gateway that verifies tokens and lets nobody in without one, and two routes: a service outside
// the mesh in clear text, and api in the mesh. What they count with is far from its limit.
const frontObjects = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: countersign
  listeners:
  - {name: https, port: %[1]s, protocol: HTTPS, hostname: "*.test"}
  - {name: http, port: %[2]s, protocol: HTTP}
---
apiVersion: v1
kind: Service
metadata: {name: legacy, annotations: {countersign.dev/plaintext: allow}}
spec: {ports: [{name: web, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: legacy-1, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1]}]
ports: [{name: web, port: %[3]s}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.test]
  rules: [{matches: [{path: {type: PathPrefix, value: /orders}}], backendRefs: [{name: legacy, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mesh}
spec:
  parentRefs: [{name: edge}]
  hostnames: [mesh.test]
  rules: [{matches: [{path: {type: PathPrefix, value: /orders}}], backendRefs: [{name: api, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: open}
spec:
  parentRefs: [{name: edge}]
  hostnames: [open.test]
  rules: [{backendRefs: [{name: legacy, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  jwtRules: [{issuer: "` + edgeIssuer + `", audiences: [shop], jwks: '%[4]s'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  rules:
  - from: [{source: {requestPrincipals: ["` + edgeIssuer + `/*"]}}]
    to: [{operation: {hosts: [shop.test, mesh.test], paths: ["/orders/{*}"]}}]
  - to: [{operation: {notHosts: [shop.test, mesh.test]}}]
---
apiVersion: countersign.dev/v1
kind: RateLimit
metadata: {name: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  rules: [{name: all, key: [principal], limit: {requests: 1000000, per: 1s}}]
`

// program starts our program outside the mesh.
func (s *stand) program(ctx context.Context) (string, error) {
	addr, err := freePort()
	if err != nil {
		return "", err
	}
	m, err := s.crew.add("backend", exec.Command(s.self, programChild, portOf(addr)))
	if err != nil {
		return "", err
	}
	return addr, m.answers(ctx, addr)
}

// answers waits for somebody to listen at addr.
func (m *member) answers(ctx context.Context, addr string) error {
	return m.until(ctx, "its port answers", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func portOf(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// front starts `up` with the objects, and what calls it.
func (s *stand) front(ctx context.Context, args ...string) (*front, error) {
	f := &front{}
	var err error
	if f.backend, err = s.program(ctx); err != nil {
		return nil, err
	}
	dir, err := s.fresh("up")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "edge.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "egress: {allow: [%q]}\n", f.backend), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	if f.up, err = s.up(ctx, dir, append([]string{"--config", config}, args...)...); err != nil {
		return nil, err
	}
	f.admin = admin.NewClient(filepath.Join(dir, "run", "admin.sock"), func(uint32) error { return nil })
	jwks, token, err := signed()
	if err != nil {
		return nil, err
	}
	f.token = token
	for _, port := range []*string{&f.port, &f.plain} {
		addr, err := freePort()
		if err != nil {
			return nil, err
		}
		*port = portOf(addr)
	}
	if err := f.allowEdge(ctx); err != nil {
		return nil, err
	}
	if err := f.apply(ctx, fmt.Sprintf(frontObjects, f.port, f.plain, portOf(f.backend), jwks)); err != nil {
		return nil, err
	}
	if f.root, err = exec.CommandContext(ctx, s.binary, "ca", "root", "--dir", dir).Output(); err != nil {
		return nil, fmt.Errorf("asking for the root certificate: %w", err)
	}
	f.load, err = s.loader(ctx)
	if err != nil {
		return nil, err
	}
	return f, f.until(ctx, "the Gateway answers", func() bool {
		t, err := f.load.drive(f.order(edgeHost, "xxxx", false, 1, 0, 50*time.Millisecond))
		return err == nil && t.Failed == 0 && t.Requests > 0
	})
}

// allowEdge lets the Gateway call api.
func (f *front) allowEdge(ctx context.Context) error {
	b, err := exec.CommandContext(ctx, f.s.binary, "allow", "edge", "api", "--dir", f.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("allowing the Gateway to call api: %w: %s", err, b)
	}
	return nil
}

// apply is what `countersign apply` asks the server for; one document must not be refused.
func (f *front) apply(ctx context.Context, documents string) error {
	_, err := admin.Ask[admin.ApplyReply](ctx, f.admin, "POST /v1/apply", admin.ApplyRequest{Files: []admin.File{{Name: "bench.yaml", Data: documents}}, Confirmed: true})
	if p, ok := errors.AsType[*admin.Problem](err); ok && len(p.Faults) > 0 {
		return fmt.Errorf("applying: %w: %v", err, p.Faults[0])
	}
	if err != nil {
		return fmt.Errorf("applying: %w", err)
	}
	return nil
}

// loader starts the program that calls doors.
func (s *stand) loader(context.Context) (*web, error) {
	cmd := exec.Command(s.self, loadChild)
	in, out, err := pipes(cmd)
	if err != nil {
		return nil, err
	}
	m, err := s.crew.add("load", cmd)
	if err != nil {
		return nil, err
	}
	return newWeb(m, in, out), nil
}

// order is one cell at the Gateway.
func (f *front) order(host, want string, h2 bool, conns int, warm, time time.Duration) order {
	return order{
		Addr: "127.0.0.1:" + f.port, Want: want, Conns: conns, Warm: warm, Time: time, PIDs: []int{f.pid()}, Token: f.token,
		Edge: &edge{Host: host, Root: f.root, H2: h2},
	}
}

// signed is a key set, and a token that it verifies.
func signed() (jwks, token string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("making a key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return "", "", fmt.Errorf("making a key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	jwks = fmt.Sprintf(`{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": "%s", "y": "%s"}]}`, b64(point[1:33]), b64(point[33:]))
	now := time.Now().Unix()
	claims := `{"iss":"` + edgeIssuer + `","sub":"anna","aud":"shop","iat":` + strconv.FormatInt(now, 10) + `,"exp":` + strconv.FormatInt(now+7200, 10) + `}`
	text := b64([]byte(`{"alg":"ES256","kid":"k1","typ":"JWT"}`)) + "." + b64([]byte(claims))
	sig, err := signRaw(key, text)
	return jwks, text + "." + b64(sig), err
}
