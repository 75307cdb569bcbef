package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
)

const (
	reports = "https://reports.example" // bearer tokens, at+jwt
	archive = "https://archive.example" // bound tokens alone
	legacy  = "https://legacy.example"  // bearer tokens, typ JWT
)

const resources = `
apiVersion: countersign.dev/v1
kind: OAuthResource
metadata: {name: reports}
spec: {audience: https://reports.example, scopes: [{name: reports:read}, {name: reports:write}], allowBearer: true}
---
apiVersion: countersign.dev/v1
kind: OAuthResource
metadata: {name: archive}
spec: {audience: https://archive.example}
---
apiVersion: countersign.dev/v1
kind: OAuthResource
metadata: {name: legacy}
spec: {audience: https://legacy.example, allowBearer: true, typ: JWT}
`

// secretClient is a client with a secret that may narrow its own tokens by exchange.
const secretClient = `
---
apiVersion: countersign.dev/v1
kind: OAuthClient
metadata: {name: ci}
spec:
  auth: client_secret
  grants: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
  targets:
  - {audience: https://reports.example, scopes: [reports:read, reports:write], defaultScopes: [reports:read], exchange: true}
  - {audience: https://legacy.example}
`

// keyClient is a client with a key; more are further fields of its spec.
func keyClient(name, jwk, more string) string {
	return fmt.Sprintf(`
---
apiVersion: countersign.dev/v1
kind: OAuthClient
metadata: {name: %s}
spec:
  auth: private_key_jwt
  jwks: {keys: [%s]}
  targets: [{audience: https://reports.example, scopes: [reports:read], defaultScopes: [reports:read]}]
%s`, name, jwk, more)
}

// ecKey is a new P-256 key: PKCS #8 in PEM, and its public JWK.
func ecKey(t *testing.T) (private, jwk string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key), fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"1","alg":"ES256","use":"sig","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:]))
}

// rsaKey is a new RSA key for RS256.
func rsaKey(t *testing.T) (private, jwk string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key), fmt.Sprintf(`{"kty":"RSA","kid":"1","alg":"RS256","use":"sig","n":%q,"e":%q}`, b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes()))
}

func pkcs8(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
