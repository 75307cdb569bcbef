package token

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"countersign.dev/internal/identity/identitytest"
)

// cpu is the time that this process has spent computing: on a shared machine the only time
// that can be compared.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkSign(b *testing.B) {
	key := identitytest.NewKey(b).(*ecdsa.PrivateKey)
	sum := sha256.Sum256(nil)
	began := cpu(b)
	for b.Loop() {
		if _, err := ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu(b)-began)/float64(b.N), "cpu-ns/op")
}

// wire is one kept-alive connection that sends the same request again and again.
type wire struct {
	conn    *tls.Conn
	reader  *bufio.Reader
	request []byte
}

func (d *bed) wire(cert *tls.Certificate, body, header string) *wire {
	srv := d.public
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		srv = d.mtls
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: tokens.test\r\nContent-Type: application/x-www-form-urlencoded\r\n%sContent-Length: %d\r\n\r\n%s", pathToken, header, len(body), body)
	return &wire{conn: conn, reader: bufio.NewReaderSize(conn, 16<<10), request: []byte(request)}
}

// ask sends the request and steps over the answer; it must be 200.
func (w *wire) ask(tb testing.TB) {
	if _, err := w.conn.Write(w.request); err != nil {
		tb.Fatal(err)
	}
	length, first := 0, true
	for {
		line, err := w.reader.ReadSlice('\n')
		if err != nil {
			tb.Fatal(err)
		}
		if first && string(line[9:12]) != "200" {
			tb.Fatalf("%s", line)
		}
		first = false
		const name = "Content-Length: "
		if len(line) > len(name) && string(line[:len(name)]) == name {
			for _, c := range line[len(name) : len(line)-2] {
				length = length*10 + int(c-'0')
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := w.reader.Discard(length); err != nil {
		tb.Fatal(err)
	}
}

// unlimited lets a benchmark ask as often as it can.
func (d *bed) unlimited() { d.limits.client.every = 0 }

// BenchmarkClientCredentials is one token of a workload over its kept-alive mTLS connection,
// record included: the goal is three raw signatures of CPU time.
func BenchmarkClientCredentials(b *testing.B) {
	d := newBed(b)
	d.unlimited()
	w := d.wire(d.ca.Leaf(b, webID), formOf("grant_type", "client_credentials", "client_id", webID), "")
	w.ask(b)
	b.ReportAllocs()
	began := cpu(b)
	for b.Loop() {
		w.ask(b)
	}
	b.ReportMetric(float64(cpu(b)-began)/float64(b.N), "cpu-ns/op")
}

// BenchmarkClientSecret is the same by a secret: one more read of the store, one more hash.
func BenchmarkClientSecret(b *testing.B) {
	d := newBed(b)
	d.unlimited()
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth("ci", d.newSecret("ci"))
	w := d.wire(nil, formOf("grant_type", "client_credentials"), "Authorization: "+r.Header.Get("Authorization")+"\r\n")
	b.ReportAllocs()
	began := cpu(b)
	for b.Loop() {
		w.ask(b)
	}
	b.ReportMetric(float64(cpu(b)-began)/float64(b.N), "cpu-ns/op")
}
