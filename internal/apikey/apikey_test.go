package apikey

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/big"
	"strings"
	"testing"
)

// The test vector of tokens.md 14.1.
const (
	vectorID     = "7Kq2m9XbTa"
	vectorSecret = "003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf"
	vector       = "csk_live_7Kq2m9XbTa_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf10nbNI"
	vectorSHA256 = "b0bd65ed3119037a4dcbf6b8138eb2f09de18490e98a773a68f9353f0c0331cd"
)

func parsed(t testing.TB, text string) Key {
	t.Helper()
	k, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// minted is a new key; its text differs from run to run, so that no secret stands in a test.
func minted(t testing.TB, env Env) Key {
	t.Helper()
	k, err := Mint(rand.Reader, env)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// resealed gives a text the checksum that fits it.
func resealed(text string) string {
	sum := checksum([]byte(text))
	return text[:crcAt] + string(sum[:])
}

func TestVector(t *testing.T) {
	var secret [32]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	k := assemble(Live, make([]byte, 16), secret[:])
	k = parsed(t, resealed(vector[:idAt]+vectorID+k.Reveal()[idEnd:]))
	if k.Reveal() != vector || k.ID() != vectorID || k.Env() != Live {
		t.Errorf("got %s, want %s", k.Reveal(), vector)
	}
	if got := k.part(secretAt, secretEnd); got != vectorSecret {
		t.Errorf("secret %s, want %s", got, vectorSecret)
	}
	if got := crc32.ChecksumIEEE([]byte(vector[:crcAt])); got != 0x374f7690 {
		t.Errorf("checksum %x", got)
	}
	if got := k.Secret(nil); got != (Secret{ID: vectorID, SHA256: vectorSHA256}) {
		t.Errorf("got %+v", got)
	}
	if Len != 69 {
		t.Errorf("a key has %d characters", Len)
	}
}

func TestBase62(t *testing.T) {
	for _, n := range []int{0, 1, 61, 62, 63} {
		var dst [3]byte
		Base62(dst[:], []byte{byte(n)})
		if want := fmt.Sprintf("0%c%c", alphabet[n/62], alphabet[n%62]); string(dst[:]) != want {
			t.Errorf("%d is %s, want %s", n, dst, want)
		}
	}
	for range 200 { // big.Int has other digits: 0-9a-zA-Z
		var number [32]byte
		var dst [secretLen]byte
		rand.Read(number[:])
		Base62(dst[:], number[:])
		want := strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			case r >= 'A' && r <= 'Z':
				return r - 'A' + 'a'
			}
			return r
		}, fmt.Sprintf("%0*s", secretLen, new(big.Int).SetBytes(number[:]).Text(62)))
		if string(dst[:]) != want {
			t.Fatalf("%x is %s, want %s", number, dst, want)
		}
	}
}

func TestMint(t *testing.T) {
	seen := make(map[string]bool)
	for range 200 {
		k := minted(t, Test)
		again := parsed(t, k.Reveal())
		if again.Env() != Test || again.ID() != k.ID() || seen[k.ID()] || seen[k.part(secretAt, secretEnd)] {
			t.Fatalf("minted %s", k)
		}
		seen[k.ID()], seen[k.part(secretAt, secretEnd)] = true, true
	}
	if _, err := Mint(rand.Reader, "prod"); err == nil {
		t.Error("minted a key of another environment")
	}
	if _, err := Mint(bytes.NewReader(make([]byte, 47)), Live); err == nil {
		t.Error("minted a key of 47 random bytes")
	}
	if all, err := Mint(bytes.NewReader(bytes.Repeat([]byte{0xff}, 48)), Live); err != nil || !shaped([]byte(all.Reveal())) {
		t.Errorf("the largest numbers: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]string{
		"empty":                   "",
		"one character less":      vector[:Len-1],
		"one character more":      vector + "0",
		"blank before":            " " + vector[:Len-1],
		"line feed behind":        vector + "\n",
		"prefix in capitals":      "CSK" + vector[3:],
		"client secret":           "css" + vector[3:],
		"environment of no kind":  "csk_prod" + vector[8:],
		"environment in capitals": "csk_LIVE" + vector[8:],
		"no underscore after env": vector[:8] + "0" + vector[9:],
		"no underscore after id":  vector[:idEnd] + "0" + vector[idEnd+1:],
		"underscore in the id":    vector[:idAt] + "_" + vector[idAt+1:],
		"minus in the secret":     vector[:secretAt] + "-" + vector[secretAt+1:],
		"NUL in the secret":       vector[:secretAt] + "\x00" + vector[secretAt+1:],
		"not ASCII":               vector[:secretAt] + "é" + vector[secretAt+2:],
	}
	for name, text := range tests {
		bad := []string{text}
		if len(text) == Len {
			bad = append(bad, resealed(text)) // so that it is not the checksum that refuses it
		}
		for _, text := range bad {
			if k, err := Parse([]byte(text)); !errors.Is(err, ErrFormat) || k != (Key{}) {
				t.Errorf("%s: taken", name)
			}
		}
	}
	if _, err := Parse([]byte(resealed(vector))); err != nil {
		t.Error("resealed is not the checksum")
	}
}

// Every character counts in the checksum, and two that change places.
func TestChecksumFindsSlips(t *testing.T) {
	for i := range Len {
		for _, c := range []byte(alphabet) {
			text := []byte(vector)
			if text[i] = c; c == vector[i] {
				continue
			}
			if _, err := Parse(text); err == nil {
				t.Errorf("character %d as %c is taken", i, c)
			}
		}
	}
	for i := idAt; i < Len-1; i++ {
		text := []byte(vector)
		text[i], text[i+1] = text[i+1], text[i]
		if _, err := Parse(text); err == nil && text[i] != text[i+1] {
			t.Errorf("characters %d and %d in the other order are taken", i, i+1)
		}
	}
}

// Nothing prints a key's secret but Reveal: no verb, no logger, no encoder, be the key alone, in
// a struct that has methods or not, or behind a pointer.
func TestSecKeyIsNotPrinted(t *testing.T) {
	k := minted(t, Live)
	secret := k.part(secretAt, secretEnd)
	type exported struct{ Key Key }
	type hidden struct{ key Key }
	var out strings.Builder
	for _, v := range []any{k, &k, exported{k}, &exported{k}, hidden{k}, &hidden{k}, []Key{k}, map[string]Key{"k": k}, fmt.Errorf("with %v", k)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%o", "%b"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("key", "key", v)
		}
		if text, err := json.Marshal(v); err == nil {
			out.Write(text)
		}
	}
	decimal := strings.Trim(fmt.Sprint([]byte(secret)), "[]")
	for _, bad := range []string{secret, hex.EncodeToString([]byte(secret)), decimal, strings.ToUpper(hex.EncodeToString([]byte(secret)))} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the secret is printed:\n%s", out.String())
		}
	}
	if want := "csk_live_" + k.ID() + "…"; k.String() != want || !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %s", k, want)
	}
}

func TestZeroKey(t *testing.T) {
	var k Key
	if k.ID() != "" || k.Env() != "" || k.Reveal() != "" || k.Secret(nil) != (Secret{}) || k.String() != "no API key" {
		t.Errorf("got %s", k)
	}
}

func TestPepperIsHMAC(t *testing.T) {
	key := bytes.Repeat([]byte{7}, PepperLen)
	p, err := NewPepper(key)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		k := minted(t, Live)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(k.part(secretAt, secretEnd)))
		if got := k.Secret(p).SHA256; got != hex.EncodeToString(mac.Sum(nil)) {
			t.Fatalf("got %s", got)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %x", p, p, p, struct{ P *Pepper }{p}); strings.Contains(got, "54") {
		t.Errorf("printed as %s", got) // 7 ^ 0x36 is 49, 7 ^ 0x5c is 91
	}
	for _, n := range []int{0, PepperLen - 1, PepperLen + 1} {
		if _, err := NewPepper(make([]byte, n)); err == nil {
			t.Errorf("a pepper of %d bytes is taken", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{vector, vector[:Len-1], vector + "0", resealed("csk_test" + vector[8:]), "csk_live__", strings.Repeat("csk_", 20)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := Parse(text)
		if err != nil {
			if k != (Key{}) || err != ErrFormat {
				t.Fatal("a refused key is no key, for one reason")
			}
			return
		}
		if k.Reveal() != string(text) || !pattern.Match(text) || strings.Contains(k.String(), k.part(secretAt, secretEnd)) {
			t.Fatalf("%q is taken", text)
		}
		again, err := Parse([]byte(resealed(k.Reveal())))
		if err != nil || again.Reveal() != k.Reveal() {
			t.Fatal("the checksum is not the one there is")
		}
	})
}
