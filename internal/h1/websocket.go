package h1

import (
	"crypto/sha1"
	"encoding/base64"
)

// handshake is what a websocket upgrade is made of (RFC 6455 section 4.2.1).
type handshake struct {
	get, http11 bool
	option      bool // Connection: upgrade
	version     bool // one Sec-WebSocket-Version: 13
	key         bool // one Sec-WebSocket-Key of 16 bytes
	empty       bool // no content
}

// check: all or nothing. A half-valid handshake is refused, because an origin may take it for a whole one.
func (h handshake) check() *Fault {
	if h != (handshake{true, true, true, true, true, true}) {
		return faultUpgrade
	}
	return nil
}

// websocket is http-strictness section 9. An Upgrade to anything but exactly websocket is no upgrade: the field is
// removed later and the request goes on.
func (c *check) websocket() *Fault {
	if c.upgrades != 1 || !equalFold(c.upgrade, "websocket") {
		return nil
	}
	c.WebSocket = true
	return handshake{
		get:     string(c.method) == "GET",
		http11:  c.Minor == 1,
		option:  c.connection.upgrade,
		version: c.versions == 1 && c.goodVersion,
		key:     c.keys == 1 && goodKey(c.key),
		empty:   c.Framing == NoBody || c.Framing == Length && c.Length == 0,
	}.check()
}

// WebSocket reports whether a parsed request wants an upgrade to websocket; if it does and the handshake is not
// complete, it is to be refused. Call it before Strip.
func WebSocket(method string, major, minor int, header map[string][]string) (wanted bool, f *Fault) {
	if up := header["Upgrade"]; len(up) != 1 || !equalFold(trim(up[0]), "websocket") {
		return false, nil
	}
	var o options
	for _, line := range header["Connection"] {
		if f := addOptions(Base, &o, trim(line)); f != nil {
			return true, f
		}
	}
	versions, keys := header["Sec-Websocket-Version"], header["Sec-Websocket-Key"]
	return true, handshake{
		get:     method == "GET",
		http11:  major == 1 && minor == 1,
		option:  o.upgrade,
		version: len(versions) == 1 && versions[0] == "13",
		key:     len(keys) == 1 && goodKey([]byte(keys[0])),
		empty:   header["Transfer-Encoding"] == nil && CheckNoBody(header) == nil,
	}.check()
}

var strictBase64 = base64.StdEncoding.Strict()

// goodKey: 16 bytes in canonical base64.
func goodKey(key []byte) bool {
	var b [18]byte
	if len(key) != 24 {
		return false
	}
	n, err := strictBase64.Decode(b[:], key)
	return err == nil && n == 16
}

// Accept is the Sec-WebSocket-Accept that proves the other side understood the key (RFC 6455 section 4.2.2).
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
