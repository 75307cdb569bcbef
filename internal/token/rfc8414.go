package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
)

// maxJWKS is the longest key set that readers elsewhere take (tokens.md 10.2).
const maxJWKS = 64 << 10

// document is a body that is the same for everybody.
type document struct {
	body []byte
	etag string
}

func newDocument(body []byte) *document {
	sum := sha256.Sum256(body)
	return &document{body: body, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`}
}

// documents are the metadata of one World, keyDocument the JWKS of one set.
type documents struct {
	of          *World
	oauth, oidc *document
}

type keyDocument struct {
	of *jose.Set
	*document
}

// show answers with a document: the same bytes until the configuration changes.
func (d *document) show(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("ETag", d.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
}

// metadata is the document of RFC 8414 (tokens.md 11.1): what is enabled, and nothing else.
type metadata struct {
	Issuer                string   `json:"issuer"`
	Token                 string   `json:"token_endpoint"`
	JWKS                  string   `json:"jwks_uri"`
	Introspection         string   `json:"introspection_endpoint"`
	Revocation            string   `json:"revocation_endpoint"`
	Grants                []string `json:"grant_types_supported"`
	Responses             []string `json:"response_types_supported"`
	TokenAuth             []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectionAuth     []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAuthAlgs []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	RevocationAuth        []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs    []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	CertificateBound      bool     `json:"tls_client_certificate_bound_access_tokens,omitempty"`
	MTLS                  *aliases `json:"mtls_endpoint_aliases,omitempty"`
	Scopes                []string `json:"scopes_supported,omitempty"`
	Resources             []string `json:"protected_resources,omitempty"`
	PAR                   bool     `json:"require_pushed_authorization_requests"`
	Request               bool     `json:"request_parameter_supported"`
	RequestURI            bool     `json:"request_uri_parameter_supported"`
}

// aliases are the endpoints on the mTLS port (RFC 8705, section 5).
type aliases struct {
	Token         string `json:"token_endpoint"`
	Introspection string `json:"introspection_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
}

// discovery is the document of OIDC Discovery (tokens.md 11.2): JWT libraries look for jwks_uri
// only here.
type discovery struct {
	metadata
	Subjects      []string `json:"subject_types_supported"`
	IDTokenAlgs   []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
	ClaimsParam   bool     `json:"claims_parameter_supported"`
	BackchannelLO bool     `json:"backchannel_logout_supported"`
}

func (s *Service) describe(w *World) metadata {
	methods := []string{methodAssertion, methodBasic, methodPost}
	m := metadata{
		Issuer: s.o.Issuer, Token: s.o.Issuer + pathToken, JWKS: s.o.Issuer + pathJWKS,
		Introspection: s.o.Issuer + pathIntrospect, Revocation: s.o.Issuer + pathRevoke,
		Grants:    []string{grant.GrantClientCredentials, grant.GrantTokenExchange},
		Responses: []string{}, // nobody signs in here, but the member must be there
		Scopes:    w.Directory.PublicScopes(), Resources: w.Directory.Resources(),
	}
	if s.o.MTLS != "" {
		methods = append([]string{methodSPIFFE}, methods...)
		m.CertificateBound = true
		base := s.o.MTLS + s.path
		m.MTLS = &aliases{base + pathToken, base + pathIntrospect, base + pathRevoke}
	}
	algs := assertionAlgs(w)
	m.TokenAuth, m.IntrospectionAuth, m.RevocationAuth = methods, methods, methods
	m.TokenAuthAlgs, m.IntrospectionAuthAlgs, m.RevocationAuthAlgs = algs, algs, algs
	return m
}

// assertionAlgs are those that any client may sign with: RS256 only if one lists it.
func assertionAlgs(w *World) []string {
	algs := slices.Clone(defaultAssertionAlgs)
	for id := range w.ClientKeys {
		if c := w.Directory.Client(id); c != nil && c.Auth == grant.AuthPrivateKeyJWT {
			algs = append(algs, c.AssertionAlgs...)
		}
	}
	slices.Sort(algs)
	return slices.Compact(algs)
}

func (s *Service) metadataOf(w *World) (*documents, error) {
	if d := s.documents.Load(); d != nil && d.of == w {
		return d, nil
	}
	m := s.describe(w)
	oauth, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	oidc, err := json.Marshal(discovery{
		metadata: m, Subjects: []string{"public"}, IDTokenAlgs: []string{string(jose.ES256)},
		Claims: []string{"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "cnf", "act"},
	})
	if err != nil {
		return nil, err
	}
	d := &documents{of: w, oauth: newDocument(oauth), oidc: newDocument(oidc)}
	s.documents.Store(d)
	return d, nil
}

func (s *Service) oauthMetadata(w *World) *document {
	d, err := s.metadataOf(w)
	if err != nil {
		return nil
	}
	return d.oauth
}

func (s *Service) oidcMetadata(w *World) *document {
	d, err := s.metadataOf(w)
	if err != nil {
		return nil
	}
	return d.oidc
}

func (s *Service) jwks(*World) *document {
	set := s.o.Keys()
	if set == nil {
		return nil
	}
	if d := s.keys.Load(); d != nil && d.of == set {
		return d.document
	}
	body, err := set.MarshalJSON()
	if err != nil || len(body) > maxJWKS {
		return nil
	}
	d := &keyDocument{of: set, document: newDocument(body)}
	s.keys.Store(d)
	return d.document
}
