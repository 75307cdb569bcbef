package apikey

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
)

// Blocks are records on their way to Gateways: a few hundred pieces, however many keys there are, and a key always in
// the same one, so that a change of one key is a change of one piece.
type Blocks map[string][]byte

// blocks is how many pieces there are at most.
const blocks = 256

// Block is the piece that a record stands in.
func (r *Record) Block() string {
	return fmt.Sprintf("%02x", crc32.ChecksumIEEE([]byte(r.Principal()))%blocks)
}

// EncodeBlock writes the records of one piece, in one order: equal records are equal bytes.
func EncodeBlock(records []Record) ([]byte, error) {
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	b, err := json.Marshal(records)
	if err != nil {
		return nil, fmt.Errorf("encoding API keys: %w", err)
	}
	return b, nil
}

// Equal reports whether two sets of blocks are the same.
func (b Blocks) Equal(o Blocks) bool {
	return maps.EqualFunc(b, o, func(x, y []byte) bool { return string(x) == string(y) })
}

// Read gives the records of each block. Of blocks that are as they were before, what was read then is taken again.
func (b Blocks) Read(before Blocks, known map[string][]Record) (map[string][]Record, error) {
	out := make(map[string][]Record, len(b))
	for name, text := range b {
		if records, ok := known[name]; ok && string(before[name]) == string(text) {
			out[name] = records
			continue
		}
		var records []Record
		if err := json.Unmarshal(text, &records); err != nil {
			return nil, fmt.Errorf("reading block %q of the API keys: %w", name, err)
		}
		out[name] = records
	}
	return out, nil
}
