package resource

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
)

// Limits of certificates and keys in companions: gateway.md 3.4.
const (
	maxPEM          = 64 << 10 // bytes of one value
	maxCertificates = 64       // in one value
	maxNames        = 256      // DNS names of a leaf
)

// free is a field that Kubernetes knows and that has no effect here.
func free() *shape { return &shape{form: anything} }

// withFree adds fields without effect to a record; the order is alphabetical, as kubectl's.
func withFree(s *shape, names ...string) *shape {
	for _, name := range names {
		s.fields[name] = free()
		s.order = append(s.order, name)
	}
	return s
}

var namespaceShape = sync.OnceValue(func() *shape {
	return fieldsIn(named{"spec", withFree(fieldsIn(), "finalizers")})
})

func settleNamespace(o *object) {
	o.edgeOptions()
	o.checkLabelName()
}

// checkLabelName is for kinds whose names Kubernetes keeps to one DNS label.
func (o *object) checkLabelName() {
	if c := checkLabel("a " + o.kind)(o.out.Name); c != nil {
		o.fault(c.code, root.field("metadata").field("name"), atValue, c.text, c.hint)
	}
}

// NamespaceLabels are the labels of an accepted Namespace; its name is always among them.
func NamespaceLabels(o Object) (map[string]string, error) {
	if o.Kind != "Namespace" {
		return nil, fmt.Errorf("%s is no Namespace", o.ID())
	}
	out := maps.Clone(o.Labels)
	if out == nil {
		out = make(map[string]string)
	}
	out["kubernetes.io/metadata.name"] = o.Name
	return out, nil
}

// dataShape are the values of a ConfigMap.
func dataShape() *shape {
	return &shape{form: mapping, key: checkDataKey, elem: &shape{form: str, check: anyText, long: true}}
}

func checkDataKey(s string) *complaint {
	if len(s) > 253 || s == "" || s == "." || strings.HasPrefix(s, "..") || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-._", r))
	}) {
		return complain("E103", quote(s)+" is not a key", "letters, digits, -, _ and .")
	}
	return nil
}

var configMapShape = sync.OnceValue(func() *shape {
	return withFree(fieldsIn(named{"data", dataShape()}), "binaryData", "immutable")
})

func settleConfigMap(o *object) {
	o.edgeOptions()
	text, ok := fieldsOf(o.value["data"])[caKey].(string)
	if !ok {
		return
	}
	if _, err := readCertificates([]byte(text)); err != nil {
		o.fault("E218", root.field("data").field(caKey), atKey, "no certificates that are taken: "+clip(err.Error()), "PEM, from -----BEGIN CERTIFICATE----- on")
	}
}

// Keys of data that are read.
const (
	caKey   = "ca.crt"
	certKey = "tls.crt"
	keyKey  = "tls.key"
)

// Anchors are the certificates of an accepted ConfigMap; none where it has no ca.crt.
func Anchors(o Object) ([]*x509.Certificate, error) {
	top, err := bareOf[struct{ Data map[string]string }](o, "ConfigMap")
	if err != nil {
		return nil, err
	}
	text, ok := top.Data[caKey]
	if !ok {
		return nil, nil
	}
	out, err := readCertificates([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", o.ID(), caKey, err)
	}
	return out, nil
}

// bareOf is a document as stored whose fields stand at its top.
func bareOf[T any](o Object, kind string) (T, error) {
	var out T
	if o.Kind != kind {
		return out, fmt.Errorf("%s is no %s", o.ID(), kind)
	}
	if err := json.Unmarshal(o.JSON, &out); err != nil {
		return out, fmt.Errorf("decoding %s: %w", o.ID(), err)
	}
	return out, nil
}

// readCertificates reads PEM that holds certificates and nothing else. No error shows a byte of it.
func readCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(text), maxPEM)
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(text) {
		text = rest
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("PEM of something else than a certificate")
		}
		if len(out) == maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be parsed", len(out)+1)
		}
		out = append(out, c)
	}
	switch {
	case len(out) == 0:
		return nil, errors.New("no PEM")
	case strings.TrimSpace(string(text)) != "":
		return nil, errors.New("something behind the last certificate that is no PEM")
	}
	return out, nil
}
