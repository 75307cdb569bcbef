package policy

import (
	"net/http"
	"strings"
)

// The pools of tokens, headers and conditions.
var (
	poolIssuers  = []any{"https://id", "https://id/a", "idp", "", "a\nb", "https://partner.com", nil}
	poolSubjects = []any{"u1", "u2", "a/b", "", "*", "u\n1", "xu1", nil}
	poolPairPats = []string{
		"*", "https://id/u1", "https://id/*", "*/u1", "*/*", "idp", "u1", "*u1", "idp*", "https://id/u*", "https://id/a/b",
		"*.com/u1", "**/u1", "https://id/", "https://id/**", "https://id*", "*/", "/u1", "",
	}
	poolClaims = []any{
		"admin", "user", "a b", "a\nb", "\n", "", "orders:read", "3", 3.0, true, nil,
		[]any{}, []any{"user", "admin"}, []any{"", 3.0, nil}, []any{"x\ny", "admin"}, []any{[]any{"admin"}},
		map[string]any{"roles": []any{"admin"}, "a.b": "user"}, map[string]any{"roles": map[string]any{"deep": "admin"}},
	}
	poolTextPats = []string{"*", "admin", "user", "a*", "*n", "orders:*", "3", "true", "**", "a b", "u1", "*b", ""}
	poolKeys     = []string{
		"source.namespace", "source.serviceAccount", "source.principal", "destination.port",
		"request.auth.principal", "request.auth.audiences", "request.auth.presenter", "request.auth.actors",
		"request.auth.claims[role]", "request.auth.claims[scope]", "request.auth.claims[realm][roles]", "request.auth.claims[realm.roles]",
		"request.auth.claims[realm][a.b]", "request.auth.claims[realm][roles][deep]", "request.auth.claims[iss]", "request.auth.claims[sub]",
		"request.headers[:method]", "request.headers[:authority]", "request.headers[host]", "request.headers[:scheme]", "request.headers[:path]",
		"request.headers[x-request-id]", "request.headers[X-Forwarded-Proto]", "request.headers[upgrade]", "request.headers[cookie]",
		"request.headers[x-tier]", "request.headers[X-Tier]", "request.headers[user-agent]", "request.headers[authorization]",
		"request.headers[accept]", "request.headers[x-forwarded-for]",
	}
	// poolBadKeys are refused by package resource: E212, E301, E307.
	poolBadKeys = []string{
		"source.ip", "remote.ip", "destination.ip", "connection.sni", "source.trustDomain", "request.txn[a]", "request.auth.claims",
		"request.auth.claims[a]b", "request.auth.claims[]", "request.headers[]", "request.headers[x-tier", "request.headersX[a]",
		"request.headers[connection]", "request.headers[te]", "request.headers[X-Forwarded-Client-Cert]", "request.headers[x_envoy_a]",
		"request.headers[expect]", "request.headers[authorization_]", "request.headers[x-countersign-a]", "destination.name", "",
		"request.headers[a b]", "request.auth.claims[[a]]", "request.headers[content-length]", "request.headers[txn.token]", "request.headers[co_okie]",
		"request.headers[cookie][a]", "request.headers[authoriza.tion]", "request.headers[x.api.key]", "request.headers[:status]",
	}
	poolHeaderNames = []string{"X-Tier", "X-Tier", "Cookie", "User-Agent", "X-Request-Id", "X-Forwarded-Proto", "Authorization", "Accept", "X-Forwarded-For", "Upgrade"}
	poolLines       = []string{"gold", "evil", "", "http", "https", "a=1", "b=2", "admin", "a", "b", "websocket", "gold,evil", "a=1; b=2"}
	poolHeaderPats  = []string{
		"*", "gold", "gold*", "*evil", "gold,evil", "evil,gold", "gold,*", "*,evil", "*,", "a=1; b=2", "a=1;*", "*; b=2", "http", "https", "http*", "*s",
		"websocket", "a,b", "a*", "**", "5*", "*7", "5e1f", "ol*", "",
	}
	poolTargetPats = []string{"*", "/v1", "/v1*", "/v1/?*", "/v1?", "/v1?b=1&a=%2f", "*a=%2f", "/?*", "*?", "/", "/v1/secret?*", "*b=1", "/v1?b=1*", "*1?b=1", "/v1?a=/&b=1", "/**"}
	poolQueries    = []string{"", "b=1&a=%2f", "b=1", "access_token=x", "?", "a=1?b=1"}
)

// condition draws one key, mostly with values that can meet it.
func (m maker) condition() Condition {
	key := pick(m, poolKeys)
	if !m.clean && m.IntN(6) == 0 {
		key = pick(m, poolBadKeys)
	}
	pool := poolTextPats
	switch {
	case key == "source.namespace":
		pool = poolNamespaces
	case key == "source.serviceAccount":
		pool = poolAccounts
	case key == "source.principal":
		pool = poolPrincipals
	case key == "destination.port":
		pool = poolPortPats
	case key == "request.auth.principal":
		pool = poolPairPats
	case key == "request.headers[:method]":
		pool = poolMethodPats
	case key == "request.headers[:authority]", key == "request.headers[host]":
		pool = poolHostPats
	case key == "request.headers[:path]":
		pool = poolTargetPats
	case strings.HasPrefix(key, "request.headers"):
		pool = poolHeaderPats
	}
	w := Condition{Key: key, Values: m.some(pool, 1)}
	if m.IntN(3) == 0 {
		w = Condition{Key: key, NotValues: m.some(pool, 1)}
	} else if m.IntN(8) == 0 {
		w.NotValues = m.some(pool, 1)
	}
	return w
}

func (m maker) card() *card {
	claims := map[string]any{}
	put := func(name string, v any) {
		if v != nil {
			claims[name] = v
		}
	}
	put("iss", pick(m, poolIssuers))
	put("sub", pick(m, poolSubjects))
	for _, name := range []string{"role", "realm", "scope"} {
		put(name, pick(m, poolClaims))
	}
	claims["realm.roles"] = "user"
	put("aud", pick(m, []any{nil, "user", []any{"user", "admin"}, []any{}, "a\nb"}))
	put("azp", pick(m, []any{nil, "admin", ""}))
	own := m.IntN(3) == 0
	if own {
		put("oiss", pick(m, poolIssuers))
		put("osub", pick(m, poolSubjects))
		put("client_id", pick(m, []any{nil, "user"}))
		put("act", pick(m, []any{nil, map[string]any{"sub": "user"}, map[string]any{"sub": "x", "act": map[string]any{"sub": "admin"}}, "x"}))
	}
	return newCard(claims, own)
}

// describe gives a request what conditions look at.
func (m maker) describe(r *Request) {
	if m.IntN(3) > 0 {
		r.Token = m.card()
	}
	header := http.Header{}
	for range m.IntN(4) {
		for name := pick(m, poolHeaderNames); m.IntN(2) == 0 || header[name] == nil; {
			header.Add(name, pick(m, poolLines))
		}
	}
	r.Header = header
	r.Scheme = pick(m, []string{"http", "https"})
	if r.HTTP2 = m.IntN(2) == 0; r.HTTP2 || m.IntN(4) == 0 {
		r.ClaimedScheme = pick(m, []string{"http", "https"})
	}
	if m.IntN(2) == 0 {
		r.Query, r.HasQuery = pick(m, poolQueries), true
	}
	r.QueryCut = m.IntN(5) == 0
	r.WebSocket = m.IntN(4) == 0
}
