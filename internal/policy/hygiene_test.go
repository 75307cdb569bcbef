package policy_test

import (
	"errors"
	"net/http"
	"testing"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
)

// What hygiene takes out of a request never reaches policy, so that no condition may speak of
// it; what it leaves may be spoken of (istio-semantics 7.5.1, http-strictness 7).
func TestKeysAgreeWithHygiene(t *testing.T) {
	apart := map[string]bool{
		"Host": true, "Upgrade": true, // facts of their own
		"Expect": true, "Content-Length": true, // kept by the message layer
	}
	for _, name := range []string{
		"X-Countersign-A", "X-Countersign-Mirror", "Proxy", "X-Forwarded-Client-Cert", "Txn-Token", "Workload-Identity-Token", "Workload-Proof-Token",
		"Ssl-Client-Dn", "X-Ssl-A", "X-Client-Cert", "X-Client-Cert-Dn", "X-Client-Certificate", "Client-Cert", "Client-Cert-Chain",
		"X-Decision-Id", "X-Envoy-Internal", "Early-Data", "X_Envoy_A", "X.Countersign.A", "Txn_token", "Proxy_", "Early.Data",
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Http2-Settings", "Http2_settings", "Keep_alive", "Proxy_connection", "Connection_", "Te_", "T.e", "Authorization_", "Authoriza.tion",
		"Authorization", "Cookie", "X-Api-Key", "X_api_key", "X.Api-Key", "Dpop", "D.pop", "Content_length", "Transfer_encoding", "Upgrade_", "Ho.st", "Host_",
		"X-B3-Traceid", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "Remote-User", "X-Tier", "X_tier", "X.tier",
		"Content-Type", "Accept", "User-Agent", "Via", "Traceparent", "X-Clientcert", "Proxy-A", "X-Envoy", "X-Ssl", "Ssl-Client", "X-Countersign",
		"Host", "Upgrade", "Expect", "Content-Length",
	} {
		header := http.Header{name: {"x"}}
		if _, fault := h1.Strip(header); fault != nil && name != "Connection" {
			t.Fatalf("%s: %v", name, fault)
		}
		err := policy.CheckKey("request.headers[" + name + "]")
		if apart[name] {
			continue
		}
		if gone := len(header) == 0; gone != errors.Is(err, policy.ErrNeverThere) || !gone && err != nil {
			t.Errorf("%s: hygiene removes it: %v; the key: %v", name, gone, err)
		}
	}
	for name, want := range map[string]error{"host": nil, "upgrade": nil, "expect": policy.ErrNeverThere, "content-length": policy.ErrNeverThere} {
		if err := policy.CheckKey("request.headers[" + name + "]"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}
