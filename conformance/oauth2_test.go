package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// exchanges keeps what went over the wire: the client authentication and the status.
type exchanges struct {
	next http.RoundTripper
	seen []string
}

func (e *exchanges) RoundTrip(r *http.Request) (*http.Response, error) {
	how := "body"
	if id, secret, ok := r.BasicAuth(); ok {
		how = "basic"
		if id != "" && secret == "" {
			how = "basic without password"
		}
	}
	resp, err := e.next.RoundTrip(r)
	if err == nil {
		e.seen = append(e.seen, how+": "+resp.Status)
	}
	return resp, err
}

// golang.org/x/oauth2/clientcredentials: every style of client authentication that it has.
func TestGoOAuth2(t *testing.T) {
	m := startMesh(t, resources+secretClient)
	secret, id := m.secret(t, "ci"), m.svid(t, "web")
	svid, err := tls.LoadX509KeyPair(m.path("svid.pem"), m.path("svid.key"))
	if err != nil {
		t.Fatal(err)
	}
	ci := clientcredentials.Config{ClientID: "ci", ClientSecret: secret, TokenURL: m.issuer + "/oauth2/token", Scopes: []string{"reports:read"}, EndpointParams: url.Values{"audience": {reports}}}
	web := clientcredentials.Config{ClientID: id, TokenURL: m.mtls + "/oauth2/token", EndpointParams: url.Values{"audience": {archive}}}
	for _, tt := range []struct {
		name  string
		as    clientcredentials.Config
		style oauth2.AuthStyle
		certs []tls.Certificate
		want  []string // on the wire
	}{
		{"SecretBasic", ci, oauth2.AuthStyleInHeader, nil, []string{"basic: 200 OK"}},
		{"SecretPost", ci, oauth2.AuthStyleInParams, nil, []string{"body: 200 OK"}},
		{"SecretAutomatic", ci, oauth2.AuthStyleAutoDetect, nil, []string{"basic: 200 OK"}},
		{"SVIDInParams", web, oauth2.AuthStyleInParams, []tls.Certificate{svid}, []string{"body: 200 OK"}},
		{"SVIDAutomatic", web, oauth2.AuthStyleAutoDetect, []tls.Certificate{svid}, []string{"basic without password: 401 Unauthorized", "body: 200 OK"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := m.client(t, tt.certs...)
			wire := &exchanges{next: client.Transport}
			client.Transport = wire
			tt.as.AuthStyle = tt.style
			token, err := tt.as.Token(context.WithValue(t.Context(), oauth2.HTTPClient, client))
			if err != nil {
				t.Fatalf("%v, after %q", err, wire.seen)
			}
			if !slices.Equal(wire.seen, tt.want) {
				t.Errorf("on the wire: %q, want %q", wire.seen, tt.want)
			}
			if token.TokenType != "Bearer" || !token.Valid() {
				t.Errorf("got %+v", token)
			}
			if scope, _ := token.Extra("scope").(string); len(tt.certs) == 0 && scope != "reports:read" {
				t.Errorf("scope %q", scope)
			}
		})
	}
	t.Run("WrongSecret", func(t *testing.T) {
		ci := ci
		ci.ClientSecret = "css_wrong"
		_, err := ci.Token(context.WithValue(t.Context(), oauth2.HTTPClient, m.client(t)))
		if refused, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refused.ErrorCode != "invalid_client" || refused.Response.StatusCode != http.StatusUnauthorized {
			t.Errorf("got %v", err)
		}
	})
}
