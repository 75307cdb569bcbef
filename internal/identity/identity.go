// Package identity holds who somebody is in terms of SPIFFE: IDs read strictly, X.509-SVIDs
// verified strictly, trust bundles, and the TLS configurations that enforce them.
//
// Its words: an ID is a SPIFFE ID; a leaf is the certificate of a workload, node or server;
// a bundle is the set of root certificates of one trust domain; a Trust is every bundle of
// one snapshot; a Peer is what a verified chain proves.
//
// Its promise: pure (no I/O, no goroutine, no clock: time comes in as now); an ID is judged by
// its bytes in the certificate, never by what net/url makes of them; a leaf is judged by the
// bundle of its own trust domain alone, never by a union of bundles or the system's roots.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Error is a refusal with the reason that records, metrics and the other side's operator see.
type Error struct {
	Reason string // one of the constants below
	Text   string // one sentence for the operator
}

func (e *Error) Error() string { return e.Text }

// The reasons for which a peer is refused, spelled as in the audit record (layer tls).
const (
	NoClientCert     = "no_client_cert"
	UnknownCA        = "unknown_ca"
	BadChain         = "bad_chain"
	Expired          = "expired"
	NotYetValid      = "not_yet_valid"
	BadSAN           = "bad_san"
	WrongTrustDomain = "wrong_trust_domain"
	CALeaf           = "ca_leaf"
	BadUsage         = "bad_usage"
	NameConstraint   = "name_constraint"
	UnexpectedPeer   = "unexpected_peer"
	Version          = "version"
	Suite            = "suite"
	Group            = "group"
	ALPN             = "alpn"
	Plaintext        = "plaintext"
	Timeout          = "timeout"
)

func refuse(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

const (
	maxID          = 2048 // SPIFFE-ID, section 2.3
	maxTrustDomain = 255  // SPIFFE-ID, section 2.3
	maxLabel       = 63   // RFC 1035, section 2.3.4
	maxMachineName = 56   // "server-" before it is a label too

	scheme = "spiffe://"
)

// ReservedNamespace holds the IDs of nodes and servers; no Workload may live in it.
const ReservedNamespace = "countersign"

// ParseID reads a SPIFFE ID from the bytes a stranger sent: the IA5String of a SAN, the
// string of a token's sub (SPIFFE-ID, section 2). A value that went through net/url is not
// such bytes: it lower-cases the scheme and drops an empty fragment.
func ParseID(b []byte) (spiffeid.ID, error) {
	if len(b) > maxID {
		return spiffeid.ID{}, fmt.Errorf("SPIFFE ID of %d bytes: at most %d are allowed", len(b), maxID)
	}
	id, err := spiffeid.FromString(string(b))
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("SPIFFE ID %q: %v", clip(b), err)
	}
	if n := len(id.TrustDomain().Name()); n > maxTrustDomain {
		return spiffeid.ID{}, fmt.Errorf("trust domain of %d bytes: at most %d are allowed", n, maxTrustDomain)
	}
	return id, nil
}

// clip keeps an error about a stranger's text short.
func clip(b []byte) string {
	if len(b) > 128 {
		return string(b[:128]) + "…"
	}
	return string(b)
}

// CheckTrustDomain judges the name of one's own trust domain. It is narrower than what is
// accepted from others, because Go's X.509 parser refuses a URI whose host has an empty label.
func CheckTrustDomain(s string) error {
	if s == "" {
		return errors.New("trust domain is empty")
	}
	if len(s) > maxTrustDomain {
		return fmt.Errorf("trust domain of %d bytes: at most %d are allowed", len(s), maxTrustDomain)
	}
	if _, err := spiffeid.FromString(scheme + s); err != nil || strings.Contains(s, "/") {
		return fmt.Errorf("trust domain %q: only a-z, 0-9, dot, - and _ are allowed", clip([]byte(s)))
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return fmt.Errorf("trust domain %q: a dot at an end, or two together, cannot stand in a certificate", s)
		}
	}
	return nil
}

// CheckLabel judges a namespace, a service account or another name that must be a DNS label.
func CheckLabel(s string) error {
	if s == "" {
		return errors.New("name is empty")
	}
	if len(s) > maxLabel {
		return fmt.Errorf("name of %d bytes: at most %d are allowed", len(s), maxLabel)
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("name %q: only a-z, 0-9 and - are allowed", s)
		}
	}
	if s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("name %q: it must not begin or end with -", s)
	}
	return nil
}

// ForWorkload is the ID of a workload: spiffe://<td>/ns/<ns>/sa/<sa>.
func ForWorkload(td spiffeid.TrustDomain, ns, sa string) (spiffeid.ID, error) {
	if ns == ReservedNamespace {
		return spiffeid.ID{}, fmt.Errorf("namespace %s is reserved for nodes and servers", ReservedNamespace)
	}
	return canonical(td, ns, sa)
}

// ForNode is the ID of the node called name.
func ForNode(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	return forMachine(td, "node-", name)
}

// ForServer is the ID of the server called name.
func ForServer(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	return forMachine(td, "server-", name)
}

func forMachine(td spiffeid.TrustDomain, prefix, name string) (spiffeid.ID, error) {
	if err := CheckLabel(name); err != nil {
		return spiffeid.ID{}, err
	}
	if len(name) > maxMachineName {
		return spiffeid.ID{}, fmt.Errorf("name of %d bytes: at most %d are allowed for a node or server", len(name), maxMachineName)
	}
	return canonical(td, ReservedNamespace, prefix+name)
}

func canonical(td spiffeid.TrustDomain, ns, sa string) (spiffeid.ID, error) {
	if err := CheckTrustDomain(td.Name()); err != nil {
		return spiffeid.ID{}, err
	}
	if err := CheckLabel(ns); err != nil {
		return spiffeid.ID{}, fmt.Errorf("namespace: %v", err)
	}
	if err := CheckLabel(sa); err != nil {
		return spiffeid.ID{}, fmt.Errorf("service account: %v", err)
	}
	return ParseID([]byte(td.IDString() + "/ns/" + ns + "/sa/" + sa))
}

// Split reads namespace and service account of a canonical ID, whose path is exactly
// /ns/<namespace>/sa/<service account>. A foreign domain may issue IDs of another form: they
// have a principal, but neither namespace nor service account.
func Split(id spiffeid.ID) (ns, sa string, ok bool) {
	if id.IsZero() {
		return "", "", false
	}
	rest, found := strings.CutPrefix(id.Path(), "/ns/")
	if !found {
		return "", "", false
	}
	ns, rest, found = strings.Cut(rest, "/")
	if !found {
		return "", "", false
	}
	sa, found = strings.CutPrefix(rest, "sa/")
	if !found || sa == "" || strings.Contains(sa, "/") {
		return "", "", false
	}
	return ns, sa, true
}
