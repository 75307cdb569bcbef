//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// revokeAll measures, over and over, how long a token is taken after the call that revoked it
// has returned: until the first refusal is here. The proxy has the token verified and cached,
// for it was called with before.
func revokeAll(ctx context.Context, o order) (tally, error) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}
	m := &mesh{ctx: ctx, client: c, id: strings.TrimPrefix(o.Want, "URI=")}
	var t tally
	var took []time.Duration
	for range o.Revoke {
		late, err := m.revokeOne(o.Audience)
		if err != nil {
			t.Failed, t.First = 1, err.Error()
			return t, nil
		}
		took = append(took, late)
	}
	slices.Sort(took)
	t.Requests, t.P50, t.P99 = int64(len(took)), took[len(took)/2], took[len(took)*99/100]
	return t, nil
}

// mesh is what a program of a run reaches through its proxy.
type mesh struct {
	ctx    context.Context
	client *http.Client
	id     string
}

func (m *mesh) revokeOne(audience string) (time.Duration, error) {
	status, body, err := m.post("token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.id}, "audience": {audience}})
	if err != nil {
		return 0, err
	}
	token, err := tokenIn(status, body)
	if err != nil {
		return 0, err
	}
	if status, err = m.call(token); err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("a fresh token was answered with %d: %w", status, err)
	}
	if status, body, err = m.post("revoke", url.Values{"client_id": {m.id}, "token": {token}}); err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("revoking was answered with %d %.200q: %w", status, body, err)
	}
	for revoked := time.Now(); ; {
		status, err := m.call(token)
		late := time.Since(revoked)
		switch {
		case err != nil:
			return 0, err
		case status == http.StatusUnauthorized:
			return late, nil
		case status != http.StatusOK:
			return 0, fmt.Errorf("a revoked token was answered with %d", status)
		case late > 10*time.Second:
			return 0, errors.New("a revoked token is taken for ever")
		}
	}
}

func (m *mesh) post(path string, form url.Values) (int, []byte, error) {
	req, err := http.NewRequestWithContext(m.ctx, "POST", "http://tokens.countersign/oauth2/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return m.do(req)
}

// call calls api with a token and gives the status.
func (m *mesh) call(token string) (int, error) {
	req, err := http.NewRequestWithContext(m.ctx, "GET", "http://api/orders/17", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	status, _, err := m.do(req)
	return status, err
}

func (m *mesh) do(req *http.Request) (int, []byte, error) {
	res, err := m.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}
