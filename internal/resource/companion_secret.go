package resource

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Sealed stands in place of a private key wherever an object is shown or stored.
const Sealed = "<sealed>"

const (
	tlsType     = "kubernetes.io/tls"
	minRSA      = 2048 // bits
	maxRSA      = 8192
	lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
)

// PrivateKey is the key of a Secret. It is printed as <sealed> by whatever prints it; PEM and
// Signer alone give it away.
type PrivateKey struct{ pem []byte }

// KeptKey is a key as a store kept it. Whether it can be used is for Signer to say.
func KeptKey(pem []byte) PrivateKey { return PrivateKey{bytes.Clone(pem)} }

// PEM is the key itself, to be sealed.
func (k PrivateKey) PEM() []byte { return bytes.Clone(k.pem) }

// IsZero reports that there is no key.
func (k PrivateKey) IsZero() bool { return len(k.pem) == 0 }

// Equal compares in constant time.
func (k PrivateKey) Equal(o PrivateKey) bool { return subtle.ConstantTimeCompare(k.pem, o.pem) == 1 }

// Format hides the key from every verb of package fmt.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Sealed) }

func (PrivateKey) String() string { return Sealed }

// MarshalText hides the key from encoders, and from loggers that print text.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(Sealed), nil }

// MarshalJSON hides the key from encoders, and from loggers that print JSON.
func (PrivateKey) MarshalJSON() ([]byte, error) { return []byte(`"` + Sealed + `"`), nil }

// Signer parses the key: RSA of 2048 to 8192 bits, P-256, P-384 or Ed25519. No error shows a byte of it.
func (k PrivateKey) Signer() (crypto.Signer, error) {
	if len(k.pem) > maxPEM {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(k.pem), maxPEM)
	}
	var found *pem.Block
	rest := k.pem
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "EC PARAMETERS": // openssl ecparam writes it before the key
		case found != nil:
			return nil, errors.New("more than one PEM block")
		default:
			found = block
		}
	}
	switch {
	case found == nil:
		return nil, errors.New("no PEM")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something behind the key that is no PEM")
	}
	key, err := parseKey(found)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if n := key.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fmt.Errorf("an RSA key of %d bits, %d to %d are taken", n, minRSA, maxRSA)
		}
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("a key on %s, P-256 and P-384 are taken", key.Curve.Params().Name)
		}
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, errors.New("a key of a kind that is not taken: RSA, P-256, P-384 or Ed25519")
}

// parseKey leaves out what crypto/x509 says: its errors may hold parts of the key.
func parseKey(block *pem.Block) (key any, err error) {
	if len(block.Headers) > 0 {
		return nil, errors.New("PEM with headers: an encrypted key is not taken")
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, errors.New("PEM of something else than a private key")
	}
	if err != nil {
		return nil, errors.New("a private key that cannot be parsed, or is too weak to be")
	}
	return key, nil
}

// KeyPair is what a listener shows: a chain, the leaf first, and the leaf's key.
type KeyPair struct {
	Chain   []*x509.Certificate
	Private PrivateKey
}

// Names are the DNS names of the leaf, in look-up form.
func (p KeyPair) Names() []string {
	var out []string
	for _, name := range p.Chain[0].DNSNames {
		out = append(out, strings.ToLower(name))
	}
	return out
}

// Pair is what a listener shows of an accepted Secret; of a stored one, once its key is put into Private. An accepted
// one need not hold a pair that can be shown: the error says why, without naming the Secret.
func Pair(o Object) (KeyPair, error) {
	text, err := secretChain(o)
	if err != nil {
		return KeyPair{}, err
	}
	chain, field, err := matchPair(text, o.Private)
	if err != nil {
		return KeyPair{}, fmt.Errorf("%s: %w", field, err)
	}
	return KeyPair{chain, o.Private}, nil
}

func secretChain(o Object) ([]byte, error) {
	top, err := bareOf[struct{ Data map[string]string }](o, "Secret")
	if err != nil {
		return nil, err
	}
	text, err := base64.StdEncoding.DecodeString(top.Data[certKey])
	if err != nil {
		return nil, fmt.Errorf("%s: not base64", certKey)
	}
	return text, nil
}

// ReadPair is the pair of two files. which is what an error is about: 0 the chain, 1 the key.
func ReadPair(chain, key []byte) (pair KeyPair, which int, err error) {
	k := PrivateKey{key}
	certs, field, err := matchPair(chain, k)
	if field == keyKey {
		which = 1
	}
	return KeyPair{certs, k}, which, err
}

// matchPair parses both halves; field is the one that an error is about.
func matchPair(chain []byte, k PrivateKey) (certs []*x509.Certificate, field string, err error) {
	if certs, err = readCertificates(chain); err != nil {
		return nil, certKey, err
	}
	if n := len(certs[0].DNSNames); n > maxNames {
		return nil, certKey, fmt.Errorf("a certificate with %d names, at most %d are taken", n, maxNames)
	}
	signer, err := k.Signer()
	if err != nil {
		return nil, keyKey, err
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certs[0].PublicKey) {
		return nil, keyKey, errors.New("not the key of the first certificate")
	}
	return certs, "", nil
}

// The values of a Secret have no shape of their own: what is wrong with a value is said
// without showing it.
var secretShape = sync.OnceValue(func() *shape {
	return fieldsIn(named{"data", free()}, named{"immutable", free()}, named{"stringData", free()}, named{"type", textWith(anyText)})
})

// checkSecret judges the form of a Secret before anything else does.
func checkSecret(o *object) {
	if kind, ok := o.value["type"].(string); o.value["type"] == nil || ok && kind != tlsType {
		o.fault("E301", root.field("type"), atKey, "a Secret of another type than "+tlsType+" is not supported yet", "write type: "+tlsType)
	}
	for _, field := range []string{"data", "stringData"} {
		v, ok := o.value[field]
		if !ok {
			continue
		}
		values, ok := v.(map[string]any)
		if !ok {
			o.fault("E109", root.field(field), atKey, "a mapping is needed", "write tls.crt: and tls.key: under it")
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			p := root.field(field).field(key)
			if !isOneOf(key, certKey, keyKey, caKey) {
				o.fault("E301", p, atKey, "not read, and not kept", "a Secret of this type has tls.crt, tls.key and ca.crt")
			} else if _, ok := values[key].(string); !ok {
				o.fault("E109", p, atKey, "text is needed", "")
			}
		}
	}
}

// settleSecret reads the pair, and takes the key out of the document.
func settleSecret(o *object) {
	o.edgeOptions()
	data := make(map[string]any)
	read := make(map[string][]byte)
	for _, key := range []string{certKey, keyKey, caKey} {
		if text, ok := fieldsOf(o.value["stringData"])[key].(string); ok { // it wins, as in Kubernetes
			read[key] = []byte(text)
		} else if text, ok := fieldsOf(o.value["data"])[key].(string); ok && text == Sealed {
			read[key] = []byte(Sealed)
		} else if ok {
			var err error
			if read[key], err = base64.StdEncoding.DecodeString(text); err != nil {
				o.fault("E218", root.field("data").field(key), atKey, "not base64", "or write the PEM itself under stringData")
				return
			}
		} else if key != caKey {
			o.fault("E218", root, atKey, key+" is missing", "a Secret of this type has tls.crt and tls.key")
			return
		}
		text, ok := read[key]
		switch {
		case !ok:
			continue
		case len(text) > maxPEM:
			o.fault("E218", o.secretPath(key), atKey, fmt.Sprintf("%d bytes, at most %d are taken", len(text), maxPEM), "")
			return
		case key != keyKey && bytes.Contains(text, []byte("PRIVATE KEY")): // it would be shown
			o.fault("E218", o.secretPath(key), atKey, "a private key among certificates", "the key alone stands in tls.key")
			return
		}
		data[key] = base64.StdEncoding.EncodeToString(text)
	}
	key := PrivateKey{read[keyKey]}
	if string(read[keyKey]) == Sealed {
		var ok bool
		if key, ok = o.keptKey(data[certKey]); !ok {
			o.fault("E218", o.secretPath(keyKey), atKey, "the key is not shown, and none is stored for this certificate", "give the key itself")
			return
		}
	}
	if _, field, err := matchPair(read[certKey], key); err != nil { // the condition of each listener that refers to it says so too
		o.warn("E218", o.secretPath(field), atKey, clip(err.Error())+": no listener can show it", "PEM; RSA of at least 2048 bits, P-256, P-384 or Ed25519")
	}
	data[keyKey] = Sealed
	o.out.Private = key
	o.value = maps.Clone(o.value)
	delete(o.value, "stringData")
	o.value["data"] = data
	o.forgetApplied()
}

// secretPath is where a value of the Secret stands.
func (o *object) secretPath(key string) *path {
	if has(o.value["stringData"], key) {
		return root.field("stringData").field(key)
	}
	return root.field("data").field(key)
}

// keptKey is the stored key, where the certificate is the stored one.
func (o *object) keptKey(chain any) (PrivateKey, bool) {
	if o.batch.options.Stored == nil {
		return PrivateKey{}, false
	}
	old, ok := o.batch.options.Stored("Secret", o.out.Namespace, o.out.Name)
	if !ok || old.Private.IsZero() {
		return PrivateKey{}, false
	}
	top, err := bareOf[struct{ Data map[string]string }](old, "Secret")
	return old.Private, err == nil && top.Data[certKey] == chain
}

// forgetApplied drops the copy of the whole Secret that kubectl apply leaves in an annotation.
func (o *object) forgetApplied() {
	meta := maps.Clone(fieldsOf(o.value["metadata"]))
	notes := maps.Clone(fieldsOf(meta["annotations"]))
	if !has(notes, lastApplied) {
		return
	}
	delete(notes, lastApplied)
	meta["annotations"] = notes
	o.value["metadata"] = meta
	o.out.Annotations = texts(notes)
}
