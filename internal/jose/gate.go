package jose

import (
	"encoding/base64"
	"strings"
)

// Limits of what is read (tokens.md 12.2).
const (
	maxHeader        = 1024 // bytes, decoded
	maxHeaderMembers = 8    // of an exact header
	maxKeyID         = 128
	maxMembers       = 128 // of the payload, at top level
	maxDepth         = 16
)

// alphabet is base64url without padding. Strict refuses unused bits that are not zero, and
// still skips CR and LF: hence the scan before it.
var alphabet = base64.RawURLEncoding.Strict()

// outside is not zero for every byte that a compact token cannot hold.
var outside = func() (t [256]byte) {
	for i := range t {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", rune(i)) {
			t[i] = 1
		}
	}
	return t
}()

// parts is a compact token that came through the gate.
type parts struct {
	input                []byte // what is signed: header and payload as they came
	header, payload, sig []byte // decoded
}

// cut finds the dots: by index, since splitting at a million dots is an attack of its own.
func cut(raw string) (dot1, dot2 int, err *Error) {
	if len(raw) == 0 || len(raw) > MaxToken {
		return 0, 0, refuse(Size, "")
	}
	var bad byte
	for i := range len(raw) {
		bad |= outside[raw[i]]
	}
	if bad != 0 {
		return 0, 0, refuse(Charset, "")
	}
	dot1 = strings.IndexByte(raw, '.')
	dot2 = dot1 + 1 + strings.IndexByte(raw[dot1+1:], '.')
	if dot1 < 0 || dot2 <= dot1 {
		return 0, 0, refuse(Format, "a compact token has three parts")
	}
	if strings.IndexByte(raw[dot2+1:], '.') >= 0 {
		return 0, 0, refuse(Format, "more than three parts: encrypted tokens are not read")
	}
	if dot1 == 0 {
		return 0, 0, refuse(Format, "the header is empty")
	}
	if alphabet.DecodedLen(dot1) > maxHeader {
		return 0, 0, refuse(Size, "the header is too long")
	}
	return dot1, dot2, nil
}

// gate is steps 1 to 4: before anything is read, the text can be one thing only. A payload or
// signature that is empty comes through and is refused where it is read.
func gate(raw string) (parts, *Error) {
	dot1, dot2, err := cut(raw)
	if err != nil {
		return parts{}, err
	}
	// One allocation for the bytes as they came and for what they say.
	buf := append(make([]byte, 0, len(raw)+alphabet.DecodedLen(len(raw))), raw...)
	var p parts
	for _, s := range []struct {
		to       *[]byte
		from, up int
	}{{&p.header, 0, dot1}, {&p.payload, dot1 + 1, dot2}, {&p.sig, dot2 + 1, len(raw)}} {
		start := len(buf)
		out, err := alphabet.AppendDecode(buf, buf[s.from:s.up])
		if err != nil {
			return parts{}, refuse(Base64, "")
		}
		buf = out
		*s.to = buf[start:len(buf):len(buf)]
	}
	p.input = buf[:dot2:dot2]
	return p, nil
}

func refuse(r Reason, text string) *Error { return &Error{Reason: r, Text: text} }
