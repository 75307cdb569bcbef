package store

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"countersign.dev/internal/files"
	"golang.org/x/crypto/argon2"
)

const (
	sealKeyFile   = "seal.key"
	sealParamFile = "seal.json"
	sealKeyBytes  = 32
)

// What OpenSealKey refuses beside a *files.DirError.
var (
	ErrPassphraseNeeded = errors.New("opening the keys: they are sealed with a passphrase")
	ErrPassphraseWrong  = errors.New("opening the keys: the passphrase does not open them")
	ErrPassphraseUnused = errors.New("opening the keys: they are sealed with a key file, not with a passphrase")
)

// sealParams is seal.json: how a passphrase becomes the root sealing key, and a value by which
// a wrong passphrase is noticed. It holds nothing secret.
type sealParams struct {
	V      int    `json:"v"`
	KDF    string `json:"kdf"` // argon2id
	Passes uint32 `json:"passes"`
	KiB    uint32 `json:"kib"`
	Lanes  uint8  `json:"lanes"`
	Salt   []byte `json:"salt"`
	Check  []byte `json:"check"`
}

// The parameters of RFC 9106 4, second choice; a file that asks for less is refused as
// tampered with, one that asks for far more as damaged.
const (
	argonPasses, argonPassesMost = 3, 64
	argonKiB, argonKiBMost       = 64 << 10, 4 << 20
	argonLanes                   = 4
	argonSaltBytes               = 16
)

// OpenSealKey returns the root sealing key of a server's state directory (identity.md 19) and
// whether it was made now. Without a passphrase it is the 32-byte file seal.key; with one it is
// derived from it by Argon2id, and only parameters, salt and a check value are stored, in
// seal.json. A directory stays with the way it was made.
func OpenSealKey(dir *os.Root, passphrase []byte) (root []byte, made bool, err error) {
	params, err := readSealParams(dir)
	switch {
	case err != nil:
		return nil, false, err
	case params != nil && len(passphrase) == 0:
		return nil, false, ErrPassphraseNeeded
	case params != nil:
		root, err = params.open(passphrase)
		return root, false, err
	}
	root, err = files.ReadFile(dir, sealKeyFile, sealKeyBytes)
	switch {
	case err == nil && len(passphrase) > 0:
		return nil, false, ErrPassphraseUnused
	case err == nil && len(root) != sealKeyBytes:
		return nil, false, &files.DirError{Code: "data_damaged", Path: dir.Name(), Detail: fmt.Sprintf("%s has %d bytes, not %d", sealKeyFile, len(root), sealKeyBytes)}
	case err == nil:
		return root, false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	if len(passphrase) > 0 {
		root, err = makeSealParams(dir, passphrase)
		return root, err == nil, err
	}
	root = make([]byte, sealKeyBytes)
	_, _ = rand.Read(root)
	if err := files.CreateFile(dir, sealKeyFile, root); err != nil {
		return nil, false, err
	}
	return root, true, nil
}

func makeSealParams(dir *os.Root, passphrase []byte) (root []byte, err error) {
	p := sealParams{V: 1, KDF: "argon2id", Passes: argonPasses, KiB: argonKiB, Lanes: argonLanes, Salt: make([]byte, argonSaltBytes)}
	_, _ = rand.Read(p.Salt)
	root = p.derive(passphrase)
	if p.Check, err = sealCheck(root); err != nil {
		return nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", sealParamFile, err)
	}
	return root, files.CreateFile(dir, sealParamFile, append(text, '\n'))
}

// readSealParams returns nil when the directory has no seal.json.
func readSealParams(dir *os.Root) (*sealParams, error) {
	text, err := files.ReadFile(dir, sealParamFile, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := parseSealParams(text)
	if err != nil {
		return nil, &files.DirError{Code: "data_damaged", Path: dir.Name(), Detail: sealParamFile + ": " + err.Error()}
	}
	return p, nil
}

func parseSealParams(text []byte) (*sealParams, error) {
	p := new(sealParams)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, errors.New("it is not JSON")
	}
	switch {
	case p.V != 1 || p.KDF != "argon2id":
		return nil, fmt.Errorf("version %d with %q is not known", p.V, p.KDF)
	case p.Passes < argonPasses || p.KiB < argonKiB || p.Lanes != argonLanes || len(p.Salt) < argonSaltBytes:
		return nil, errors.New("its parameters are weaker than ours")
	case p.Passes > argonPassesMost || p.KiB > argonKiBMost || len(p.Salt) > 64 || len(p.Check) != sealKeyBytes:
		return nil, errors.New("its parameters are out of range")
	}
	return p, nil
}

func (p *sealParams) open(passphrase []byte) ([]byte, error) {
	root := p.derive(passphrase)
	check, err := sealCheck(root)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(check, p.Check) != 1 {
		return nil, ErrPassphraseWrong
	}
	return root, nil
}

func (p *sealParams) derive(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, p.Salt, p.Passes, p.KiB, p.Lanes, sealKeyBytes)
}

// sealCheck is a value that shows the root sealing key to be right and says nothing about it.
func sealCheck(root []byte) ([]byte, error) {
	check, err := hkdf.Key(sha256.New, root, nil, "countersign seal check 1", sealKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("deriving from the root sealing key: %w", err)
	}
	return check, nil
}
