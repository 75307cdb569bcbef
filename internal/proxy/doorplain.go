package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

const plainTime = 100 * time.Millisecond // to write the answer, and to read what is there of the request

// tellPlain answers HTTP on a port of TLS, which people type by mistake, with a word of it. What
// stands in the request is not looked at.
func tellPlain(c net.Conn, handshake error) {
	e, ok := errors.AsType[tls.RecordHeaderError](handshake)
	if !ok || e.Conn == nil || !slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO"}, string(e.RecordHeader[:])) {
		return
	}
	if c.SetDeadline(time.Now().Add(plainTime)) != nil {
		return
	}
	if _, err := io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: 21\r\n\r\nthis port takes https"); err != nil {
		return
	}
	_, _ = c.Read(make([]byte, 4096)) // what is unread resets the connection, and the answer with it
}
