package node

import (
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/audit"
)

// Every refusal at a door is explained, and has a way out that can be pasted: what a stranger said stands in quotes.
func TestWhyDoor(t *testing.T) {
	m := newMesh(t)
	const tls13 = 0x0304
	for _, tc := range []struct {
		rec        audit.Record
		line, hint string
	}{
		{audit.Record{Layer: "tls", Reason: "unrecognized_name", SNI: "x.test"}, `no listener shows a certificate for server name "x.test"`, "countersign get gateway edge -n shop -o yaml"},
		{audit.Record{Layer: "tls", Reason: "unrecognized_name"}, "the client named no server, and no listener of the port is for any", "countersign get gateway edge -n shop -o yaml"},
		{audit.Record{Layer: "tls", Reason: "expired"}, "its certificate has ended", "countersign get gateway edge -n shop -o yaml"},
		{audit.Record{Layer: "route", Reason: "no_route", Host: "a.test", Port: 80}, `no listener of Gateway edge on port 80 is for host "a.test"`, "countersign route list"},
		{audit.Record{Layer: "route", Reason: "no_route", Listener: "l", Method: "GET", Host: "a.test", Port: 8443, Path: "/x'y;z", TLSVersion: tls13, SNI: "a.test"}, "no rule of Gateway edge takes it", `countersign route test GET 'https://a.test:8443/x'\''y;z'`},
		{audit.Record{Layer: "http", Reason: "authority_mismatch", Status: 421, Method: "GET", Host: "b.test", Port: 8443, Path: "/", TLSVersion: tls13, SNI: "a.test"}, `the connection was opened for server name "a.test", and host "b.test" is another listener's`, "countersign route test GET https://b.test:8443/ --sni a.test"},
		{audit.Record{Layer: "http", Reason: "bad_path", Status: 400, Listener: "l", Host: "a.test:8443"}, "its path, or what a rewrite would make of it, can be read in two ways", "countersign route show a.test"},
		{audit.Record{Layer: "http", Reason: "upgrade_refused", Status: 403, RouteRule: "shop/r#0"}, "WebSocket is kept out by countersign.dev/websocket: deny", "countersign get httproute r -n shop -o yaml"},
		{audit.Record{Layer: "http", Reason: "too_large", Status: 413, RouteRule: "shop/r#0"}, "the body is larger than countersign.dev/request-body, or 10 MiB", "countersign get httproute r -n shop -o yaml"},
		{audit.Record{Layer: "http", Reason: "bad_header", Status: 400, Detail: "more than one Host"}, "bad header: more than one Host", "the client has to send its header otherwise (RFC 9110, section 5)"},
		{audit.Record{Layer: "http", Reason: "h2_abuse"}, "h2 abuse", "the client has to give up fewer requests: docs/limits.md"},
		{audit.Record{Layer: "token", Reason: "exp", Detail: "ended (RequestAuthentication)"}, "its end: ended (RequestAuthentication)", "countersign get ra -n shop"},
		{audit.Record{Layer: "token", Reason: "exchange", Detail: "refused"}, "the token service gives no token for it: refused", "countersign get trustedissuers -A -o yaml"},
		{audit.Record{Layer: "token", Reason: "plaintext"}, "a credential over clear text is one that everybody on its way has", "call the https listener: countersign route list"},
		{audit.Record{Layer: "token", Reason: "missing", Decision: audit.Failed}, "no token", "countersign status"},
		{audit.Record{Layer: "limit", Reason: "rate", Policy: "shop/all", Detail: "RateLimit/shop/all#a: 1 a second"}, "RateLimit/shop/all#a: 1 a second", "countersign get ratelimit all -n shop -o yaml"},
		{audit.Record{Layer: "limit", Reason: "rate"}, "too many API keys that are not valid came from one address; a right one is taken all the same", "countersign keys -A"},
		{audit.Record{Layer: "route", Reason: "bad_backend", RouteRule: "shop/r#0", Detail: "no grant"}, "its rule has no backend that may be called", "countersign get httproute r -n shop -o yaml"},
		{audit.Record{Layer: "route", Reason: "no_endpoint", Service: "shop/api"}, "no instance of service shop/api is ready", "countersign status"},
		{audit.Record{Layer: "route", Reason: "no_endpoint", Service: "shop/edge"}, "the Gateway is being shut down", "countersign status"},
		{audit.Record{Error: "upstream_timeout", Service: "shop/api", RouteRule: "shop/r#0"}, "service shop/api: upstream timeout", "countersign get httproute r -n shop -o yaml"},
		{audit.Record{Layer: "route", Reason: "loop", Method: "GET", Host: "a.test", Port: 80, Path: "/"}, "it came by here before", "countersign route test GET http://a.test:80/"},
	} {
		rec := tc.rec
		rec.Gateway, rec.Side, rec.DstID = "shop/edge", audit.SideServer, "spiffe://cluster.local/ns/shop/sa/edge"
		if rec.Decision == "" {
			rec.Decision = audit.Deny
		}
		w := m.n.explain(&rec, "shop")
		if !slices.Contains(w.Lines, tc.line) || w.Hint != tc.hint {
			t.Errorf("%s %s: got %q, hint %q; want %q, hint %q", rec.Layer, rec.Reason, strings.Join(w.Lines, "\n"), w.Hint, tc.line, tc.hint)
		}
	}
}
