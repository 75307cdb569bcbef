package server

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/h1/h1test"
)

// The token ports take no message that two parsers could read differently: the tables of http-strictness 17.1 for
// strangers. What passes is for the service to answer, which has nothing at their paths.
func TestSecTokenPortStrict(t *testing.T) {
	r := newPlace(t).run()
	for _, ln := range r.ports {
		for _, table := range h1test.Edge() {
			for _, c := range table {
				want := c.Status[0]
				switch {
				case want == 0, want == http.StatusRequestTimeout: // time is the gate's own affair
					continue
				case strings.HasPrefix(c.Name, "B8a "): // of clear text
					continue
				case strings.HasPrefix(c.Name, "C19 "): // of a host where nothing looks at paths: here all does
					want = 400
				}
				conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				go func() { _, _ = conn.Write(h1test.Wire(c.Bytes)) }()
				br := bufio.NewReader(conn)
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Errorf("%s: %v", c.Name, err)
					conn.Close()
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				switch {
				case want >= 400 && res.StatusCode != want && (res.StatusCode != 404 || alive(conn, br)):
					t.Errorf("%s: %d, want %d", c.Name, res.StatusCode, want)
				case want < 400 && want != res.StatusCode && res.StatusCode != 404 && res.StatusCode != 405:
					t.Errorf("%s: %d, which nobody refuses", c.Name, res.StatusCode)
				}
				conn.Close()
			}
		}
	}
}

// alive reports a connection that answers once more, to whom a fault in a body nobody wanted was no fault.
func alive(conn *tls.Conn, br *bufio.Reader) bool {
	_, _ = io.WriteString(conn, "GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n")
	_, err := http.ReadResponse(br, nil)
	return err == nil
}

// The service sees one form of a path, and no header that only we may say.
func TestTokenPortForm(t *testing.T) {
	r := newPlace(t).run()
	for target, want := range map[string]string{
		"GET /x/..//oauth2/%6awks": "200", "GET /oauth2/jwks%2f": "400", "OPTIONS *": "204", "GET /oauth2%5cjwks": "400", "get /oauth2/jwks": "501",
		"GET https://localhost/oauth2/jwks": "200", "GET https://else/oauth2/jwks": "400",
	} {
		conn, err := tls.Dial("tcp", r.ports[0].Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, target+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 "+want+" ") {
			t.Errorf("%s: %s", target, line)
		}
		conn.Close()
	}
}
