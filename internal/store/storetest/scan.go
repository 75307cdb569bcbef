package storetest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Found is a marker that lies in a file.
type Found struct {
	Marker []byte
	File   string // below the directory that was scanned
	Form   string // plain, hex, base64
}

// Scan searches every file below dir for the markers: as they are, in hexadecimal and in
// base64 (a value inside JSON). A test seals a marker, writes another one unsealed as the
// control, and wants to find the control alone: without it, the scan could be blind. Markers
// should have 16 random bytes or more.
func Scan(t testing.TB, dir string, markers ...[]byte) (found []Found) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		for _, marker := range markers {
			for _, f := range forms(marker) {
				if bytes.Contains(data, f.bytes) {
					found = append(found, Found{Marker: marker, File: name, Form: f.name})
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("scanning %s: %v", dir, err)
	}
	return found
}

type form struct {
	name  string
	bytes []byte
}

// forms are the ways a marker may be written. Base64 depends on where in the text the marker
// begins: three texts, each without the characters that its neighbours decide.
func forms(marker []byte) []form {
	out := []form{
		{"plain", marker},
		{"hex", []byte(hex.EncodeToString(marker))},
		{"hex", bytes.ToUpper([]byte(hex.EncodeToString(marker)))},
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift, skip := range []int{0, 2, 3} {
			text := enc.EncodeToString(append(make([]byte, shift), marker...))
			out = append(out, form{"base64", []byte(text[skip : len(text)-1])})
		}
	}
	return out
}
