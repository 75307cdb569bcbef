package node

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/telemetry"
)

type listenerKey struct {
	gateway  route.Name
	listener string
}

// face is what a listener shows. Its pairs and files are those given; without either it shows the Gateway's SVID.
type face struct {
	own, files bool
	pairs      []*keyPair // in the order written
	names      [][]string // of pairs
	least      uint16     // version of TLS
}

// keyPair is a pair as it was parsed, once for each change.
type keyPair struct {
	raw   snapshot.KeyPair
	cert  tls.Certificate
	names []string
}

func parsePair(raw snapshot.KeyPair) (p *keyPair, which int, err error) {
	pair, which, err := resource.ReadPair(raw.Chain, raw.Key)
	if err != nil {
		return nil, which, err
	}
	key, err := pair.Private.Signer()
	if err != nil {
		return nil, 1, err
	}
	p = &keyPair{raw: raw, cert: tls.Certificate{PrivateKey: key, Leaf: pair.Chain[0]}, names: pair.Names()}
	for _, c := range pair.Chain {
		p.cert.Certificate = append(p.cert.Certificate, c.Raw)
	}
	return p, 0, nil
}

// prepareFaces parses what came, and finds what every listener shows. A pair that cannot be read, which no server
// sends, leaves the one before it.
func (n *Node) prepareFaces(h *held) {
	h.pairs, h.faces = map[route.Name]*keyPair{}, map[listenerKey]*face{}
	before := map[route.Name]*keyPair{}
	if was := n.snap.Load(); was != nil {
		before = was.pairs
	}
	for name, raw := range h.KeyPairs {
		was := before[name]
		if was != nil && bytes.Equal(was.raw.Chain, raw.Chain) && bytes.Equal(was.raw.Key, raw.Key) {
			h.pairs[name] = was
			continue
		}
		p, _, err := parsePair(raw)
		if err != nil {
			n.o.Log.Error("a certificate from the server cannot be read", "secret", name.String(), "error", err)
			p = was
		}
		if p != nil {
			h.pairs[name] = p
		}
	}
	facts := route.Facts{Secret: h.secret}
	for _, g := range h.Edge.Ours() {
		for i := range g.Listeners {
			l := &g.Listeners[i]
			if l.Protocol != route.HTTPS {
				continue
			}
			f := &face{own: l.Own(), files: l.Files != nil, least: tls.VersionTLS12}
			if l.TLS13 {
				f.least = tls.VersionTLS13
			}
			for _, ref := range l.Certificates {
				c, no := route.ResolveCertificate(g, ref, h.Edge.Grants, facts)
				if p := h.pairs[ref.Name]; p != nil && (no == route.Refusal{} || c.Kept) {
					f.pairs, f.names = append(f.pairs, p), append(f.names, p.names)
				}
			}
			h.faces[listenerKey{g.Name, l.Name}] = f
		}
	}
}

// secret is what is known of a Secret that a listener refers to.
func (h *held) secret(name route.Name) route.Certificate {
	if c, ok := h.Certificates[name]; ok {
		return c
	}
	return route.Certificate{Fault: "is not known here; apply it or correct the name"}
}

// shown is what a listener shows to a server name: the certificate that fits it most exactly first.
func (g *gateways) shown(key listenerKey, server string) proxy.Shown {
	f := g.n.snap.Load().faces[key]
	if f == nil {
		return proxy.Shown{}
	}
	out := proxy.Shown{Least: f.least}
	switch {
	case f.own:
		if s := g.n.svids.current(key.gateway.String()); s != nil {
			out.Certificates = []tls.Certificate{*s.TLS}
		}
	case f.files:
		if p := (*g.files.Load())[key]; p != nil {
			out.Certificates = []tls.Certificate{p.cert}
		}
	default:
		for _, i := range route.ByFit(f.names, server) {
			out.Certificates = append(out.Certificates, f.pairs[i].cert)
		}
	}
	return out
}

// shows reports whether a listener of a port has a certificate here: no port opens before (gateway.md 22).
func (g *gateways) shows(key doorKey) error {
	for _, gw := range g.n.snap.Load().Edge.Ours() {
		for i := range gw.Listeners {
			l := &gw.Listeners[i]
			if gw.Name == key.gateway && l.Port == key.port && len(g.shown(listenerKey{gw.Name, l.Name}, l.Hostname).Certificates) > 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("no certificate of Gateway %s for port %d is here yet", key.gateway, key.port)
}

// certificateEnds is ends for the metrics.
func (g *gateways) certificateEnds() (out []telemetry.GatewayCertificate) {
	for _, c := range g.ends() {
		out = append(out, telemetry.GatewayCertificate{Gateway: c.Namespace + "/" + c.Name, Listener: c.Listener, NotAfter: c.NotAfter})
	}
	return out
}

// ends is when what the listeners show ends; of several certificates the first to end.
func (g *gateways) ends() (out []admin.ShownCertificate) {
	for key := range g.n.snap.Load().faces {
		var first time.Time
		for _, c := range g.shown(key, "").Certificates {
			if c.Leaf != nil && (first.IsZero() || c.Leaf.NotAfter.Before(first)) {
				first = c.Leaf.NotAfter
			}
		}
		if !first.IsZero() {
			out = append(out, admin.ShownCertificate{Namespace: key.gateway.Namespace, Name: key.gateway.Name, Listener: key.listener, NotAfter: first.UTC()})
		}
	}
	return out
}
