//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// signRaw is ES256 (RFC 7518, section 3.4).
func signRaw(key *ecdsa.PrivateKey, text string) ([]byte, error) {
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing a token: %w", err)
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}

// peer is another proxy that does TLS alone: the same cipher and kind of key in, clear text to the same program.
type peer struct {
	name, version, addr string
	pids                []int
	root                []byte
}

const nginxEdge = nginxCommon + `
	server {
		listen %[4]s ssl http2;
		http2_max_concurrent_streams 128;
		http2_max_requests 1000000000;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_certificate %[1]s/shop.test.pem;
		ssl_certificate_key %[1]s/shop.test.key;
		location / {
			proxy_pass http://next;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto https;
		}
	}
}
`

const caddyEdge = `{
	admin off
	auto_https off
	persist_config off
	grace_period 1s
	log default {
		level ERROR
	}
	servers {
		protocols h1 h2
	}
}
https://shop.test:%[2]s {
	bind 127.0.0.1
	tls %[1]s/shop.test.pem %[1]s/shop.test.key {
		protocols tls1.3
	}
	reverse_proxy %[3]s {
		transport http {
			keepalive_idle_conns_per_host 512
		}
	}
}
`

// peerDir has the certificate of the peers.
func (s *stand) peerDir() (dir string, root []byte, err error) {
	if dir, err = os.MkdirTemp(s.dir, "peer"); err != nil {
		return "", nil, fmt.Errorf("making a directory: %w", err)
	}
	if err := writeCertificates(dir, edgeHost); err != nil {
		return "", nil, err
	}
	root, err = os.ReadFile(filepath.Join(dir, "root.pem"))
	return dir, root, err
}

// nginxDoor starts nginx in front of app; nil: it is not installed.
func (s *stand) nginxDoor(ctx context.Context, app string) (*peer, error) {
	path, version, err := findNginx(s.nginx)
	if errors.Is(err, errNoNginx) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &peer{name: "nginx", version: version}
	dir, root, err := s.peerDir()
	if err != nil {
		return nil, err
	}
	p.root = root
	if p.addr, err = freePort(); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "edge.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxEdge, dir, "edge", app, p.addr), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration of nginx: %w", err)
	}
	m, err := s.crew.add("nginx", exec.Command(path, "-e", "stderr", "-p", dir, "-c", file))
	if err != nil {
		return nil, err
	}
	if err := m.answers(ctx, p.addr); err != nil {
		return nil, err
	}
	if err := m.until(ctx, "its worker runs", func() bool { return len(childrenOf(m.pid())) == 1 }); err != nil {
		return nil, err
	}
	p.pids = append(childrenOf(m.pid()), m.pid())
	return p, nil
}

// caddyDoor starts Caddy in front of app; nil: it is not there.
func (s *stand) caddyDoor(ctx context.Context, app string) (*peer, error) {
	named := s.caddy
	if named == "" {
		named = "caddy"
	}
	path, err := exec.LookPath(named)
	if err != nil && s.caddy == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("finding caddy: %w", err)
	}
	version, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("asking caddy for its version: %w", err)
	}
	p := &peer{name: "Caddy", version: strings.TrimPrefix(strings.Fields(string(version))[0], "v")}
	dir, root, err := s.peerDir()
	if err != nil {
		return nil, err
	}
	p.root = root
	if p.addr, err = freePort(); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, fmt.Appendf(nil, caddyEdge, dir, portOf(p.addr), app), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration of caddy: %w", err)
	}
	cmd := exec.Command(path, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	m, err := s.crew.add("caddy", cmd)
	if err != nil {
		return nil, err
	}
	p.pids = []int{m.pid()}
	return p, m.answers(ctx, p.addr)
}
