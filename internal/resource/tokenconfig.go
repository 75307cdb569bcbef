package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// TokenConfig is the section token of a role file (tokens.md 16).
type TokenConfig struct {
	// Issuer is iss of every token issued; changing it ends them all. [https://localhost:7444]
	Issuer string
	// Listen is the address of the public endpoints. [port 7444]
	Listen string
	// MTLSListen is that of the endpoints that ask for a client certificate. [port 7445]
	MTLSListen string
	// Cert and Key are files with the certificate of both. [one of our own authority]
	Cert, Key string
	// KeyPeriod is how long one key signs, 1h to 90d. [24h]
	KeyPeriod time.Duration
	// NoImplicit takes the tokens from workloads without an OAuthClient: implicitClients: false.
	NoImplicit bool
	// FetchAllow lists addresses that keys may be retrieved from though they are blocked.
	FetchAllow []netip.Prefix
	// FetchRoots is a file with more roots for retrieving keys.
	FetchRoots string
}

const (
	defaultKeyPeriod = 24 * time.Hour
	minKeyPeriod     = time.Hour
	maxKeyPeriod     = 90 * 24 * time.Hour
	maxFetchAllow    = 256
)

var (
	tokenFields = []string{"issuer", "listen", "mtlsListen", "tls", "keyPeriod", "implicitClients", "fetchAllow", "fetchRoots"}
	tokenLater  = []string{"federatedClients", "localUsers", "idTokenRS256", "trustedHops", "dpopReplay", "reporters", "streamMaxAge"}
)

func (r *configReader) token(v *yaml.Node) {
	if v.Kind != yaml.MappingNode {
		r.fault(v.Line, v.Column, "E109", "token is no map", "write a line such as\n  issuer: https://tokens.example.com")
		return
	}
	r.each(v, func(key, value *yaml.Node) {
		switch {
		case slices.Contains(tokenLater, key.Value):
			r.fault(key.Line, key.Column, "E301", "token."+key.Value+" is not supported yet", waitHint)
		case !slices.Contains(tokenFields, key.Value):
			r.unknown("token: ", key, tokenFields)
		case key.Value == "tls":
			r.tokenTLS(value)
		case key.Value == "fetchAllow":
			r.fetchAllow(value)
		default:
			if text, ok := r.scalar("token."+key.Value, value); ok {
				r.tokenField(key.Value, text, value)
			}
		}
	})
}

func (r *configReader) tokenField(name, text string, v *yaml.Node) {
	c := &r.c.Token
	fault := func(code, what, hint string) { r.fault(v.Line, v.Column, code, "token."+name+": "+what, hint) }
	switch name {
	case "issuer":
		if !strings.HasPrefix(text, "https://") || strings.HasSuffix(text, "/") || checkIssuerURL(text) != nil {
			fault("E218", quote(text)+" is not an issuer", "https, without query, fragment and slash at the end: https://tokens.example.com")
		}
		c.Issuer = text
	case "listen", "mtlsListen":
		if !listenAddress(text) {
			fault("E109", quote(text)+" is not an address to listen at", "such as 127.0.0.1:7444, or :7444 for every address")
		}
		if name == "listen" {
			c.Listen = text
		} else {
			c.MTLSListen = text
		}
	case "keyPeriod":
		d, ok := parseDuration(text)
		switch {
		case !ok:
			fault("E111", quote(text)+" is no duration", "write 24h or 7d")
		case d < minKeyPeriod || d > maxKeyPeriod:
			fault("E111", clip(text)+" is outside 1h to 90d", "24h is the default")
		default:
			c.KeyPeriod = d
		}
	case "implicitClients":
		var on bool
		if v.Tag != "!!bool" || v.Decode(&on) != nil {
			fault("E109", quote(text)+" is not true or false", "write true or false, without quotes")
			return
		}
		c.NoImplicit = !on
	case "fetchRoots":
		if text == "" {
			fault("E206", "an empty value", "name a file, or leave the line out")
		}
		c.FetchRoots = text
	}
}

// tokenTLS reads {cert, key}: one is nothing without the other.
func (r *configReader) tokenTLS(v *yaml.Node) {
	if v.Kind != yaml.MappingNode {
		r.fault(v.Line, v.Column, "E109", "token.tls is no map", "write {cert: FILE, key: FILE}")
		return
	}
	before := len(r.faults)
	r.each(v, func(key, value *yaml.Node) {
		if key.Value != "cert" && key.Value != "key" {
			r.unknown("token.tls: ", key, []string{"cert", "key"})
			return
		}
		text, ok := r.scalar("token.tls."+key.Value, value)
		switch {
		case !ok:
		case key.Value == "cert":
			r.c.Token.Cert = text
		default:
			r.c.Token.Key = text
		}
	})
	if c := r.c.Token; len(r.faults) == before && (c.Cert == "" || c.Key == "") {
		r.fault(v.Line, v.Column, "E224", "token.tls needs cert and key", "name both files, or leave tls out for a certificate of our own authority")
	}
}

func (r *configReader) fetchAllow(v *yaml.Node) {
	if v.Kind != yaml.SequenceNode {
		r.fault(v.Line, v.Column, "E109", "token.fetchAllow is no list", "write [10.1.0.0/16]")
		return
	}
	if len(v.Content) > maxFetchAllow {
		r.fault(v.Line, v.Column, "E102", fmt.Sprintf("token.fetchAllow has %d values, at most %d are taken", len(v.Content), maxFetchAllow), "")
		return
	}
	for _, item := range v.Content {
		text, ok := r.scalar("token.fetchAllow", item)
		if !ok {
			continue
		}
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			r.fault(item.Line, item.Column, "E208", "token.fetchAllow: "+quote(text)+" is not a CIDR", "such as 10.1.0.0/16, or 10.1.2.3/32 for one address")
		case p.Addr().Is4In6(), p != p.Masked():
			r.fault(item.Line, item.Column, "E208", "token.fetchAllow: "+quote(text)+" is not the network itself", "write "+masked(p))
		default:
			r.c.Token.FetchAllow = append(r.c.Token.FetchAllow, p)
		}
	}
}

// masked is the network that a prefix with host bits, or one in IPv6 clothes, was meant to be.
func masked(p netip.Prefix) string {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked().String()
}

// listenAddress takes an address or localhost with a port; no host is every address, port 0
// any that is free.
func listenAddress(s string) bool {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return false
	}
	host, port := s[:i], s[i+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return false
	}
	if host == "" || host == "localhost" {
		return true
	}
	_, err := netip.ParseAddrPort(s)
	return err == nil
}
