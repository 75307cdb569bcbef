package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/route"
)

// Certificate is a Secret that a listener may show: what everybody knows of it, and the pair.
type Certificate struct {
	route.Name
	route.Certificate
	Pair KeyPair // of the Secret, or of the last that could be used; without a Chain there is none
}

// KeyPair is a chain and its key in PEM. It prints as <sealed>; encoding/json alone gives it away.
type KeyPair struct{ Chain, Key []byte }

// Format hides the key from every verb of package fmt.
func (KeyPair) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "<sealed>") }

// putCertificates gives what listeners show. That a pair can be used is for all to know who compute which ports are to
// be open; the pair itself goes to a node that may run a Gateway which refers to it.
func putCertificates(w *World, own []entry.Entry, put func(string, any) error) error {
	known := make(map[route.Name]*Certificate, len(w.Certificates))
	for i := range w.Certificates {
		known[w.Certificates[i].Name] = &w.Certificates[i]
	}
	runs := map[string]bool{}
	for _, e := range own {
		if e.OfGateway() {
			runs[e.Namespace+"/"+e.ServiceAccount] = true
		}
	}
	for _, g := range w.Edge.Ours() {
		for _, name := range w.Edge.SecretsOf(g) {
			c, ok := known[name]
			if !ok {
				continue
			}
			if err := put("certificate/"+name.String(), c.Certificate); err != nil {
				return err
			}
			if !runs[g.String()] || len(c.Pair.Chain) == 0 {
				continue
			}
			if err := put("keypair/"+name.String(), c.Pair); err != nil {
				return err
			}
		}
	}
	return nil
}

var errNoPair = errors.New("it is no pair")

func nameOf(rest string) (route.Name, error) {
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		return route.Name{}, fmt.Errorf("%q is no namespace and name", rest)
	}
	return route.Name{Namespace: namespace, Name: name}, nil
}

func (n *Node) takeCertificate(rest string, b []byte) error {
	name, err := nameOf(rest)
	if err != nil {
		return err
	}
	var c route.Certificate
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	n.Certificates[name] = c
	return nil
}

func (n *Node) takeKeyPair(rest string, b []byte) error {
	name, err := nameOf(rest)
	if err != nil {
		return err
	}
	var p KeyPair
	if json.Unmarshal(b, &p) != nil {
		return errNoPair // what encoding/json says could show a byte
	}
	n.KeyPairs[name] = p
	return nil
}
