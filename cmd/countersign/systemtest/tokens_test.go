//go:build system && linux

package systemtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// door is the token service of a house as clients see it: the public port, the mTLS port, and
// the root that both certificates hang from.
type door struct {
	h            *house
	public, mtls string
	root         string // file
	roots        *x509.CertPool
}

func (h *house) door() *door {
	h.t.Helper()
	var ports map[string]string
	b, err := os.ReadFile(h.dir + "/node/ports.json")
	if err == nil {
		err = json.Unmarshal(b, &ports)
	}
	if err != nil || ports["tokens"] == "" || ports["tokens-mtls"] == "" {
		h.t.Fatalf("the ports of the token service: %s, %v", b, err)
	}
	d := &door{h: h, public: ports["tokens"], mtls: ports["tokens-mtls"], root: h.home + "/root.pem", roots: x509.NewCertPool()}
	pem := h.cli("ca", "root").out
	if !d.roots.AppendCertsFromPEM([]byte(pem)) {
		h.t.Fatalf("ca root: %q", pem)
	}
	writeFile(h.t, owner, d.root, pem)
	if err := os.Chmod(d.root, 0o644); err != nil {
		h.t.Fatal(err)
	}
	return d
}

// svid leaves the certificate of a workload where openssl, curl and we can take it.
func (h *house) svid(name string) (dir string, cert tls.Certificate) {
	h.t.Helper()
	dir = newDir(h.t, h.as)
	h.cli("run", name, "--", prog, "fetch", dir)
	cert, err := tls.LoadX509KeyPair(dir+"/svid.pem", dir+"/key.pem")
	if err != nil {
		h.t.Fatal(err)
	}
	return dir, cert
}

// client keeps its connections to a token port; without a certificate it shows none.
func (d *door) client(certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots, ServerName: "localhost", Certificates: certs}, MaxIdleConnsPerHost: 64}
	d.h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// reply is an answer of the token service, or of an API.
type reply struct {
	status int
	body   string
	token  string
	head   http.Header
	err    error
}

func (r reply) String() string {
	return fmt.Sprintf("%d %s %v", r.status, r.body[:min(len(r.body), 300)], r.err)
}

func do(c *http.Client, req *http.Request) reply {
	resp, err := c.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r := reply{status: resp.StatusCode, body: string(b), head: resp.Header, err: err}
	var said struct {
		AccessToken string `json:"access_token"`
	}
	json.Unmarshal(b, &said)
	r.token = said.AccessToken
	return r
}

// post sends a form; credentials are a client and its secret, or nothing.
func post(c *http.Client, to string, form url.Values, credentials ...string) reply {
	req, err := http.NewRequest(http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if len(credentials) == 2 {
		req.SetBasicAuth(credentials[0], credentials[1])
	}
	return do(c, req)
}

func idOf(workload string) string { return "spiffe://cluster.local/ns/default/sa/" + workload }

// own asks for a token as a workload does on the mTLS port.
func (d *door) own(c *http.Client, workload, audience string) reply {
	return post(c, "https://"+d.mtls+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {idOf(workload)}, "audience": {audience}})
}

const reports = "https://reports.example"

// secretClient makes the client ci outside the mesh, and gives its secret.
func (h *house) secretClient() (secret string) {
	h.t.Helper()
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthResource, metadata: {name: reports, namespace: default}, spec: {audience: "` + reports + `", scopes: [{name: "reports:read"}], allowBearer: true}}`)
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: ci, namespace: default}, spec: {clientId: ci, auth: client_secret, targets: [{audience: "` + reports + `", scopes: ["reports:read"]}]}}`)
	return strings.TrimSpace(h.cli("client", "rotate", "ci").out)
}

// withSecret asks as that client on the public port.
func (d *door) withSecret(c *http.Client, secret string) reply {
	return post(c, "https://"+d.public+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "audience": {reports}}, "ci", secret)
}

// token is a token of a workload, by the ordinary command.
func (h *house) token(workload, audience string) string {
	h.t.Helper()
	return strings.TrimSpace(h.cli("run", workload, "--", countersign, "token", "issue", "--audience", audience).out)
}

// tokenPolicies is an api that anybody of the mesh may GET, but /secret, which needs a token.
func (h *house) tokenPolicies() {
	h.t.Helper()
	h.apply(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: secret, namespace: default}, spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {requestPrincipals: ["*"]}}], to: [{operation: {paths: ["/secret"]}}]}]}}`)
}

// caller is a client of one service as a workload with that certificate, without its node.
func (h *house) caller(cert tls.Certificate, service string) *http.Client {
	tr := &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// Who answers is not in question here: it is our own house.
			var dialer tls.Dialer
			dialer.Config = &tls.Config{Certificates: []tls.Certificate{cert}, ServerName: service + ".default.svc.cluster.local", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
			return dialer.DialContext(ctx, "tcp", h.inbound)
		},
	}
	h.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// call calls with a token, or with none.
func call(c *http.Client, service, path, token string) reply {
	req, err := http.NewRequest(http.MethodGet, "https://"+service+path, nil)
	if err != nil {
		return reply{err: err}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return do(c, req)
}

// record is a line of the record, as much of it as tests ask for.
type record struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	PeerID   string `json:"peer_id"`
	Decision string `json:"decision"`
	Layer    string `json:"layer"`
	Reason   string `json:"reason"`
	Detail   string `json:"detail"`
	Status   int    `json:"status"`
	JTI      string `json:"jti"`
}

// records are those below a directory of the house.
func (h *house) records(below string) (list []record) {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.dir, below, "audit-*.jsonl"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var r record
			if json.Unmarshal(line, &r) == nil {
				list = append(list, r)
			}
		}
	}
	return list
}

// recorded waits for a record that is like that.
func (h *house) recorded(below, what string, like func(record) bool) {
	h.t.Helper()
	eventually(h.t, "a record of "+what, func() (bool, string) {
		list := h.records(below)
		for _, r := range list {
			if like(r) {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", list[max(0, len(list)-5):])
	})
}

// issuerKey is a foreign issuer's key, or that of a client which signs its assertions.
type issuerKey struct {
	*ecdsa.PrivateKey
	id string
}

func newIssuerKey(t *testing.T, id string) issuerKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuerKey{k, id}
}

// set is its JWK Set.
func (k issuerKey) set() string {
	point, _ := k.PublicKey.Bytes()
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":%q,"x":%q,"y":%q}]}`, k.id, enc(point[1:33]), enc(point[33:]))
}

// sign makes a JWT; kid may be another than its own.
func (k issuerKey) sign(kid string, claims map[string]any) string {
	return k.signTyped("JWT", kid, claims)
}

func (k issuerKey) signTyped(typ, kid string, claims map[string]any) string {
	return k.signHeader(fmt.Sprintf(`{"alg":"ES256","kid":%q,"typ":%q}`, kid, typ), claims)
}

func (k issuerKey) signHeader(header string, claims map[string]any) string {
	enc := base64.RawURLEncoding.EncodeToString
	body, _ := json.Marshal(claims)
	text := enc([]byte(header)) + "." + enc(body)
	sum := sha256.Sum256([]byte(text))
	r, s, _ := ecdsa.Sign(rand.Reader, k.PrivateKey, sum[:])
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + enc(signature)
}
