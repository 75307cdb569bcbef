package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// Where authorities lie in the store.
const (
	rootPrefix   = "ca/root/"
	issuerPrefix = "ca/issuer/"
	bundleKey    = "ca/bundle"
)

const schema = 1 // "v" of all our values

// root is the root certificate; its key stays sealed.
type root struct {
	cert   *x509.Certificate
	path   string // in the store
	sealed []byte
}

// rootValue is the value of ca/root/<ski>.
type rootValue struct {
	V           int       `json:"v"`
	State       string    `json:"state"`
	Certificate []byte    `json:"certificate"` // DER
	Key         []byte    `json:"key"`         // PKCS #8, sealed for this path
	Created     time.Time `json:"created"`
	Activated   time.Time `json:"activated"`
}

// bundleValue is the value of ca/bundle. The sequence only grows.
type bundleValue struct {
	V        int             `json:"v"`
	Sequence uint64          `json:"sequence"`
	Changed  time.Time       `json:"changed"`
	Bundle   json.RawMessage `json:"bundle"` // SPIFFE bundle
}

// openRoot loads the root and the bundle, or makes both in an empty store.
func (a *Authority) openRoot(ctx context.Context) error {
	found, err := a.loadRoot(ctx)
	if err != nil || found {
		return err
	}
	files, err := a.issuerFiles()
	if err != nil {
		return err
	}
	if len(files) > 0 {
		return fmt.Errorf("%w: %s holds %s, but the store has no root: they do not belong together", ErrKey, a.opt.Dir.Name(), files[0])
	}
	made, err := a.makeRoot(ctx)
	if errors.Is(err, store.ErrConflict) { // another server was first: its root is ours
		made, err = false, nil
	}
	if err != nil {
		return err
	}
	a.madeRoot = made
	if found, err = a.loadRoot(ctx); err == nil && !found {
		err = errors.New("the root that was just stored is gone")
	}
	return err
}

// loadRoot reads the root and the bundle; false if the store has neither.
func (a *Authority) loadRoot(ctx context.Context) (bool, error) {
	kvs, _, err := a.opt.Store.List(ctx, rootPrefix)
	if err != nil {
		return false, fmt.Errorf("listing the roots: %w", err)
	}
	kv, err := a.opt.Store.Get(ctx, bundleKey)
	switch {
	case errors.Is(err, store.ErrNotFound) && len(kvs) == 0:
		return false, nil
	case errors.Is(err, store.ErrNotFound):
		return false, fmt.Errorf("%w: the store has a root but no %s", ErrKey, bundleKey)
	case err != nil:
		return false, fmt.Errorf("reading %s: %w", bundleKey, err)
	}
	for _, rootKV := range kvs {
		r, value, err := a.parseRoot(rootKV)
		if err != nil {
			return false, fmt.Errorf("%s: %w", rootKV.Key, err)
		}
		if value.State == StateActive {
			a.root = r
		}
	}
	if a.root == nil {
		return false, fmt.Errorf("%w: the store has a bundle but no active root", ErrKey)
	}
	if _, err := a.openRootKey(); err != nil { // found now rather than when the issuing authority ends
		return false, err
	}
	return true, a.parseBundle(kv.Value)
}

// parseRoot reads a stored root and holds it against its own path.
func (a *Authority) parseRoot(kv store.KV) (*root, rootValue, error) {
	var value rootValue
	if err := json.Unmarshal(kv.Value, &value); err != nil {
		return nil, value, fmt.Errorf("%w: %v", ErrKey, err)
	}
	cert, err := x509.ParseCertificate(value.Certificate)
	if err != nil {
		return nil, value, fmt.Errorf("%w: %v", ErrKey, err)
	}
	if kv.Key != rootPrefix+hex.EncodeToString(cert.SubjectKeyId) || !bytes.Equal(identity.SKI(cert.PublicKey), cert.SubjectKeyId) {
		return nil, value, fmt.Errorf("%w: it holds the certificate of another key", ErrKey)
	}
	if err := a.checkAuthority(cert, cert); err != nil {
		return nil, value, err
	}
	return &root{cert: cert, path: kv.Key, sealed: value.Key}, value, nil
}

// checkAuthority holds a stored authority against its parent and this trust domain.
func (a *Authority) checkAuthority(cert, parent *x509.Certificate) error {
	if len(cert.URIs) != 1 || cert.URIs[0].String() != a.opt.TrustDomain.IDString() {
		return fmt.Errorf("%w: it is an authority of %v, not of trust domain %q", ErrKey, cert.URIs, a.opt.TrustDomain)
	}
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("%w: %q did not sign it: %v", ErrKey, parent.Subject.CommonName, err)
	}
	return nil
}

func (a *Authority) parseBundle(text []byte) error {
	var value bundleValue
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("reading %s: %v", bundleKey, err)
	}
	b, err := identity.ParseBundle(a.opt.TrustDomain, value.Bundle)
	if err != nil {
		return fmt.Errorf("reading %s: %w", bundleKey, err)
	}
	for _, cert := range b.Roots {
		if cert.Equal(a.root.cert) {
			a.bundle = b
			return nil
		}
	}
	return fmt.Errorf("%w: %s does not hold the active root", ErrKey, bundleKey)
}

// openRootKey unseals the key of the root. Whoever signs with it drops it afterwards.
func (a *Authority) openRootKey() (*ecdsa.PrivateKey, error) {
	return a.unsealKey(a.root.path, a.root.sealed, a.root.cert)
}

// unsealKey opens a sealed key and holds it against its certificate.
func (a *Authority) unsealKey(path string, sealed []byte, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	key, err := keyring.OpenKey(a.opt.Sealer, path, sealed, cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

// makeRoot makes, records, signs, seals and stores a root, and the bundle with it.
func (a *Authority) makeRoot(ctx context.Context) (bool, error) {
	now := time.Now()
	key, err := newKey()
	if err != nil {
		return false, fmt.Errorf("making the key: %w", err)
	}
	der, err := a.signAuthority(ctx, &signer{key: key}, Request{Profile: Root, ID: a.opt.TrustDomain.ID()}, &key.PublicKey, now)
	if err != nil {
		return false, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return false, err
	}
	path := rootPrefix + hex.EncodeToString(cert.SubjectKeyId)
	sealed, err := keyring.SealKey(a.opt.Sealer, path, key)
	if err != nil {
		return false, err
	}
	value, err := json.Marshal(rootValue{V: schema, State: StateActive, Certificate: der, Key: sealed, Created: now.UTC(), Activated: now.UTC()})
	if err != nil {
		return false, err
	}
	b := identity.Bundle{TrustDomain: a.opt.TrustDomain, Roots: []*x509.Certificate{cert}, Sequence: 1}
	text, err := b.JSON()
	if err != nil {
		return false, err
	}
	bundle, err := json.Marshal(bundleValue{V: schema, Sequence: b.Sequence, Changed: now.UTC(), Bundle: text})
	if err != nil {
		return false, err
	}
	_, err = a.opt.Store.Commit(ctx, store.Txn{
		If:   []store.Cmp{store.Absent(bundleKey)}, // one root, whoever else starts at this moment
		Then: []store.Op{store.Put(path, value), store.Put(bundleKey, bundle)},
	})
	if err != nil {
		return false, fmt.Errorf("storing the root: %w", err)
	}
	a.opt.Log.Info("root made", "trust_domain", a.opt.TrustDomain.Name(), "key", shortID(cert.SubjectKeyId), "not_after", cert.NotAfter)
	return true, nil
}

// signAuthority takes the certificate of an authority through the steps of any other.
func (a *Authority) signAuthority(ctx context.Context, by *signer, r Request, public *ecdsa.PublicKey, now time.Time) ([]byte, error) {
	token, err := a.prepare(by, r, public, now)
	if err != nil {
		return nil, err
	}
	recorded, err := a.Record(ctx, token)
	if err != nil {
		return nil, err
	}
	issued, err := a.Sign(recorded)
	a.recordOutcome(ctx, token, issued, err)
	if err != nil {
		return nil, err
	}
	return issued.Chain[0], nil
}
