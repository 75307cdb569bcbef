//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// svidChild asks for its identity and prints it.
const svidChild = "svid"

// svid is an X509-SVID as the Workload API gives it (SPIFFE Workload API, section 5): DER.
type svid struct {
	ID     string
	Chain  []byte
	Key    []byte // PKCS #8
	Bundle []byte
}

// printSVID asks the Workload API of the run that this is in.
func printSVID(ctx context.Context, out io.Writer) error {
	path, ok := strings.CutPrefix(os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "unix://")
	if !ok {
		return errors.New("SPIFFE_ENDPOINT_SOCKET names no Unix socket")
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	message, err := firstMessage(ctx, path, "/SpiffeWorkloadAPI/FetchX509SVID")
	if err != nil {
		return fmt.Errorf("asking for an SVID: %w", err)
	}
	first, err := members(message)
	if err != nil {
		return fmt.Errorf("reading an SVID: %w", err)
	}
	m, err := members(first[1])
	if err != nil || len(m[3]) == 0 {
		return errors.New("the Workload API gave no SVID")
	}
	return json.NewEncoder(out).Encode(svid{string(m[1]), m[2], m[3], m[4]})
}

// firstMessage calls a gRPC method with an empty message and reads the first one of the answer,
// by net/http alone: gRPC is HTTP/2 with five bytes before each message.
func firstMessage(ctx context.Context, socket, method string) ([]byte, error) {
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://localhost"+method, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Workload.spiffe.io": {"true"}}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var head [5]byte
	if _, err := io.ReadFull(res.Body, head[:]); err != nil {
		return nil, fmt.Errorf("no message: %s %s", res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message"))
	}
	message := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err = io.ReadFull(res.Body, message)
	return message, err
}

// members are the fields of a protobuf message in which all have a length; of each the first.
func members(b []byte) (map[uint64][]byte, error) {
	out := map[uint64][]byte{}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		size, m := binary.Uvarint(b[max(n, 0):])
		if n <= 0 || m <= 0 || tag&7 != 2 || size > uint64(len(b)-n-m) {
			return nil, errors.New("the message is broken")
		}
		b = b[n+m:]
		if _, ok := out[tag>>3]; !ok {
			out[tag>>3] = b[:size]
		}
		b = b[size:]
	}
	return out, nil
}

// svid gives the identity of a workload of that name: `countersign run` starts a program that
// asks for it and ends. The certificate lives on.
func (u *up) svid(ctx context.Context, name string) (*svid, error) {
	started := u.program(name, nil, svidChild)
	cmd := exec.CommandContext(ctx, started.Path, started.Args[1:]...)
	b, err := cmd.Output()
	if err != nil {
		said := ""
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			said = string(e.Stderr)
		}
		return nil, fmt.Errorf("asking for the SVID of %s: %w: %s", name, err, said)
	}
	var out svid
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("reading the SVID of %s: %w", name, err)
	}
	return &out, nil
}

// config is that of a client with this identity, for the token port of this machine.
func (s *svid) config() (*tls.Config, error) {
	key, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the key of %s: %w", s.ID, err)
	}
	chain, err := x509.ParseCertificates(s.Chain)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %s: %w", s.ID, err)
	}
	roots, err := x509.ParseCertificates(s.Bundle)
	if err != nil {
		return nil, fmt.Errorf("reading the bundle of %s: %w", s.ID, err)
	}
	own := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: pool, Certificates: []tls.Certificate{own},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
	}, nil
}
