package proxy

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
)

// A key that may do less than when a request began ends what it may do no more.
func TestSecNarrowedKeyEndsStreams(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*apikey.Record)
		status int // 0: it goes on
		layer  string
	}{
		"from elsewhere":   {func(r *apikey.Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, 401, audit.LayerToken},
		"of another route": {func(r *apikey.Record) { r.Routes = []string{"default/other"} }, 401, audit.LayerToken},
		"for another":      {func(r *apikey.Record) { r.Audiences = []string{"web"} }, 401, audit.LayerToken},
		"without a scope":  {func(r *apikey.Record) { r.Scopes = nil }, 403, audit.LayerAuthz},
		"with one more":    {func(r *apikey.Record) { r.Scopes = append([]string{"more"}, r.Scopes...) }, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newKeyHouse(t, toAPI())
			conn, br := dialRaw(t, h.http, "POST /orders HTTP/1.1\nHost: shop.test\nX-API-Key: "+h.key.Reveal()+"\nContent-Length: 10\n\nhalf")
			for deadline := time.Now().Add(5 * time.Second); liveAtDoors(h.a) != 1; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the call is not under way")
				}
			}
			r := h.record
			c.change(&r)
			h.keys(r)
			if c.status == 0 {
				if liveAtDoors(h.a) != 1 {
					t.Error("it was ended")
				}
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if resp, err := http.ReadResponse(br, nil); err == nil && resp.StatusCode != c.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, c.status)
			}
			rec := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.APIKeyID == h.key.ID() && r.Refused() })
			if rec.Layer != c.layer {
				t.Errorf("record says %s/%s", rec.Layer, rec.Reason)
			}
		})
	}
}
