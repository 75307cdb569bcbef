package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/resource"
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

// The key of the token ports is a secret like any other.
func TestTokenKeyOthersCanRead(t *testing.T) {
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o644: true, 0o640: true} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		o, err := (&env{err: &said}).tokenOptions(resource.TokenConfig{Cert: cert, Key: key})
		if err != nil || o.Cert == nil {
			t.Errorf("%04o: %v", mode, err)
		}
		if got := said.String(); strings.Contains(got, "warning: others can read the key in "+key) != warned || strings.Contains(got, "chmod 600 "+key) != warned {
			t.Errorf("%04o: said %q", mode, got)
		}
	}
}
