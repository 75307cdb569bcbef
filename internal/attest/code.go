package attest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Code is a join code: all that a new machine needs to find a server, to know that it is the
// right one, and to prove itself to it once (identity.md 10.2).
type Code struct {
	TrustDomain string   // of the mesh
	Servers     []string // host:port, tried in order; none where server and node share a process
	Pin         string   // SHA-256 of the root's public key (SPKI), in hex
	Secret      string   // 256 bits, base64url
}

const (
	codePrefix  = "csj1."
	maxCode     = 4 << 10 // characters
	maxServers  = 16
	secretBytes = 32
)

// codeText is the JSON inside of a code; the order of its fields is part of the format.
type codeText struct {
	TrustDomain string   `json:"td"`
	Servers     []string `json:"servers"`
	Pin         string   `json:"pin"`
	Secret      string   `json:"t"`
}

// String is the line that `node invite` prints.
func (c Code) String() string {
	t := codeText(c)
	if t.Servers == nil {
		t.Servers = []string{}
	}
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings alone cannot fail
	}
	return codePrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseCode reads what a person pasted: space around the code is theirs, and every other
// deviation from what String writes is a fault, so that one code has one spelling. No error
// repeats the code: it is a secret.
func ParseCode(s string) (Code, error) {
	s = strings.TrimSpace(s)
	body, ok := strings.CutPrefix(s, codePrefix)
	switch {
	case !ok:
		return Code{}, fmt.Errorf("join code does not begin with %q", codePrefix)
	case len(s) > maxCode:
		return Code{}, fmt.Errorf("join code is longer than %d characters", maxCode)
	case strings.ContainsAny(body, "\r\n"): // the decoder would skip them
		return Code{}, errors.New("join code is broken over several lines")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return Code{}, errors.New("join code is cut off or mistyped: it is not base64url")
	}
	var t codeText
	if err := json.Unmarshal(b, &t); err != nil {
		return Code{}, errors.New("join code is cut off or mistyped: its content is not JSON")
	}
	c := Code(t)
	if err := c.check(); err != nil {
		return Code{}, fmt.Errorf("join code: %w", err)
	}
	if c.String() != s {
		return Code{}, errors.New("join code is not as node invite prints it")
	}
	return c, nil
}

func (c Code) check() error {
	if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		return fmt.Errorf("trust domain %q: %v", c.TrustDomain, err)
	}
	if len(c.Servers) > maxServers {
		return fmt.Errorf("%d servers, at most %d", len(c.Servers), maxServers)
	}
	for _, s := range c.Servers {
		host, port, ok := cutPort(s)
		if !ok || host == "" || port == "" || !printable([]byte(s)) || strings.ContainsAny(s, " /@") {
			return fmt.Errorf("server %q is not host:port", s)
		}
	}
	if b, err := hex.DecodeString(c.Pin); err != nil || len(b) != 32 || strings.ToLower(c.Pin) != c.Pin {
		return errors.New("pin is not the SHA-256 of a key in hex")
	}
	return checkSecret(c.Secret)
}

func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], strings.Trim(s[i+1:], "0123456789") == ""
}

func checkSecret(s string) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != secretBytes || base64.RawURLEncoding.EncodeToString(b) != s {
		return errors.New("secret is not 256 bits in base64url")
	}
	return nil
}
