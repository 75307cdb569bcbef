package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bundle is what is trusted to speak for one trust domain. Nothing merges two of them.
type Bundle struct {
	TrustDomain spiffeid.TrustDomain
	Roots       []*x509.Certificate
	Sequence    uint64
	RefreshHint time.Duration // how often readers should look again; zero: five minutes
	Warnings    []string      // what ParseBundle left out or took with doubts, and why
}

// Pinned keeps the roots whose public key has this SHA-256 (of the SubjectPublicKeyInfo): how a
// join code's pin judges a bundle that came over an unverified connection.
func (b Bundle) Pinned(pin [32]byte) Bundle {
	roots := make([]*x509.Certificate, 0, 1)
	for _, root := range b.Roots {
		if sha256.Sum256(root.RawSubjectPublicKeyInfo) == pin {
			roots = append(roots, root)
		}
	}
	b.Roots = roots
	return b
}

// Trust is every bundle of one snapshot. It never changes, and is safe for concurrent use.
type Trust struct {
	own     spiffeid.TrustDomain
	anchors map[spiffeid.TrustDomain]anchor
	seen    proofs
}

// anchor is a bundle ready for path validation.
type anchor struct {
	bundle Bundle
	pool   *x509.CertPool
}

// NewTrust takes the bundles of one snapshot. Of two bundles for one trust domain the later
// counts whole; they are never united.
func NewTrust(own spiffeid.TrustDomain, bundles ...Bundle) *Trust {
	t := &Trust{own: own, anchors: make(map[spiffeid.TrustDomain]anchor, len(bundles))}
	for _, b := range bundles {
		b.Roots = slices.Clone(b.Roots)
		pool := x509.NewCertPool()
		for _, root := range b.Roots {
			pool.AddCert(root)
		}
		t.anchors[b.TrustDomain] = anchor{bundle: b, pool: pool}
	}
	return t
}

// Own is one's own trust domain.
func (t *Trust) Own() spiffeid.TrustDomain { return t.own }

// Bundle is the bundle of a trust domain; false if none is known.
func (t *Trust) Bundle(td spiffeid.TrustDomain) (Bundle, bool) {
	a, ok := t.anchors[td]
	a.bundle.Roots = slices.Clone(a.bundle.Roots)
	return a.bundle, ok
}

// maxProofs bounds what strangers with valid certificates can make a Trust remember.
const maxProofs = 4096

// proofs remembers leaves whose chain was verified. It lives in a Trust and goes with it, so a
// change of any bundle forgets everything.
type proofs struct {
	mu   sync.RWMutex // guards leaf; held for a map access
	leaf map[[32]byte]proof
}

// proof is a verified leaf and when the whole chain above it is valid.
type proof struct {
	peer     Peer
	from, to time.Time
}

// find returns the proof of an earlier verification, if the chain is valid at now.
func (p *proofs) find(fingerprint [32]byte, now time.Time) (Peer, bool) {
	p.mu.RLock()
	known, ok := p.leaf[fingerprint]
	p.mu.RUnlock()
	if !ok || now.Before(known.from) || now.After(known.to) {
		return Peer{}, false // another path may still be valid: verify in full
	}
	known.peer.Serial = bytes.Clone(known.peer.Serial)
	known.peer.IssuerSKI = bytes.Clone(known.peer.IssuerSKI)
	return known.peer, true
}

func (p *proofs) keep(peer Peer, path []*x509.Certificate) {
	known := proof{peer: peer, from: path[0].NotBefore, to: path[0].NotAfter}
	known.peer.Serial = bytes.Clone(peer.Serial)
	known.peer.IssuerSKI = bytes.Clone(peer.IssuerSKI)
	for _, cert := range path[1:] {
		if cert.NotBefore.After(known.from) {
			known.from = cert.NotBefore
		}
		if cert.NotAfter.Before(known.to) {
			known.to = cert.NotAfter
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaf == nil {
		p.leaf = make(map[[32]byte]proof)
	}
	if len(p.leaf) >= maxProofs {
		for other := range p.leaf { // any one: a forgotten proof costs one verification
			delete(p.leaf, other)
			break
		}
	}
	p.leaf[peer.Fingerprint] = known
}
