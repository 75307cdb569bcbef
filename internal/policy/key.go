package policy

import (
	"errors"
	"strings"
)

// What is wrong with the key of a condition (istio-semantics 7.5).
var (
	ErrUnknownKey = errors.New("not a key of a condition")
	ErrNoFact     = errors.New("a key that nothing here can answer yet")
	ErrNeverThere = errors.New("a header that never reaches policy")
)

// CheckKey says why a key of a condition is not enforced: ErrUnknownKey, ErrNoFact or
// ErrNeverThere; nil for one that is.
func CheckKey(s string) error {
	_, err := parseKey(s)
	return err
}

// attribute is what a key speaks of. Those up to ofPort are facts of the connection.
type attribute uint8

const (
	ofNamespace attribute = iota
	ofAccount
	ofPrincipal
	ofPort

	ofRequestPrincipal
	ofAudience
	ofPresenter
	ofActor
	ofClaim

	ofHeader
	ofMethod
	ofAuthority
	ofScheme
	ofTarget
	ofRequestID
	ofForwardedProto
	ofUpgrade
)

// key is one key, parsed.
type key struct {
	of   attribute
	path []string // of a claim: its names, outermost first
	name string   // of a header: lower case
}

func parseKey(s string) (key, error) {
	switch s {
	case "source.namespace":
		return key{of: ofNamespace}, nil
	case "source.serviceAccount":
		return key{of: ofAccount}, nil
	case "source.principal":
		return key{of: ofPrincipal}, nil
	case "destination.port":
		return key{of: ofPort}, nil
	case "request.auth.principal":
		return key{of: ofRequestPrincipal}, nil
	case "request.auth.audiences":
		return key{of: ofAudience}, nil
	case "request.auth.presenter":
		return key{of: ofPresenter}, nil
	case "request.auth.actors":
		return key{of: ofActor}, nil
	case "source.ip", "source.trustDomain", "remote.ip", "destination.ip", "connection.sni":
		return key{}, ErrNoFact
	}
	name, _, _ := strings.Cut(s, "[")
	names, ok := brackets(s[len(name):])
	switch {
	case !ok:
	case name == "request.auth.claims":
		return key{of: ofClaim, path: names}, nil
	case name == "request.headers" && len(names) == 1:
		return headerKey(lowerASCII(names[0]))
	case name == "request.txn" && len(names) == 1:
		return key{}, ErrNoFact
	}
	return key{}, ErrUnknownKey
}

// brackets reads [a][b], exactly: a name holds anything but brackets, and is not empty.
func brackets(s string) (names []string, ok bool) {
	for s != "" {
		name, rest, closed := strings.Cut(s, "]")
		if !closed || len(name) < 2 || name[0] != '[' || strings.Contains(name[1:], "[") {
			return nil, false
		}
		names, s = append(names, name[1:]), rest
	}
	return names, len(names) > 0
}

func headerKey(name string) (key, error) {
	switch name {
	case ":method":
		return key{of: ofMethod, name: name}, nil
	case ":authority", "host":
		return key{of: ofAuthority, name: name}, nil
	case ":scheme":
		return key{of: ofScheme, name: name}, nil
	case ":path":
		return key{of: ofTarget, name: name}, nil
	case "x-request-id":
		return key{of: ofRequestID, name: name}, nil
	case "x-forwarded-proto":
		return key{of: ofForwardedProto, name: name}, nil
	case "upgrade":
		return key{of: ofUpgrade, name: name}, nil
	}
	switch {
	case !isToken(name):
		return key{}, ErrUnknownKey
	case neverThere(name):
		return key{}, ErrNeverThere
	}
	return key{of: ofHeader, name: name}, nil
}

// neverThere are the fields that are gone before policy looks (istio-semantics 7.5.1): those
// that only we may say, those of one connection, and aliases of either. A condition on an
// absent field would be true in notValues where Istio sees a value.
func neverThere(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "http2-settings", "expect", "content-length":
		return true
	}
	plain := strings.NewReplacer("_", "-", ".", "-").Replace(name)
	switch plain {
	case "proxy", "x-forwarded-client-cert", "client-cert", "client-cert-chain", "txn-token",
		"workload-identity-token", "workload-proof-token", "x-decision-id", "early-data":
		return true
	case "host", "connection", "te", "trailer", "transfer-encoding", "content-length", "upgrade", "expect",
		"authorization", "cookie", "x-api-key", "dpop":
		return plain != name
	}
	for _, p := range [...]string{"x-countersign-", "x-envoy-", "x-client-cert", "x-ssl-", "ssl-client-"} {
		if strings.HasPrefix(plain, p) {
			return true
		}
	}
	return false
}

// isToken is RFC 9110 section 5.6.2, in lower case.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// canonical is the spelling that header maps have.
func canonical(name string) string {
	b := []byte(name)
	for i := range b {
		if (i == 0 || b[i-1] == '-') && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// field is the key as explanations and sentences name it.
func (k *key) field() string {
	switch k.of {
	case ofNamespace:
		return fieldNamespace
	case ofAccount:
		return fieldAccount
	case ofPrincipal:
		return fieldPrincipal
	case ofPort:
		return fieldPort
	case ofRequestPrincipal:
		return fieldToken
	case ofAudience:
		return "audience"
	case ofPresenter:
		return "presenter"
	case ofActor:
		return "actor"
	case ofClaim:
		if len(k.path) == 1 {
			return "claim " + k.path[0]
		}
		return "claim [" + strings.Join(k.path, "][") + "]"
	}
	return "header " + k.name
}
