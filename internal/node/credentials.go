package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"countersign.dev/internal/control"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/snapshot"
)

const (
	tokensKey    = identity.ReservedNamespace + "/tokens" // the token service in the registry
	maxTokenBody = 64 << 10
	maxSaid      = 64 // bytes of each of the two texts of an OAuth error
)

// clientCredentials asks the token service, as the workload itself (tokens.md 7.1), on a connection of its own. Its
// errors are *proxy.NoToken.
func (n *Node) clientCredentials(ctx context.Context, id string, svid *tls.Certificate, a proxy.Attach) (string, time.Duration, error) {
	conn, err := n.dialTokenService(ctx, svid)
	if err != nil {
		return "", 0, unreached(err)
	}
	defer conn.NetConn().Close()
	tr := &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "audience": {a.Audience}}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	status, body, err := postForm(ctx, tr, form)
	if err != nil {
		return "", 0, err
	}
	return tokenOf(status, body)
}

// tokenOf reads an answer of the token endpoint. Its errors are *proxy.NoToken.
func tokenOf(status int, body []byte) (string, time.Duration, error) {
	var got struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
		Error   string `json:"error"`
		Text    string `json:"error_description"`
	}
	err := json.Unmarshal(body, &got)
	switch {
	case status != http.StatusOK:
		return "", 0, &proxy.NoToken{Detail: said(status, got.Error, got.Text)}
	case err != nil || got.Token == "" || got.Expires <= 0:
		return "", 0, &proxy.NoToken{Detail: "the token service's answer is no token"}
	}
	return got.Token, time.Duration(got.Expires) * time.Second, nil
}

// dialTokenService connects to it as the holder of an SVID.
func (n *Node) dialTokenService(ctx context.Context, svid *tls.Certificate) (*tls.Conn, error) {
	inst := n.tokenService()
	if inst == nil {
		return nil, &proxy.NoToken{Detail: "no token service in the mesh"}
	}
	cfg := identity.ClientConfig(identity.Side{
		Own: func(string) (*tls.Certificate, error) { return svid, nil }, Trust: n.trust, Now: time.Now,
		NextProtos: []string{"http/1.1"}, Check: control.CheckServer(n.td.Name()),
	}, inst.ID+".tokens."+identity.ReservedNamespace+".svc."+n.td.Name())
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", inst.Address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// postForm is one request to the token endpoint. Its errors are *proxy.NoToken.
func postForm(ctx context.Context, tr *http.Transport, form url.Values) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://tokens."+identity.ReservedNamespace+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, unreached(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, nil, unreached(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxTokenBody)); err != nil {
		return 0, nil, unreached(err)
	}
	return resp.StatusCode, body, nil
}

func (n *Node) tokenService() *snapshot.Instance {
	for _, i := range n.snap.Load().Instances {
		if len(i.Services) == 1 && i.Services[0] == tokensKey {
			return &i
		}
	}
	return nil
}

func unreached(err error) error {
	if why, ok := errors.AsType[*proxy.NoToken](err); ok {
		return why
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &proxy.NoToken{Detail: "the token service does not answer in time", Err: err}
	}
	return &proxy.NoToken{Detail: "the token service cannot be reached", Err: err}
}

// said is an OAuth error in the words of the token service, which are fixed (tokens.md 18.1).
func said(status int, code, text string) string {
	out := fmt.Sprintf("the token service answered %d", status)
	for _, s := range [...]string{code, text} {
		if s != "" && len(s) <= maxSaid && !strings.Contains(s, "eyJ") && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
			out += ": " + s
		}
	}
	return out
}
