package apikey

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

// many are keys with a secret each, as a large mesh has them.
func manyKeys(tb testing.TB, n int) []Record {
	out := make([]Record, n)
	for i := range out {
		k := minted(tb, Live)
		out[i] = acme()
		out[i].Name, out[i].Secrets, out[i].Since = fmt.Sprintf("partner-%d", i), []Secret{k.Secret(nil)}, int64(i)
	}
	return out
}

func encoded(tb testing.TB, records []Record) Blocks {
	by, out := map[string][]Record{}, Blocks{}
	for _, r := range records {
		by[r.Block()] = append(by[r.Block()], r)
	}
	for name, list := range by {
		b, err := EncodeBlock(list)
		if err != nil {
			tb.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func TestBlocks(t *testing.T) {
	records := manyKeys(t, 600)
	records[0].Secrets[0].Until, records[0].CIDRs = now, nil
	b := encoded(t, records)
	read, err := b.Read(nil, nil)
	back := slices.Concat(slices.Collect(maps.Values(read))...)
	if err != nil || len(back) != len(records) || len(b) > blocks {
		t.Fatalf("%d records in %d blocks, %v", len(back), len(b), err)
	}
	by := map[string]Record{}
	for _, r := range back {
		by[r.Name] = r
	}
	for _, r := range records {
		if !reflect.DeepEqual(by[r.Name], r) {
			t.Fatalf("got %+v, want %+v", by[r.Name], r)
		}
	}
	again := encoded(t, back)
	if !b.Equal(again) {
		t.Error("the same records are other bytes")
	}
	records[5].Disabled = true
	changed := encoded(t, records)
	differ := 0
	for name := range changed {
		if !bytes.Equal(changed[name], b[name]) {
			differ++
		}
	}
	if differ != 1 || b.Equal(changed) || b.Equal(nil) {
		t.Errorf("one key changed %d blocks", differ)
	}
	if _, err := (Blocks{"00": []byte("x")}).Read(nil, nil); err == nil {
		t.Error("a broken block is read")
	}
	fresh, err := changed.Read(b, read)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for name := range fresh {
		if &fresh[name][0] == &read[name][0] {
			kept++
		}
	}
	if kept != len(b)-1 || !slices.ContainsFunc(fresh[records[5].Block()], func(r Record) bool { return r.Name == records[5].Name && r.Disabled }) {
		t.Errorf("%d of %d blocks were not read anew", kept, len(b))
	}
}

func TestStill(t *testing.T) {
	k := minted(t, Live)
	r := acme()
	r.Secrets = []Secret{k.Secret(nil), {ID: "0000000000", SHA256: vectorSHA256, Until: now}}
	s, faults := Build([]Record{r}, "example.com", nil)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for id, want := range map[string][2]bool{k.ID(): {true, true}, "0000000000": {true, false}, "1111111111": {}, "": {}, "short": {}} {
		if got := [2]bool{s.Holder(id) != nil, s.Still(id, now.Add(time.Second)) != nil}; got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
	if s.Still(k.ID(), r.Expires) != nil || (*Set)(nil).Still(k.ID(), now) != nil || (*Set)(nil).Holder(k.ID()) != nil {
		t.Error("a key that ended still counts")
	}
	if !Is(k.Reveal()) || Is(k.Reveal()[:Len-1]) || Is(resealed(vector)[:Len-1]+"_") || Is("") {
		t.Error("Is")
	}
	if string(Seal([]byte(vector))) != vector {
		t.Error("Seal")
	}
}

// What a server and a Gateway do with 100,000 keys: encode and decode all, make the Set, find that nothing changed.
func BenchmarkHundredThousand(b *testing.B) {
	records := manyKeys(b, 100_000)
	all := encoded(b, records)
	size := 0
	for _, x := range all {
		size += len(x)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			encoded(b, records)
		}
		b.ReportMetric(float64(size)/(1<<20), "MiB")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := all.Read(nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Build(records, "example.com", nil)
		}
	})
	b.Run("equal", func(b *testing.B) {
		for b.Loop() {
			if !all.Equal(all) {
				b.Fatal("not equal to itself")
			}
		}
	})
}
