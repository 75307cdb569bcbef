package jose

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"
)

// The ways in which a token is bound to who may show it (tokens.md 8.1, cnf).
const (
	ByCertificate = "x5t#S256"
	ByIdentity    = "spiffe"
	ByProof       = "jkt" // DPoP, which no presenter here can satisfy
)

// binding is cnf: one way, or none.
type binding struct {
	kind, value string
	leaf        [sha256.Size]byte // of ByCertificate
}

// readBinding is cnf with exactly one member (RFC 7800 section 3). null is no binding at all:
// whether such a token will do is the audience's question.
func (t *Token) readBinding() *Error {
	k := t.claim("cnf")
	if k == nil {
		return nil
	}
	if k.kind != '{' || len(k.inner) != 1 {
		return refuse(Claims, "cnf does not name exactly one way")
	}
	in := k.inner[0]
	t.bound.kind = in.name
	if in.kind == '"' {
		t.bound.value = in.texts[0]
	}
	ok := true
	switch in.name {
	case ByCertificate, ByProof:
		sum, err := alphabet.DecodeString(t.bound.value)
		ok = err == nil && len(sum) == sha256.Size && len(t.bound.value) == hashLength
		copy(t.bound.leaf[:], sum)
	case ByIdentity:
		ok = strings.HasPrefix(t.bound.value, "spiffe://")
	default:
		ok = !t.own && in.name != "" // others may bind in ways that cannot be shown here
	}
	if !ok {
		return refuse(Claims, "cnf is not one that is made here")
	}
	return nil
}

// hashLength is that of a SHA-256 in base64url. A text with line breaks, which the decoder skips,
// is longer.
const hashLength = 43

// Binding is the member of cnf and its value; both empty if the token is bound to nobody.
func (t *Token) Binding() (kind, value string) { return t.bound.kind, t.bound.value }

// Bound reports an *Error if the token is bound to another than its presenter, or in a way that
// cannot be shown here (tokens.md 9.2). It is asked for every request; its answer is never kept.
func (t *Token) Bound(p Presenter) error {
	switch t.bound.kind {
	case "":
		return nil
	case ByIdentity:
		if p.ID != "" && p.ID == t.bound.value {
			return nil
		}
		if p.ID == "" {
			return refuse(Binding, fmt.Sprintf("the token belongs to %q, the caller proved no identity", clip(t.bound.value)))
		}
		of, is := short(t.bound.value, p.ID)
		return refuse(Binding, fmt.Sprintf("the token belongs to %q, the caller is %q", clip(of), clip(is)))
	case ByCertificate:
		if p.Fingerprint == ([sha256.Size]byte{}) {
			return refuse(Binding, "the token belongs to a certificate, the caller showed none")
		}
		if subtle.ConstantTimeCompare(t.bound.leaf[:], p.Fingerprint[:]) == 1 {
			return nil
		}
		return refuse(Binding, "the token belongs to another certificate than the caller's")
	case ByProof:
		return refuse(Binding, "the token needs a proof by DPoP, which is not taken here")
	}
	return refuse(Binding, fmt.Sprintf("the token is bound by %q, which cannot be shown here", clip(t.bound.kind)))
}

// short leaves out of two SPIFFE IDs the trust domain and namespace that they share.
func short(a, b string) (string, string) {
	i := strings.LastIndex(a, "/sa/")
	if i < 0 || i > len(b) || a[:i] != b[:i] || !strings.HasPrefix(b[i:], "/sa/") {
		return a, b
	}
	return "…" + a[i:], "…" + b[i:]
}
