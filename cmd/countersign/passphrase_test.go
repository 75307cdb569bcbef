package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A passphrase that others can read is taken, for some systems hand secrets over so, but never
// in silence; what it says is not shown.
func TestPassphraseOthersCanRead(t *testing.T) {
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o644: true, 0o640: true} {
		file := filepath.Join(t.TempDir(), "words")
		if err := os.WriteFile(file, []byte("correct horse\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		got, err := (&env{err: &said}).passphrase(file)
		if err != nil || string(got) != "correct horse" {
			t.Errorf("%04o: %q, %v", mode, got, err)
		}
		if strings.Contains(said.String(), "chmod 600 "+file) != warned || strings.Contains(said.String(), "horse") {
			t.Errorf("%04o: said %q", mode, said.String())
		}
	}
}
