package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
)

// crockford is base 32 without the letters that are taken for others.
var crockford = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

const (
	alphabet  = "0123456789abcdefghjkmnpqrstvwxyz"
	idLen     = 26 // characters of a whole decision id
	prefixLen = 6  // fewest characters that may stand for one
)

// DecisionID is what a refused client sees (audit.md 4.4): recorder, boot and number, encrypted
// as one AES-128 block under the mesh's key, so that it tells its holder nothing and resolves
// to exactly one record. Without a key of 16 bytes there is no id.
func DecisionID(key []byte, node string, boot [16]byte, seq uint64) string {
	s := newSealer(key, node, boot)
	if s == nil {
		return ""
	}
	return s.id(seq)
}

// sealer makes the ids of one boot under one key; it is immutable.
type sealer struct {
	key    [16]byte
	prefix [8]byte
	block  cipher.Block
}

func newSealer(key []byte, node string, boot [16]byte) *sealer {
	if len(key) != 16 {
		return nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil
	}
	s := &sealer{key: [16]byte(key), block: block}
	n, b := sha256.Sum256([]byte(node)), sha256.Sum256(boot[:])
	copy(s.prefix[:4], n[:4])
	copy(s.prefix[4:], b[:4])
	return s
}

func (s *sealer) id(seq uint64) string {
	var plain [16]byte
	copy(plain[:8], s.prefix[:])
	binary.BigEndian.PutUint64(plain[8:], seq)
	s.block.Encrypt(plain[:], plain[:])
	return crockford.EncodeToString(plain[:])
}

// normalID reads an id, or the beginning of one, as people type it: capitals, and the letters
// that were left out because they look like digits.
func normalID(s string) (id string, ok bool) {
	id = strings.NewReplacer("o", "0", "i", "1", "l", "1").Replace(strings.ToLower(s))
	return id, len(id) <= idLen && strings.Trim(id, alphabet) == ""
}
