package snapshot

import (
	"encoding/hex"
	"fmt"
)

// decodeHex fills dst from exactly as many hex digits.
func decodeHex(dst []byte, s string) error {
	if len(s) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%d hex digits, want %d", len(s), hex.EncodedLen(len(dst)))
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
