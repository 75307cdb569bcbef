// Package apikey makes, checks, rotates and finds API keys (tokens.md 14).
//
// Its words: a Key is the text that a caller shows, with its secret; its ID is public and names
// one secret; a Record is one object APIKey, which holds hashes of at most two secrets; a Set is
// every record of the trust domain at one revision, ready to be asked; to prove a key is to show
// that its secret is right, whatever the record allows.
//
// Its promise: no secret is kept, printed, logged or put in an error; a Key shows its ID alone
// unless Reveal is called; who presents a key that is not taken learns nothing of why; a check
// costs no lookup beyond memory, no allocation, and the same work for an ID that is unknown as
// for a secret that is wrong.
package apikey

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
)

// Env is what a key is for.
type Env string

// The environments.
const (
	Live Env = "live"
	Test Env = "test"
)

func (e Env) valid() bool { return e == Live || e == Test }

// The places of a key's parts: csk_<env>_<id>_<secret><crc>.
const (
	Prefix = "csk_"
	Len    = crcEnd

	envAt, envEnd       = len(Prefix), len(Prefix) + 4
	idAt, idEnd         = envEnd + 1, envEnd + 1 + idLen
	secretAt, secretEnd = idEnd + 1, idEnd + 1 + secretLen
	crcAt, crcEnd       = secretEnd, secretEnd + crcLen

	idLen     = 10
	secretLen = 43 // the first number of digits that holds 256 bits
	crcLen    = 6
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Key is an API key that is well formed. The zero Key is none.
type Key struct {
	text *string // fmt looks through pointers to arrays, but not to strings
}

// ErrFormat is what Parse answers to everything that is no key: which rule it breaks is nothing
// that who presents it needs to know.
var ErrFormat = errors.New("not an API key")

// Parse reads a key strictly: length, prefix, characters, checksum.
func Parse(text []byte) (Key, error) {
	if !shaped(text) || !intact(text) {
		return Key{}, ErrFormat
	}
	return Key{new(string(text))}, nil
}

// Is reports whether a text is a key. It does not allocate.
func Is(text string) bool {
	if len(text) != Len {
		return false
	}
	var p [Len]byte
	copy(p[:], text)
	return shaped(p[:]) && intact(p[:])
}

// Mint makes a key from 48 bytes of random, which is crypto/rand.Reader but in tests.
func Mint(random io.Reader, env Env) (Key, error) {
	var id [16]byte // 2^128 over 62^10: no digit is likelier by more than 2^-68
	var secret [32]byte
	if !env.valid() {
		return Key{}, fmt.Errorf("minting an API key: env is %s or %s", Live, Test)
	}
	for _, part := range [][]byte{id[:], secret[:]} {
		if _, err := io.ReadFull(random, part); err != nil {
			return Key{}, fmt.Errorf("minting an API key: reading random bytes: %w", err)
		}
	}
	return assemble(env, id[:], secret[:]), nil
}

func assemble(env Env, id, secret []byte) Key {
	var text [Len]byte
	copy(text[:], Prefix+string(env)+"_")
	Base62(text[idAt:idEnd], id)
	text[idEnd] = '_'
	Base62(text[secretAt:secretEnd], secret)
	sum := checksum(text[:])
	copy(text[crcAt:], sum[:])
	return Key{new(string(text[:]))}
}

// Base62 writes a big-endian number, modulo what dst can hold, padded with 0.
func Base62(dst, number []byte) {
	rest := append(make([]byte, 0, 32), number...)
	for i := len(dst) - 1; i >= 0; i-- {
		carry := 0
		for j := range rest {
			carry = carry<<8 | int(rest[j])
			rest[j] = byte(carry / len(alphabet))
			carry %= len(alphabet)
		}
		dst[i] = alphabet[carry]
	}
}

// shaped reports length, prefix and characters.
func shaped(p []byte) bool {
	if len(p) != Len {
		return false
	}
	for i, c := range p {
		if !fits(i, c) {
			return false
		}
	}
	return Env(p[envAt:envEnd]).valid()
}

// fits reports whether a key may have that character there.
func fits(at int, c byte) bool {
	switch {
	case at < len(Prefix):
		return c == Prefix[at]
	case at == envEnd || at == idEnd:
		return c == '_'
	}
	return digit(c)
}

func digit(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' }

// intact reports whether the checksum of a shaped key is right.
func intact(p []byte) bool { return checksum(p) == [crcLen]byte(p[crcAt:]) }

// checksum is crc32.ChecksumIEEE by its table: what that function is given escapes to the heap.
func checksum(p []byte) (out [crcLen]byte) {
	sum := ^uint32(0)
	for _, c := range p[:crcAt] {
		sum = crc32.IEEETable[byte(sum)^c] ^ sum>>8
	}
	sum = ^sum
	for i := crcLen - 1; i >= 0; i-- {
		out[i] = alphabet[sum%uint32(len(alphabet))]
		sum /= uint32(len(alphabet))
	}
	return out
}

// ID is the public name of the key's secret.
func (k Key) ID() string { return k.part(idAt, idEnd) }

// Env is the environment that the key says.
func (k Key) Env() Env { return Env(k.part(envAt, envEnd)) }

// Reveal is the whole key, with its secret: to be shown to its owner, once.
func (k Key) Reveal() string { return k.part(0, Len) }

func (k Key) part(from, to int) string {
	if k.text == nil {
		return ""
	}
	return (*k.text)[from:to]
}

// Secret is what a record keeps of the key. With a pepper the hash counts only beside it.
func (k Key) Secret(pepper *Pepper) Secret {
	if k.text == nil {
		return Secret{}
	}
	sum := pepper.hash([]byte(k.part(secretAt, secretEnd)))
	return Secret{ID: k.ID(), SHA256: fmt.Sprintf("%x", sum)}
}

// String is what may be printed and logged: csk_live_7Kq2m9XbTa….
func (k Key) String() string {
	if k.text == nil {
		return "no API key"
	}
	return k.part(0, idEnd) + "…"
}

// Format keeps every verb from the secret.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is String: a key is stored as its hash.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Seal gives what has the form of a key the checksum that fits it.
func Seal(text []byte) []byte {
	sum := checksum(text)
	return append(text[:crcAt:crcAt], sum[:]...)
}
