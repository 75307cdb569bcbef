//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

var errNoNginx = errors.New("nginx is not installed")

// findNginx looks on the path and where Debian puts it.
func findNginx(named string) (path, version string, err error) {
	names := []string{"nginx", "/usr/sbin/nginx"}
	if named != "" {
		names = []string{named}
	}
	for _, name := range names {
		if path, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return "", "", errNoNginx
	}
	b, err := exec.Command(path, "-v").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("asking nginx for its version: %w", err)
	}
	_, version, _ = strings.Cut(strings.TrimSpace(string(b)), "nginx/")
	return path, version, nil
}

// nginx is a pair of them that does what two of our hops do: plain HTTP in, mutual TLS 1.3 between
// them, plain HTTP to the program, connections kept everywhere (dataplane.md 19.7).
type nginx struct {
	addr string
	pids []int // masters and workers
}

const nginxCommon = `
daemon off;
worker_processes 1;
pid %[1]s/%[2]s.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
	access_log off;
	server_tokens off;
	tcp_nodelay on;
	keepalive_requests 1000000000;
	keepalive_timeout 300s;
	client_body_temp_path %[1]s/%[2]s.body;
	proxy_temp_path %[1]s/%[2]s.proxy;
	fastcgi_temp_path %[1]s/%[2]s.fastcgi;
	uwsgi_temp_path %[1]s/%[2]s.uwsgi;
	scgi_temp_path %[1]s/%[2]s.scgi;
	proxy_max_temp_file_size 0;
	proxy_http_version 1.1;
	upstream next {
		server %[3]s;
		keepalive 512;
		keepalive_requests 1000000000;
		keepalive_timeout 300s;
	}
`

const nginxNear = nginxCommon + `
	server {
		listen %[4]s;
		location / {
			proxy_pass https://next;
			proxy_ssl_name api;
			proxy_ssl_server_name on;
			proxy_ssl_protocols TLSv1.3;
			proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
			proxy_ssl_certificate %[1]s/web.pem;
			proxy_ssl_certificate_key %[1]s/web.key;
			proxy_ssl_trusted_certificate %[1]s/root.pem;
			proxy_ssl_verify on;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Request-Id $request_id;
		}
	}
}
`

const nginxFar = nginxCommon + `
	server {
		listen %[4]s ssl;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_certificate %[1]s/api.pem;
		ssl_certificate_key %[1]s/api.key;
		ssl_client_certificate %[1]s/root.pem;
		ssl_verify_client on;
		location / {
			proxy_pass http://next;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header ` + peerField + ` $ssl_client_s_dn;
		}
	}
}
`

// nginxPeer is what web arrives as behind nginx.
const nginxPeer = "CN=web"

// pair starts two of them in front of the program at app.
func (s *stand) pair(ctx context.Context, path, app string) (*nginx, error) {
	dir, err := os.MkdirTemp(s.dir, "nginx")
	if err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	if err := writeCertificates(dir, "web", "api"); err != nil {
		return nil, err
	}
	far, err := freePort()
	if err != nil {
		return nil, err
	}
	near, err := freePort()
	if err != nil {
		return nil, err
	}
	n := &nginx{addr: near}
	for _, side := range []struct{ name, config, next, listen string }{{"far", nginxFar, app, far}, {"near", nginxNear, far, near}} {
		file := filepath.Join(dir, side.name+".conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, side.config, dir, side.name, side.next, side.listen), 0o600); err != nil {
			return nil, fmt.Errorf("writing the configuration of nginx: %w", err)
		}
		m, err := s.crew.add("nginx "+side.name, exec.Command(path, "-e", "stderr", "-p", dir, "-c", file))
		if err != nil {
			return nil, err
		}
		err = m.until(ctx, "its port answers", func() bool {
			c, err := net.Dial("tcp", side.listen)
			if err == nil {
				c.Close()
			}
			return err == nil && len(childrenOf(m.pid())) == 1
		})
		if err != nil {
			return nil, err
		}
		n.pids = append(append(n.pids, m.pid()), childrenOf(m.pid())...)
	}
	return n, nil
}

// writeCertificates makes an authority and a certificate for each name, ECDSA on P-256.
func writeCertificates(dir string, names ...string) error {
	now := time.Now()
	make1 := func(name string, serial int64, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
		}
		if parent == nil {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
			parent, by = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			return nil, nil, err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, err
		}
		for file, block := range map[string]*pem.Block{
			".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: pkcs8},
		} {
			if err := os.WriteFile(filepath.Join(dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
				return nil, nil, err
			}
		}
		return c, key, nil
	}
	root, by, err := make1("root", 1, nil, nil)
	for i, name := range names {
		if err == nil {
			_, _, err = make1(name, int64(i+2), root, by)
		}
	}
	if err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	return nil
}
