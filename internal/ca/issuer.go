package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/files"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// issuer is the issuing authority of this server. It never changes; a renewal makes another.
type issuer struct {
	signer
	made bool
}

// renewAt is half-way between issue and end.
func (i *issuer) renewAt() time.Time {
	issued := i.cert.NotBefore.Add(authorityBackdate)
	return issued.Add(i.cert.NotAfter.Sub(issued) / 2)
}

// issuerValue is the value of ca/issuer/<server>/<ski>: never the key.
type issuerValue struct {
	V     int      `json:"v"`
	State string   `json:"state"`
	Chain [][]byte `json:"chain"` // DER: the issuing authority
}

// issuerFile is issuer-<ski>.json in the state directory of the server.
type issuerFile struct {
	V           int    `json:"v"`
	Server      string `json:"server"`
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"` // PKCS #8, sealed for the path in the store
}

const (
	issuerFilePrefix = "issuer-"
	maxIssuerFile    = 64 << 10
)

func (a *Authority) issuerPath(ski []byte) string {
	return issuerPrefix + a.opt.ServerName + "/" + hex.EncodeToString(ski)
}

func issuerFileName(ski []byte) string { return issuerFilePrefix + hex.EncodeToString(ski) + ".json" }

// issuerFiles are the names of the issuing keys in the state directory.
func (a *Authority) issuerFiles() ([]string, error) {
	entries, err := fs.ReadDir(a.opt.Dir.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", a.opt.Dir.Name(), err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), issuerFilePrefix) && strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// openIssuer loads the issuing authority of this server, or makes the first one, or the next
// if the last has ended while the server was away.
func (a *Authority) openIssuer(ctx context.Context) error {
	now := time.Now()
	loaded, active, err := a.loadIssuer(ctx, now)
	if err != nil {
		return err
	}
	if loaded == nil {
		if loaded, err = a.makeIssuer(ctx, active, now); err != nil {
			return err
		}
	}
	a.issuer.Store(loaded)
	return a.dropOthers(loaded.cert.SubjectKeyId)
}

// loadIssuer finds the issuing authority that signs: the one the store calls active, or one
// whose key was written here just before a crash. It returns nil if there is none, or it has
// ended. active are the entries of the store that call themselves active.
func (a *Authority) loadIssuer(ctx context.Context, now time.Time) (found *issuer, active []store.KV, err error) {
	kvs, _, err := a.opt.Store.List(ctx, issuerPrefix+a.opt.ServerName+"/")
	if err != nil {
		return nil, nil, fmt.Errorf("listing the issuing authorities: %w", err)
	}
	files, err := a.issuerFiles()
	if err != nil {
		return nil, nil, err
	}
	here := make(map[string]*issuer)
	for _, name := range files {
		iss, err := a.readIssuer(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s in %s: %w", name, a.opt.Dir.Name(), err)
		}
		here[a.issuerPath(iss.cert.SubjectKeyId)] = iss
	}
	for _, kv := range kvs {
		value, cert, err := parseIssuerValue(kv)
		if err != nil {
			return nil, nil, err
		}
		if value.State != StateActive {
			delete(here, kv.Key) // retired: its key awaits destruction
			continue
		}
		active = append(active, kv)
		if !now.Before(cert.NotAfter) {
			delete(here, kv.Key)
			continue
		}
		if here[kv.Key] == nil {
			return nil, nil, fmt.Errorf("%w: the key of issuing authority %s, which ends %s, is not in %s: is this the directory of server %q?",
				ErrKey, shortID(cert.SubjectKeyId), cert.NotAfter.Format(time.RFC3339), a.opt.Dir.Name(), a.opt.ServerName)
		}
		found = here[kv.Key]
	}
	if found != nil {
		return found, active, nil
	}
	for path, iss := range here { // signed and kept, but not stored: finish what the crash cut short
		if now.Before(iss.cert.NotAfter) && (found == nil || path < a.issuerPath(found.cert.SubjectKeyId)) {
			found = iss
		}
	}
	if found != nil {
		err = a.activate(ctx, found, active)
	}
	return found, active, err
}

func parseIssuerValue(kv store.KV) (value issuerValue, cert *x509.Certificate, err error) {
	if err = json.Unmarshal(kv.Value, &value); err == nil && len(value.Chain) == 0 {
		err = errors.New("empty chain")
	}
	if err == nil {
		cert, err = x509.ParseCertificate(value.Chain[0])
	}
	if err != nil {
		return value, nil, fmt.Errorf("%w: %s: %v", ErrKey, kv.Key, err)
	}
	return value, cert, nil
}

// readIssuer reads an issuing authority with its key from the state directory.
func (a *Authority) readIssuer(name string) (*issuer, error) {
	text, err := files.ReadFile(a.opt.Dir, name, maxIssuerFile)
	if err != nil {
		return nil, err
	}
	var file issuerFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	if file.Server != a.opt.ServerName {
		return nil, fmt.Errorf("%w: it is the key of server %q, this is server %q", ErrKey, file.Server, a.opt.ServerName)
	}
	cert, err := x509.ParseCertificate(file.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	if name != issuerFileName(cert.SubjectKeyId) {
		return nil, fmt.Errorf("%w: it holds the certificate of another key", ErrKey)
	}
	if err := a.checkAuthority(cert, a.root.cert); err != nil {
		return nil, err
	}
	key, err := a.unsealKey(a.issuerPath(cert.SubjectKeyId), file.Key, cert)
	if err != nil {
		return nil, err
	}
	return &issuer{signer: *a.newSigner(cert, key)}, nil
}

// makeIssuer makes an issuing authority, has the root sign it, keeps its key here and stores
// its certificate in place of those that were active.
func (a *Authority) makeIssuer(ctx context.Context, active []store.KV, now time.Time) (*issuer, error) {
	if left := a.root.cert.NotAfter.Sub(now); left <= 0 {
		return nil, fmt.Errorf("%w: the root ended %s", ErrTooShort, a.root.cert.NotAfter.Format(time.RFC3339))
	} else if left < 30*day {
		a.opt.Log.Warn("the root ends soon", "key", shortID(a.root.cert.SubjectKeyId), "not_after", a.root.cert.NotAfter)
	}
	rootKey, err := a.openRootKey()
	if err != nil {
		return nil, fmt.Errorf("opening the root: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("making the key: %w", err)
	}
	request := Request{Profile: Issuer, ID: a.opt.TrustDomain.ID(), Node: a.opt.ServerName}
	der, err := a.signAuthority(ctx, a.newSigner(a.root.cert, rootKey), request, &key.PublicKey, now)
	if err != nil {
		return nil, fmt.Errorf("signing with the root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	sealed, err := keyring.SealKey(a.opt.Sealer, a.issuerPath(cert.SubjectKeyId), key)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(issuerFile{V: schema, Server: a.opt.ServerName, Certificate: der, Key: sealed})
	if err != nil {
		return nil, err
	}
	if err := files.WriteFile(a.opt.Dir, issuerFileName(cert.SubjectKeyId), text); err != nil {
		return nil, err
	}
	iss := &issuer{signer: *a.newSigner(cert, key), made: true}
	if err := a.activate(ctx, iss, active); err != nil {
		return nil, err
	}
	a.opt.Log.Info("issuing authority made", "key", shortID(cert.SubjectKeyId), "not_after", cert.NotAfter)
	return iss, nil
}

// activate stores iss as the active one and retires those before it, which must be unchanged.
func (a *Authority) activate(ctx context.Context, iss *issuer, before []store.KV) error {
	path := a.issuerPath(iss.cert.SubjectKeyId)
	value, err := json.Marshal(issuerValue{V: schema, State: StateActive, Chain: [][]byte{iss.cert.Raw}})
	if err != nil {
		return err
	}
	txn := store.Txn{If: []store.Cmp{store.Absent(path)}, Then: []store.Op{store.Put(path, value)}}
	for _, kv := range before {
		old, _, err := parseIssuerValue(kv)
		if err != nil {
			return err
		}
		old.State = StateRetired
		text, err := json.Marshal(old)
		if err != nil {
			return err
		}
		txn.If = append(txn.If, store.ModIs(kv.Key, kv.Mod))
		txn.Then = append(txn.Then, store.Put(kv.Key, text))
	}
	if _, err := a.opt.Store.Commit(ctx, txn); err != nil {
		return fmt.Errorf("storing issuing authority %s: %w", shortID(iss.cert.SubjectKeyId), err)
	}
	return nil
}

// dropOthers destroys the keys that the active one succeeded.
func (a *Authority) dropOthers(ski []byte) error {
	files, err := a.issuerFiles()
	if err != nil {
		return err
	}
	for _, name := range files {
		if name == issuerFileName(ski) {
			continue
		}
		if err := a.opt.Dir.Remove(name); err != nil {
			return fmt.Errorf("destroying the key of a retired issuing authority: %w", err)
		}
	}
	return nil
}

// forgetEnded deletes the entries of issuing authorities of this server that have ended: they
// vouch for nothing any more.
func (a *Authority) forgetEnded(ctx context.Context, now time.Time) error {
	kvs, _, err := a.opt.Store.List(ctx, issuerPrefix+a.opt.ServerName+"/")
	if err != nil {
		return fmt.Errorf("listing the issuing authorities: %w", err)
	}
	kvs = slices.DeleteFunc(kvs, func(kv store.KV) bool {
		value, cert, err := parseIssuerValue(kv)
		return err != nil || value.State != StateRetired || now.Before(cert.NotAfter)
	})
	for _, kv := range kvs {
		_, err := a.opt.Store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(kv.Key, kv.Mod)}, Then: []store.Op{store.Delete(kv.Key)}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("forgetting %s: %w", kv.Key, err)
		}
	}
	return nil
}

// renew makes the next issuing authority. One that an earlier try stored without learning so is
// taken instead.
func (a *Authority) renew(ctx context.Context) error {
	a.renewing.Lock()
	defer a.renewing.Unlock()
	now := time.Now()
	current := a.issuer.Load()
	next, active, err := a.loadIssuer(ctx, now)
	if err != nil {
		return err
	}
	if next == nil || bytes.Equal(next.cert.SubjectKeyId, current.cert.SubjectKeyId) {
		if next, err = a.makeIssuer(ctx, active, now); err != nil {
			return err
		}
	}
	a.issuer.Store(next) // the old key signs nothing from here on
	if err := a.dropOthers(next.cert.SubjectKeyId); err != nil {
		return err
	}
	return a.forgetEnded(ctx, now)
}
