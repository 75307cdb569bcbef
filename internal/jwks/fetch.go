package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/jose"
)

// Limits of a retrieval.
const (
	timeout      = 5 * time.Second
	timeoutMax   = 30 * time.Second
	dialTime     = 2 * time.Second // of one address: the next may be the one that answers
	maxBody      = 1 << 20
	maxKept      = 256 << 10 // of it
	maxHead      = 64 << 10
	maxRedirects = 3
	maxAddresses = 8 // of a name that are tried
)

// fault is why a retrieval failed: fixed words, none of them from the answer.
type fault string

func (f fault) Error() string { return string(f) }

const (
	faultTimeout  = fault("no answer in time")
	faultName     = fault("the host name does not resolve")
	faultAddress  = fault("the address is not one that may be called: see token.fetchAllow")
	faultDial     = fault("the host cannot be reached")
	faultSigner   = fault("the certificate is not signed by a known authority: see token.fetchRoots")
	faultWrong    = fault("the certificate is not valid for this host and time")
	faultTLS      = fault("the TLS handshake failed")
	faultURL      = fault("the address is not an https URL")
	faultRedirect = fault("redirected to another host, or too often")
	faultStatus   = fault("the answer is not 200")
	faultEncoding = fault("the answer is compressed")
	faultLarge    = fault("the answer is larger than 1 MiB")
	faultRead     = fault("the answer breaks off")
	faultMetadata = fault("the metadata are not JSON with a jwks_uri")
	faultIssuer   = fault("the metadata are those of another issuer")
	faultSet      = fault("the answer is not a key set that can be used")
	faultEmpty    = fault("the key set has no key for signatures")
)

// client makes the retrievals. It keeps nothing between them: no connection, no cookie.
type client struct {
	allow   []netip.Prefix
	roots   *x509.CertPool
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	http    http.Client
}

func newClient(allow []netip.Prefix, roots *x509.CertPool) *client {
	c := &client{allow: allow, roots: roots, resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	c.http = http.Client{
		Transport: &http.Transport{ // no Proxy: the environment has no say
			DialContext:            c.dialPlain,
			DialTLSContext:         c.dialTLS,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHead,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			r.Header.Del("Referer")
			first := via[0].URL
			if len(via) > maxRedirects || r.URL.Scheme != first.Scheme || r.URL.Host != first.Host || r.URL.User != nil {
				return faultRedirect
			}
			return nil
		},
	}
	return c
}

// keys retrieves the set of a source, and says how long until it is asked for again.
func (c *client) keys(ctx context.Context, s Source) (json.RawMessage, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	uri := s.URI
	if uri == "" {
		var err error
		if uri, err = c.discover(ctx, s.Issuer); err != nil {
			return nil, 0, err
		}
	}
	body, head, err := c.get(ctx, uri)
	if err != nil {
		return nil, 0, err
	}
	set, err := readKeys(body)
	return set, maxAge(head), err
}

// key is the members of a JWK that say anything to us; certificates and the like are left behind.
type key struct {
	Kty    string   `json:"kty"`
	Crv    string   `json:"crv,omitempty"`
	X      string   `json:"x,omitempty"`
	Y      string   `json:"y,omitempty"`
	N      string   `json:"n,omitempty"`
	E      string   `json:"e,omitempty"`
	Alg    string   `json:"alg,omitempty"`
	Use    string   `json:"use,omitempty"`
	KeyOps []string `json:"key_ops,omitempty"`
	Kid    string   `json:"kid,omitempty"`
}

// readKeys judges an answer and returns what is kept of it. A set without a key for signatures
// is a failure like any other: the last good one counts on.
func readKeys(body []byte) (json.RawMessage, error) {
	if _, err := jose.ReadSet(body); err != nil {
		return nil, faultSet
	}
	var set struct {
		Keys []key `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil {
		return nil, faultSet
	}
	small, err := json.Marshal(set)
	if err != nil || len(small) > maxKept {
		return nil, faultSet
	}
	switch again, err := jose.ReadSet(small); {
	case err != nil:
		return nil, faultSet
	case again.Len() == 0:
		return nil, faultEmpty
	}
	return small, nil
}

// discover reads the issuer's metadata for its jwks_uri: OpenID Connect Discovery 1.0, section
// 4, then RFC 8414, section 3. Metadata that name another issuer end the search.
func (c *client) discover(ctx context.Context, issuer string) (string, error) {
	u, err := parse(issuer)
	if err != nil || u.RawQuery != "" {
		return "", faultURL
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	host := u.Scheme + "://" + u.Host
	var first error
	for _, at := range []string{
		host + path + "/.well-known/openid-configuration",
		host + "/.well-known/oauth-authorization-server" + path,
	} {
		uri, err := c.metadata(ctx, at, issuer)
		if err == nil || err == faultIssuer {
			return uri, err
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}

func (c *client) metadata(ctx context.Context, at, issuer string) (string, error) {
	body, _, err := c.get(ctx, at)
	if err != nil {
		return "", err
	}
	return named(body, issuer)
}

// named is the jwks_uri of an issuer's metadata.
func named(body []byte, issuer string) (string, error) {
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if json.Unmarshal(body, &doc) != nil || doc.JWKSURI == "" {
		return "", faultMetadata
	}
	if doc.Issuer != issuer { // RFC 8414, section 3.3: byte for byte
		return "", faultIssuer
	}
	return doc.JWKSURI, nil
}

// parse takes URLs that name a host and say nothing about us.
func parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" ||
		slices.Contains(strings.Split(u.Path, "/"), "..") ||
		u.Scheme != "https" && u.Scheme != "http" { // http: dialPlain decides
		return nil, faultURL
	}
	return u, nil
}

// get is one retrieval, redirects included.
func (c *client) get(ctx context.Context, raw string) ([]byte, http.Header, error) {
	u, err := parse(raw)
	if err != nil {
		return nil, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, faultURL
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "countersign")
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, nil, why(ctx, err, faultDial)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, faultStatus
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, nil, faultEncoding
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil || ctx.Err() != nil { // a body that our own end cut short can look whole
		return nil, nil, why(ctx, err, faultRead)
	}
	if len(body) > maxBody {
		return nil, nil, faultLarge
	}
	return body, resp.Header, nil
}

// why makes the error of net/http, which holds what was answered, one of the fixed faults.
func why(ctx context.Context, err error, otherwise fault) error {
	if f, ok := errors.AsType[fault](err); ok {
		return f
	}
	if ctx.Err() != nil {
		return faultTimeout
	}
	return otherwise
}

// dialPlain is for http, which is taken to the addresses alone that the operator allows.
func (c *client) dialPlain(ctx context.Context, network, address string) (net.Conn, error) {
	return c.dial(ctx, network, address, func(a netip.Addr) bool { return within(a, c.allow) }, faultURL)
}

func (c *client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, faultURL
	}
	raw, err := c.dial(ctx, network, address, func(a netip.Addr) bool { return open(a, c.allow) }, faultAddress)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: c.roots, ServerName: host, MinVersion: tls.VersionTLS12})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, why(ctx, certificate(err), faultTLS)
	}
	return conn, nil
}

// certificate names what is wrong with a certificate.
func certificate(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return faultSigner
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return faultWrong
	}
	return err
}

// dial resolves the host once, asks of each address whether it may be called, and dials that
// address: a name that resolves to something else a moment later changes nothing.
func (c *client) dial(ctx context.Context, network, address string, may func(netip.Addr) bool, no fault) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, faultURL
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = c.resolve(ctx, host); err != nil {
		return nil, why(ctx, err, faultName)
	}
	result := error(no)
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		if !may(a) {
			continue
		}
		conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, network, net.JoinHostPort(plain(a).String(), port))
		if err == nil {
			return conn, nil
		}
		result = why(ctx, err, faultDial)
	}
	return nil, result
}

// maxAge is how long the answer may be kept, within our bounds (RFC 9111, section 5.2.2.1).
func maxAge(head http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(head.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
			return min(max(time.Duration(n)*time.Second, everyMin), everyMax)
		}
	}
	return every
}
