package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// body is the body of an upstream's HTTP/1 response. Its reader never waits for more than
// what it gives: a byte that has come is a byte that goes on.
type body struct {
	r       *bufio.Reader
	left    int64 // of the body, or of the chunk; -1: until close
	chunked bool
	begun   bool // the first chunk line was read
	whole   bool // the end was seen where it had to be
	wire    *wire
	trailer http.Header
	err     error
}

func (b *body) reset(w *wire, h head) {
	*b = body{r: w.r, left: h.length, chunked: h.chunked, wire: w}
	if h.chunked {
		b.left = 0
	}
	b.whole = !h.chunked && h.length == 0
}

// Read gives what is there. The end of a body is io.EOF only if the body was whole.
func (b *body) Read(p []byte) (int, error) {
	if b.whole {
		return 0, io.EOF
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.read(p)
	if err != nil && !b.whole {
		b.err = err
	}
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	if b.chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil || b.whole {
			return 0, endOr(err)
		}
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	if b.left < 0 { // until close: whole only if the close was a real one (dataplane.md 4.8)
		if errors.Is(err, io.EOF) && !b.wire.cut() {
			b.whole = true
		} else if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	switch {
	case b.left > 0:
	case !b.chunked:
		b.whole, err = true, nil
	case err == nil:
		b.lookAhead()
	}
	return n, err
}

func endOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

var lastChunk = []byte("\r\n0\r\n\r\n")

// lookAhead takes the usual end of a chunked body if it is already here, so that the last
// piece is known to be the last and goes out in one write.
func (b *body) lookAhead() {
	if b.r.Buffered() < len(lastChunk) {
		return
	}
	if next, _ := b.r.Peek(len(lastChunk)); bytes.Equal(next, lastChunk) {
		_, _ = b.r.Discard(len(lastChunk))
		b.whole = true
	}
}

// nextChunk reads the end of one chunk and the line of the next (RFC 9112, section 7.1).
func (b *body) nextChunk() error {
	if b.begun {
		if line, err := b.line(2); err != nil {
			return err
		} else if len(line) != 0 {
			return malformed("chunk longer than its size")
		}
	}
	b.begun = true
	line, err := b.line(maxChunkLine + 2)
	if err != nil {
		return err
	}
	size, ok := parseChunkSize(line)
	if !ok {
		return malformed("chunk size")
	}
	if size > 0 {
		b.left = size
		return nil
	}
	return b.readTrailer()
}

// parseChunkSize takes 1 to 15 hex digits, then nothing or an extension.
func parseChunkSize(line []byte) (size int64, ok bool) {
	i := 0
	for ; i < len(line) && i <= 15; i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return size, i > 0 && c == ';' && isValue(string(line[i:]))
		}
		size = size<<4 | int64(c)
	}
	return size, i > 0 && i <= 15
}

// readTrailer reads the trailer section and so ends the body.
func (b *body) readTrailer() error {
	var raw []byte
	for {
		line, err := b.line(maxTrailer)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		raw = append(append(raw, line...), '\r', '\n')
		if len(raw) > maxTrailer {
			return malformed("trailers over 8 KiB")
		}
	}
	if len(raw) > 0 {
		fields, err := parseFields(string(raw)+"\r\n", maxTrailerFields)
		if err != nil {
			return err
		}
		b.trailer = fields
	}
	b.whole = true
	return nil
}

// line reads one line that ends in CRLF, without it. It is valid until the next read.
func (b *body) line(most int) ([]byte, error) {
	line, err := b.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, malformed("line too long")
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case len(line) > most || len(line) < 2 || line[len(line)-2] != '\r':
		return nil, malformed("line of a chunked body")
	}
	return line[:len(line)-2], nil
}
