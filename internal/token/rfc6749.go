package token

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
)

// The paths, behind that of the issuer.
const (
	pathToken      = "/oauth2/token"
	pathIntrospect = "/oauth2/introspect"
	pathRevoke     = "/oauth2/revoke"
	pathJWKS       = "/oauth2/jwks"
	pathOAuth      = "/.well-known/oauth-authorization-server"
	pathOIDC       = "/.well-known/openid-configuration"
)

// The reasons of records that are not an error code.
const (
	reasonRate        = "rate"
	reasonConcurrency = "concurrency"
)

// endpoint is a document that everybody may read, or what an authenticated client may ask.
type endpoint struct {
	document func(*World) *document
	answer   func(context.Context, *caller, *form, *audit.Record) (any, *fault)
	limit    func(*form) *limit
}

func (s *Service) endpoints() map[string]*endpoint {
	often := func(*form) *limit { return &s.limits.client }
	return map[string]*endpoint{
		s.path + pathToken: {answer: s.token, limit: func(f *form) *limit {
			if f.One("grant_type") == grant.GrantTokenExchange {
				return &s.limits.exchange // made by its node, they grow with its users
			}
			return &s.limits.client
		}},
		s.path + pathIntrospect: {answer: s.introspect, limit: func(*form) *limit { return &s.limits.introspect }},
		s.path + pathRevoke: {answer: func(ctx context.Context, c *caller, f *form, rec *audit.Record) (any, *fault) {
			return nil, s.revoke(ctx, c, f, rec)
		}, limit: often},
		s.path + pathJWKS:  {document: s.jwks},
		pathOAuth + s.path: {document: s.oauthMetadata}, // RFC 8414, section 3.1: the path comes last
		s.path + pathOIDC:  {document: s.oidcMetadata},  // OIDC Discovery, section 4: it comes first
	}
}

// request is one request on its way through the steps of tokens.md 3.
type request struct {
	w      http.ResponseWriter
	r      *http.Request
	now    time.Time
	world  *World
	source string
	key    uint64 // of the source, in the limits
	rec    *audit.Record

	// Made once with the request: what it says, who asks, and the values of header fields.
	form   form
	caller caller
	values [4]string

	peer     identity.Peer // what the connection proves now; without ID: nothing
	peerFail string        // why not
}

func (q *request) proven() bool { return !q.peer.ID.IsZero() }

// receive judges the connection anew: keep-alive and resumption outlive certificates.
func (s *Service) receive(w http.ResponseWriter, r *http.Request) *request {
	q := &request{w: w, r: r, now: s.o.Now(), world: s.o.World()}
	seq := s.o.Records.Next()
	q.rec = &audit.Record{
		Kind: audit.KindIssue, Seq: seq, ID: s.o.Records.ID(seq), Time: q.now, Layer: audit.LayerIssue,
		Side: audit.SideServer, Method: first(r.Method, maxMethod), Host: first(r.Host, maxHost), Subject: &audit.Subject{},
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		q.rec.SrcIP, q.rec.SrcPort = from.Addr().Unmap(), from.Port()
	}
	if r.TLS != nil {
		q.rec.TLSVersion, q.rec.TLSGroup, q.rec.TLSSuite = r.TLS.Version, uint16(r.TLS.CurveID), r.TLS.CipherSuite
		q.rec.ALPN, q.rec.SNI = r.TLS.NegotiatedProtocol, r.TLS.ServerName
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		peer, err := identity.PeerOf(*r.TLS, q.world.Trust, q.now)
		if err != nil {
			q.peerFail = identity.Reason(err)
		} else {
			q.peer = peer
			q.source = peer.ID.String()
			q.rec.PeerID, q.rec.PeerSerial = q.source, peer.Serial
			copy(q.rec.PeerFP[:], peer.Fingerprint[:])
		}
	}
	if !q.proven() {
		q.source = s.sourceOf(r, q.rec.SrcIP)
	}
	q.key = s.limits.key(q.source)
	return q
}

// What records keep of what strangers chose, in bytes.
const (
	maxMethod = 32
	maxHost   = 261
)

func first(s string, n int) string { return s[:min(len(s), n)] }

// sourceOf is an address as the limits count it: on loopback who holds the socket, and whoever
// has one of IPv6 has 2⁶⁴.
func (s *Service) sourceOf(r *http.Request, a netip.Addr) string {
	if a.IsLoopback() && s.o.PeerOf != nil {
		if name := s.o.PeerOf(r); name != "" {
			return name
		}
	}
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	q := s.receive(w, r)
	q.values = [...]string{q.rec.ID, "no-store", "no-cache", "application/json"}
	w.Header()["X-Request-Id"] = q.values[0:1:1]
	if r.TransferEncoding != nil { // it may have had a length too: nothing behind it is read (RFC 9112, section 6.1)
		w.Header().Set("Connection", "close")
	}
	if q.proven() {
		// Of the mesh, the policies of this service's own namespace come first (tokens.md 6).
		if q.world.Allow == nil {
			s.forbid(q, policy.Verdict{})
			return
		}
		if v := q.world.Allow(q.peer, r); !v.Allow {
			s.forbid(q, v)
			return
		}
	}
	e := s.routes[r.URL.Path]
	switch {
	case e == nil:
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNotFound)
	case e.document != nil:
		q.rec.Path = r.URL.Path
		s.show(q, e)
	default:
		q.rec.Path = r.URL.Path
		s.post(q, e)
	}
}

func (s *Service) show(q *request, e *endpoint) {
	if q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		s.refuse(q, &fault{code: codeRequest, text: textMalformed, status: http.StatusMethodNotAllowed, allow: "GET, HEAD"})
		return
	}
	if !s.limits.stranger.take(q.key, q.now) {
		s.refuse(q, busy())
		return
	}
	d := e.document(q.world)
	if d == nil {
		s.refuse(q, refuse(codeServer, ""))
		return
	}
	d.show(q.w, q.r)
}

// post is the order of tokens.md 3 for every endpoint that a client asks. The limit of the
// source is taken from what fails: a correct credential is never limited by others' failures.
func (s *Service) post(q *request, e *endpoint) {
	ctx := q.r.Context()
	f, c := &q.form, &q.caller
	if fault := readForm(f, q.w, q.r); fault != nil {
		s.refuseStranger(q, fault)
		return
	}
	fault := s.authenticate(ctx, q, f, c)
	if fault != nil {
		s.refuseStranger(q, fault)
		return
	}
	if !e.limit(f).take(s.limits.key(c.client.ClientID), q.now) {
		s.refuse(q, busy())
		return
	}
	body, fault := e.answer(ctx, c, f, q.rec)
	if fault != nil {
		s.refuse(q, fault)
		return
	}
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			s.refuse(q, refuse(codeServer, ""))
			return
		}
	}
	q.send(http.StatusOK, text)
}

// token is the token endpoint: it leads to the grant.
func (s *Service) token(ctx context.Context, c *caller, f *form, rec *audit.Record) (any, *fault) {
	switch f.One("grant_type") {
	case grant.GrantClientCredentials:
		a, fault := s.clientCredentials(ctx, c, f, rec)
		return a, fault
	case grant.GrantTokenExchange:
		a, fault := s.exchange(ctx, c, f, rec)
		return a, fault
	case "":
		return nil, refuse(codeRequest, textMalformed)
	}
	return nil, refuse(codeGrantType, "")
}

// clientCredentials is the grant of RFC 6749, section 4.4: a client for itself.
func (s *Service) clientCredentials(ctx context.Context, c *caller, f *form, rec *audit.Record) (*answer, *fault) {
	rec.Grant = grant.GrantClientCredentials
	if !c.client.May(grant.GrantClientCredentials) {
		return nil, refuse(codeUnauth, textGrant)
	}
	target, err := c.world.Directory.Resolve(c.client, f.All("audience"), f.All("resource"))
	if err != nil {
		return nil, refused(err)
	}
	rec.Audience = target.Canonical
	scopes, err := c.world.Directory.Scopes(c.client, target, f.Scopes())
	if err != nil {
		return nil, refused(err)
	}
	return s.mint(ctx, c, &issue{
		grant: grant.GrantClientCredentials, subject: c.client.ClientID, target: target, scopes: scopes,
		mayAct: c.client.MayAct,
	}, rec)
}

// send answers with JSON, or with nothing (RFC 6749, section 5.1).
func (q *request) send(status int, body []byte) {
	h := q.w.Header()
	h["Cache-Control"], h["Pragma"] = q.values[1:2:2], q.values[2:3:3]
	if body != nil {
		h["Content-Type"] = q.values[3:4:4]
	}
	q.w.WriteHeader(status)
	_, _ = q.w.Write(body) // whoever does not read its answer has none
}

// refuseStranger refuses a request that nobody proved: it costs the source, and when that has
// nothing left, all that it learns is that.
func (s *Service) refuseStranger(q *request, f *fault) {
	if !s.limits.stranger.take(q.key, q.now) {
		f = busy()
	}
	s.refuse(q, f)
}

// refuse records the fault, then answers it in OAuth's own form.
func (s *Service) refuse(q *request, f *fault) {
	rec, status := q.rec, f.statusOf()
	rec.Status, rec.Detail, rec.Reason, rec.Decision = status, f.detail, f.reason, audit.Deny
	if rec.Reason == "" {
		rec.Reason = f.code
	}
	switch {
	case status == http.StatusTooManyRequests || f.reason == reasonConcurrency:
		rec.Decision, rec.Layer = audit.Limited, audit.LayerLimit
	case status >= http.StatusInternalServerError:
		rec.Decision = audit.Failed
	}
	s.o.Records.Add(rec)

	h := q.w.Header()
	if f.allow != "" {
		h.Set("Allow", f.allow)
	}
	if f.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(f.retry))
	}
	if f.code == codeClient && len(q.r.Header["Authorization"]) > 0 {
		h.Set("WWW-Authenticate", `Basic realm="`+s.o.Issuer+`"`)
	}
	body := `{"error":"` + f.code + `"}`
	if f.text != "" {
		body = `{"error":"` + f.code + `","error_description":"` + f.text + `"}`
	}
	q.send(status, []byte(body))
}

// forbid answers as the mesh does: a policy shut this peer out.
func (s *Service) forbid(q *request, v policy.Verdict) {
	rec := q.rec
	rec.Decision, rec.Layer, rec.Reason, rec.Status = audit.Deny, audit.LayerAuthz, v.Reason, http.StatusForbidden
	rec.Policy, rec.Rule, rec.Path = v.Policy, v.Rule+1, q.r.URL.Path
	s.o.Records.Add(rec)
	h := q.w.Header()
	h.Set("X-Decision-Id", rec.ID)
	h.Set("Content-Type", "text/plain")
	h.Set("Cache-Control", "no-store")
	q.w.WriteHeader(http.StatusForbidden)
	_, _ = q.w.Write([]byte("RBAC: access denied"))
}
