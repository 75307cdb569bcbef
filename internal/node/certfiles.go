package node

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"countersign.dev/internal/control"
	"countersign.dev/internal/files"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// maxCertificateFile bounds one certificate file, as resource bounds a value of a Secret.
const maxCertificateFile = 64 << 10

// filePair is what the certificate files of one listener held when they were read last.
type filePair struct {
	of    route.Files
	raw   snapshot.KeyPair
	pair  *keyPair // the last that could be used; nil: none yet
	bare  bool     // everybody can read the key
	fault string   // of what was read last, going on from "certificate files"
}

func (p *filePair) fact() route.Certificate {
	c := route.Certificate{Fault: p.fault, Kept: p.fault != "" && p.pair != nil}
	if p.pair != nil {
		c.Names = p.pair.names
	}
	return c
}

// readFiles reads the certificate files of all listeners, as often as run looks around.
func (g *gateways) readFiles(o *route.Objects) {
	now, shown := map[listenerKey]*filePair{}, map[listenerKey]*keyPair{}
	for _, gw := range o.Ours() {
		for i := range gw.Listeners {
			l := &gw.Listeners[i]
			if l.Protocol != route.HTTPS || l.Files == nil {
				continue
			}
			key := listenerKey{gw.Name, l.Name}
			p := g.read[key]
			if p == nil || p.of != *l.Files {
				p = &filePair{of: *l.Files}
			}
			g.readPair(key, p)
			if now[key] = p; p.pair != nil {
				shown[key] = p.pair
			}
		}
	}
	g.read = now
	g.files.Store(&shown)
}

// readPair reads one pair of files. A bad new one leaves the last good one (gateway.md 12.1).
func (g *gateways) readPair(key listenerKey, p *filePair) {
	raw, err := g.readBoth(key.gateway.Namespace, p)
	if err == nil && p.pair != nil && p.fault == "" && bytes.Equal(raw.Chain, p.raw.Chain) && bytes.Equal(raw.Key, p.raw.Key) {
		return
	}
	var pair *keyPair
	if err == nil {
		var which int
		if pair, which, err = parsePair(raw); err != nil {
			err = fmt.Errorf("%s: %w", []string{p.of.Chain, p.of.Key}[which], err)
		}
	}
	fault := ""
	if err != nil {
		if fault = err.Error() + "; put a good pair there"; p.pair != nil {
			fault += ", the one of before is shown till then"
		}
		fault = fault[:min(len(fault), maxFault)]
	}
	if fault != p.fault && fault != "" {
		g.n.o.Log.Warn("certificate files of a Gateway cannot be used", "gateway", key.gateway.String(), "listener", key.listener, "error", err, "before", p.pair != nil)
	}
	p.fault = fault
	if pair != nil {
		p.raw, p.pair = raw, pair
		g.n.o.Log.Info("certificate files of a Gateway are read", "gateway", key.gateway.String(), "listener", key.listener, "not_after", pair.cert.Leaf.NotAfter)
	}
}

// maxFault bounds what the server hears of one pair of files.
const maxFault = 512

func (g *gateways) readBoth(namespace string, p *filePair) (raw snapshot.KeyPair, err error) {
	var mode fs.FileMode
	if raw.Chain, _, err = g.readFile(namespace, p.of.Chain); err != nil {
		return raw, err
	}
	if raw.Key, mode, err = g.readFile(namespace, p.of.Key); err != nil {
		return raw, err
	}
	if bare := mode.Perm()&0o004 != 0; bare != p.bare {
		if p.bare = bare; bare {
			g.n.o.Log.Warn("every user of this machine can read the key of a Gateway", "file", p.of.Key, "mode", mode.Perm())
		}
	}
	return raw, nil
}

// readFile reads a file below the directory of the namespace; one of another namespace is not touched.
func (g *gateways) readFile(namespace, file string) ([]byte, fs.FileMode, error) {
	dir, below, ok := route.CertificatePlace(g.dirs, file)
	if !ok {
		return nil, 0, fmt.Errorf("%s is outside %s", file, strings.Join(g.dirs, ", "))
	}
	of, name, _ := strings.Cut(below, "/")
	if of != namespace {
		return nil, 0, fmt.Errorf("%s belongs to namespace %q, the Gateway to %q", file, of, namespace)
	}
	return files.ReadBelow(dir, of, name, maxCertificateFile)
}

// filesOf are the facts of the certificate files of a Gateway.
func (g *gateways) filesOf(gw *route.Gateway) map[string]route.Certificate {
	out := map[string]route.Certificate{}
	for key, p := range g.read {
		if key.gateway == gw.Name {
			out[key.listener] = p.fact()
		}
	}
	return out
}

// fileState is what the server hears of the certificate files of one listener.
type fileState struct {
	listenerKey
	fault, names string
	kept         bool
}

func (g *gateways) fileStates() (states []fileState, told []*control.GatewayFiles) {
	keys := slices.SortedFunc(maps.Keys(g.read), func(a, b listenerKey) int {
		return cmp.Or(a.gateway.Compare(b.gateway), cmp.Compare(a.listener, b.listener))
	})
	for _, key := range keys {
		c := g.read[key].fact()
		states = append(states, fileState{key, c.Fault, strings.Join(c.Names, " "), c.Kept})
		told = append(told, &control.GatewayFiles{
			Namespace: key.gateway.Namespace, Name: key.gateway.Name, Listener: key.listener, Fault: c.Fault, Kept: c.Kept, Names: c.Names,
		})
	}
	return states, told
}
