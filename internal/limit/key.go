package limit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// MaxKey is the longest key that is kept as it is, in bytes; of a longer one its hash is kept.
const MaxKey = 512

// prefixSize is how much of the hash of a rule's id stands before its keys.
const prefixSize = 16

// A key is the prefix of its rule and its parts. Each part starts with a tag that says how long
// it is, so no two lists of parts make the same bytes, and absent is no value.
const (
	tagAbsent   = 'a'
	tagValue    = 'v' // uvarint length, bytes
	tagV4       = '4' // prefix length, 4 bytes
	tagV6       = '6' // prefix length, 16 bytes
	tagHash     = 'h' // instead of all parts: SHA-256 of them
	tagOverflow = 'o' // instead of all parts: of the keys that found no room
)

// The prefixes that addresses are counted by while the store is above four fifths.
const (
	wideV4 = 24
	wideV6 = 48
)

// Ask is one rule applied to one request, and its part in the decision. It belongs to one
// goroutine at a time; used again it keeps its buffer.
type Ask struct {
	rule     *Rule
	key      []byte
	bucket   *atomic.Int64
	now      int64
	was, at  int64 // the bucket before and after
	result   Result
	widens   bool // has an address that is longer than wide ones
	overflow bool // the bucket is the shared one
	holds    bool // a slot of concurrency
}

// Begin starts an ask over; the parts of its key follow, in the order of the rule.
func (a *Ask) Begin(r *Rule) {
	a.release() // nobody else could, any more
	*a = Ask{rule: r, key: append(a.key[:0], r.prefix[:]...)}
}

// Value adds a part that is there.
func (a *Ask) Value(v string) {
	a.key = append(a.key, tagValue)
	a.key = binary.AppendUvarint(a.key, uint64(len(v)))
	a.key = append(a.key, v...)
}

// Absent adds a part that is not there: all that leave it out share one bucket.
func (a *Ask) Absent() { a.key = append(a.key, tagAbsent) }

// IP adds an address, counted by its prefix of v4 or v6 bits. An IPv4-mapped address is IPv4.
func (a *Ask) IP(addr netip.Addr, v4, v6 int) {
	addr = addr.Unmap()
	tag, bits, most := byte(tagV4), v4, wideV4
	if addr.Is6() {
		tag, bits, most = tagV6, v6, wideV6
	}
	prefix, err := addr.Prefix(bits) // masks, and drops the zone
	if err != nil || !prefix.IsValid() {
		a.Absent()
		return
	}
	a.widens = a.widens || bits > most
	a.key = append(a.key, tag, byte(bits))
	if addr.Is4() {
		ip := prefix.Addr().As4()
		a.key = append(a.key, ip[:]...)
		return
	}
	ip := prefix.Addr().As16()
	a.key = append(a.key, ip[:]...)
}

// Rule is the rule that is applied.
func (a *Ask) Rule() *Rule { return a.rule }

// Result is what the rule said.
func (a *Ask) Result() Result { return a.result }

// wide is the key with its addresses widened.
func wide(key []byte) []byte {
	key = bytes.Clone(key)
	for rest := key[prefixSize:]; len(rest) > 0; {
		switch rest[0] {
		case tagAbsent:
			rest = rest[1:]
		case tagValue:
			length, n := binary.Uvarint(rest[1:])
			rest = rest[1+n+int(length):]
		case tagV4:
			widen(rest[1:6], wideV4)
			rest = rest[6:]
		case tagV6:
			widen(rest[1:18], wideV6)
			rest = rest[18:]
		}
	}
	return key
}

// widen cuts an address, which follows its length, to whole bytes.
func widen(part []byte, bits byte) {
	if part[0] > bits {
		part[0] = bits
		clear(part[1+bits/8:])
	}
}

// hashed is room for a key that was too long.
type hashed [prefixSize + 1 + sha256.Size]byte

// bounded is the key as the store keeps it.
func bounded(key []byte, short *hashed) []byte {
	if len(key) <= MaxKey {
		return key
	}
	sum := sha256.Sum256(key[prefixSize:])
	return append(append(append(short[:0], key[:prefixSize]...), tagHash), sum[:]...)
}
