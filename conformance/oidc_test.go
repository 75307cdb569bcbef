package conformance

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// coreos/go-oidc as a resource server: discovery, the audience as ClientID, a rotated key.
func TestGoOIDC(t *testing.T) {
	m := startMesh(t, resources+secretClient)
	ctx := oidc.ClientContext(context.WithValue(t.Context(), oauth2.HTTPClient, m.client(t)), m.client(t))
	ci := clientcredentials.Config{ClientID: "ci", ClientSecret: m.secret(t, "ci"), TokenURL: m.issuer + "/oauth2/token", EndpointParams: url.Values{"audience": {reports}}}
	issue := func() string {
		token, err := ci.Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return token.AccessToken
	}
	issuer, err := oidc.NewProvider(ctx, m.issuer)
	if err != nil {
		t.Fatal(err)
	}
	verifier := issuer.Verifier(&oidc.Config{ClientID: reports})
	first := issue()
	token, err := verifier.Verify(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	if token.Issuer != m.issuer || token.Subject != "ci" {
		t.Errorf("got %+v", token)
	}
	m.countersign(t, "token", "rotate", "--now")
	second := issue()
	if header(first) == header(second) {
		t.Fatal("the key did not change")
	}
	for _, raw := range []string{first, second} {
		if _, err := verifier.Verify(ctx, raw); err != nil {
			t.Errorf("after the rotation: %v", err)
		}
	}
	if _, err := issuer.Verifier(&oidc.Config{ClientID: archive}).Verify(ctx, first); err == nil || !strings.Contains(err.Error(), "audience") {
		t.Errorf("of another audience: %v", err)
	}
	if _, err := verifier.Verify(ctx, tampered(first)); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("tampered: %v", err)
	}
}

// header is the first part of a token, in which the key is named.
func header(raw string) string {
	h, _, _ := strings.Cut(raw, ".")
	return h
}

// tampered has another signature: its first character is one that stands for other bits.
func tampered(raw string) string {
	at := strings.LastIndexByte(raw, '.') + 1
	c := "A"
	if raw[at] == 'A' {
		c = "B"
	}
	return raw[:at] + c + raw[at+1:]
}
