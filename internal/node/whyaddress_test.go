package node

import (
	"net/netip"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
)

func TestExplainAddress(t *testing.T) {
	rec := &audit.Record{Layer: audit.LayerAuthz, Policy: "HTTPRoute/shop/api", Detail: "stripped:x-real-ip; client 198.51.100.7", SrcIP: netip.MustParseAddr("127.0.0.1")}
	var w admin.Why
	if !explainAddress(&w, rec) || !strings.HasPrefix(w.Lines[0], "198.51.100.7 is kept out") || w.Hint != "countersign get httproute api -n shop -o yaml" {
		t.Errorf("%+v", w)
	}
	rec.Detail = ""
	if explainAddress(&w, rec); !strings.HasPrefix(w.Lines[0], "127.0.0.1 ") {
		t.Errorf("%+v", w)
	}
	rec.Policy = "shop/api"
	if explainAddress(&w, rec) {
		t.Error("a policy is taken for a list")
	}
}
