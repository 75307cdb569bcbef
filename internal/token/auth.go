package token

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"strings"

	"countersign.dev/internal/grant"
)

// The methods of client authentication by their wire names (tokens.md 11.1).
const (
	methodSPIFFE    = "spiffe_x509"
	methodAssertion = "private_key_jwt"
	methodBasic     = "client_secret_basic"
	methodPost      = "client_secret_post"
)

// The details of records about clients that failed, beside the reasons of tokens.md 12.1 and
// those of package identity (18.1).
const (
	detailUnknown  = "client_unknown"
	detailDisabled = "client_disabled"
	detailMethod   = "method"
	detailSecret   = "secret"
	detailReplay   = "assertion_replay"
	detailBinding  = "binding"
)

// proof is what one method makes of a request: a client, or why not.
type proof struct {
	client *grant.Client
	method string
	detail string // of the record, when client is nil
	id     string // the client_id that was claimed
	free   bool   // nothing was tried, so it is no failed attempt
	fault  *fault // an answer other than that of a failed authentication
}

// authenticate chooses the method (tokens.md 5.2) and proves the client, which c becomes. Every
// failure is one answer; an unknown client takes the way of a known one.
func (s *Service) authenticate(ctx context.Context, q *request, f *form, c *caller) *fault {
	authorization := q.r.Header["Authorization"]
	id, secret, assertion := f.One("client_id"), f.One("client_secret"), f.One("client_assertion")
	methods := len(authorization)
	for _, sent := range [...]string{secret, assertion} {
		if sent != "" {
			methods++
		}
	}
	if methods > 1 { // RFC 6749, section 2.3
		return refuse(codeRequest, textMethods)
	}
	var p proof
	switch {
	case len(authorization) == 1:
		p = s.basic(ctx, q, authorization[0], id)
	case secret != "":
		p = s.secret(ctx, q, id, secret, methodPost)
	case assertion != "":
		p = s.assertion(ctx, q, f.One("client_assertion_type"), assertion, id)
	default:
		p = svid(q, id)
	}
	if p.client != nil && p.client.Disabled {
		p.client, p.detail = nil, detailDisabled
	}
	if p.client == nil {
		return s.unproven(q, p)
	}
	q.rec.ClientID, q.rec.Auth = p.client.ClientID, authOf(p.method)
	*c = caller{client: p.client, method: p.method, source: q.source, world: q.world, now: q.now}
	if q.proven() {
		c.peer, c.leaf, c.notAfter = &q.peer, q.peer.Fingerprint, q.peer.NotAfter
	} else if leaf := leafOf(q); leaf != nil && !q.now.Before(leaf.NotBefore) && !q.now.After(leaf.NotAfter) {
		c.leaf, c.notAfter = sha256.Sum256(leaf.Raw), leaf.NotAfter
	}
	return nil
}

func leafOf(q *request) *x509.Certificate {
	if q.r.TLS == nil || len(q.r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return q.r.TLS.PeerCertificates[0]
}

// unproven is the answer to every failure. What was tried counts against its source and the
// client it named, known or not; beyond their limits what fails learns only that.
func (s *Service) unproven(q *request, p proof) *fault {
	if known := q.world.Directory.Client(p.id); known != nil {
		q.rec.ClaimedID = known.ClientID
	}
	if p.fault != nil {
		return p.fault
	}
	if !p.free {
		source := s.limits.failedSource.take(q.key, q.now)
		client := s.limits.failedClient.take(s.limits.key(p.id), q.now)
		if !source || !client {
			return busy().because(reasonRate, p.detail)
		}
	}
	return refuse(codeClient, textAuth).because("", p.detail)
}

// authOf is the method in the words of records (audit.md 2.2, auth).
func authOf(method string) string {
	switch method {
	case methodSPIFFE:
		return "mtls"
	case methodBasic, methodPost:
		return "client_secret"
	}
	return method
}

// svid is spiffe_x509 (tokens.md 5.3): the connection is the credential.
func svid(q *request, id string) proof {
	p := proof{method: methodSPIFFE, id: id}
	switch {
	case !q.proven():
		p.detail, p.free = q.peerFail, q.peerFail == ""
		if p.free {
			p.detail = detailMethod
		}
		return p
	case id == "": // draft spiffe-client-auth, section 3.2
		p.detail = detailUnknown
		return p
	}
	peer := q.peer.ID.String()
	if id == peer {
		id = peer // a string of its own: the form's would keep the whole form in records
	}
	c := q.world.Directory.ClientFor(id, peer)
	if c == nil && id == peer {
		c = q.world.gatewayClient(peer, q.peer.Namespace)
	}
	switch {
	case c == nil:
		p.detail = detailUnknown
	case c.Auth != grant.AuthSPIFFE:
		p.detail = detailMethod
	case q.peer.ID.TrustDomain() != q.world.Trust.Own() && c.SPIFFEID != peer:
		p.detail = detailUnknown // another trust domain is believed for exactly the IDs of records
	default:
		p.client = c
	}
	return p
}

// basic is client_secret_basic (RFC 6749, section 2.3.1; tokens.md 5.7).
func (s *Service) basic(ctx context.Context, q *request, header, id string) proof {
	user, secret, ok := parseBasic(header)
	switch {
	case !ok:
		return proof{method: methodBasic, detail: detailMethod, id: id}
	case secret == "": // how Go's x/oauth2 finds out what a server wants
		return proof{method: methodBasic, detail: detailSecret, id: user, free: true}
	case id != "" && id != user:
		return proof{method: methodBasic, detail: detailUnknown, id: user}
	}
	return s.secret(ctx, q, user, secret, methodBasic)
}

// parseBasic reads Basic credentials. It splits at the last colon, since secrets hold none and
// some clients send ids with colons as they are; then both parts are decoded as in a form.
func parseBasic(header string) (user, secret string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") || len(encoded) > 2*maxValue {
		return "", "", false
	}
	plain, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	text := string(plain)
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return "", "", false
	}
	user, ok = unescape(text[:at])
	if !ok || user == "" {
		return "", "", false
	}
	secret, ok = unescape(text[at+1:])
	return user, secret, ok
}
