package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"
)

// dumpFormat is the version of the dump's lines.
const dumpFormat = 1

// dumpHead is the first line of a dump.
type dumpHead struct {
	Format  int       `json:"format"`
	Cluster string    `json:"cluster"`
	Rev     int64     `json:"rev"`
	Time    time.Time `json:"time"`
}

// dumpLine is a key of a dump, one a line, in key order.
type dumpLine struct {
	Key    string `json:"key"`
	Value  []byte `json:"value"`
	Create int64  `json:"create"`
	Mod    int64  `json:"mod"`
}

// writeDump writes a header line, a line for each key, and a last line with the SHA-256 of all
// before it (registry.md 7). Leases are not in it: a key bound to one is not dumped, because
// its owner is gone by the time anybody reads this.
func writeDump(w io.Writer, cluster string, rev int64, kvs iter.Seq2[KV, error]) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(w, 64<<10)
	lines := json.NewEncoder(io.MultiWriter(out, sum))
	if err := lines.Encode(dumpHead{Format: dumpFormat, Cluster: cluster, Rev: rev, Time: time.Now().UTC()}); err != nil {
		return fmt.Errorf("writing a dump: %w", err)
	}
	for kv, err := range kvs {
		if err != nil {
			return fmt.Errorf("writing a dump: %w", err)
		}
		if kv.Lease != 0 {
			continue
		}
		if err := lines.Encode(dumpLine{Key: kv.Key, Value: kv.Value, Create: kv.Create, Mod: kv.Mod}); err != nil {
			return fmt.Errorf("writing a dump: %w", err)
		}
	}
	if _, err := fmt.Fprintf(out, "{\"sha256\":%q}\n", hex.EncodeToString(sum.Sum(nil))); err != nil {
		return fmt.Errorf("writing a dump: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing a dump: %w", err)
	}
	return nil
}
