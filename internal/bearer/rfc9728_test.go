package bearer

import (
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

// TestMetadata: the documents are those of exactly the resources of a record, under the name of
// the service in the mesh and under those of the record.
func TestMetadata(t *testing.T) {
	w := newWorld(t)
	w.audiences = []grant.Audience{{
		Namespace: "shop", Name: "a", Service: "orders",
		Resources: []string{
			"https://API.example.com:443/v1", "https://api.example.com:8443", "https://api.example.com/a%2Fb",
			"https://api.example.com/q?x=1", "https://u@api.example.com/u", "urn:orders", "ftp://api.example.com/f",
		},
	}}
	rules := w.rules()
	for at, resource := range map[string]string{
		"orders.shop " + MetadataPath:                    "http://orders.shop",
		"api.example.com " + MetadataPath + "/v1":        "https://API.example.com:443/v1",
		"api.example.com:8443 " + MetadataPath:           "https://api.example.com:8443",
		"api.example.com " + MetadataPath + "/a%2Fb":     "https://api.example.com/a%2Fb",
		"orders.shop " + MetadataPath + "/":              "",
		"orders.sho " + MetadataPath + "p":               "",
		"returns.shop " + MetadataPath:                   "",
		"orders.shop /x":                                 "",
		"api.example.com " + MetadataPath:                "",
		"api.example.com " + MetadataPath + "/q":         "",
		"api.example.com " + MetadataPath + "/u":         "",
		"api.example.com " + MetadataPath + "/f":         "",
		"api.example.com " + MetadataPath + "/V1":        "",
		"api.example.com " + MetadataPath + "/v1/orders": "",
	} {
		host, path, _ := strings.Cut(at, " ")
		got := string(rules.Metadata(host, path))
		if resource == "" && got != "" || !strings.HasPrefix(got, `{"resource":"`+resource) && resource != "" {
			t.Errorf("%s: got %q", at, got)
		}
	}
	// The challenge names the workload's own service where that has the record, else another's that has.
	other := w.open().For(Workload{ID: orders, Service: "shop/cart", Services: []string{"shop/cart", "shop/orders"}})
	if no := other.Revoked(); no.Challenge != `Bearer realm="shop/cart", error="invalid_token", error_description="`+textInvalid+`"`+metadata || no.Reason != "revoked" {
		t.Errorf("%+v", no)
	}
	w.audiences = nil
	if w.rules().Metadata("orders.shop", MetadataPath) != nil {
		t.Error("metadata without a record")
	}
}

func TestDetailBounded(t *testing.T) {
	for in, want := range map[string]string{
		"": "", strings.Repeat("x", 199) + "é": strings.Repeat("x", 199), strings.Repeat("x", 300): strings.Repeat("x", 200),
		`the token is for "eyJhbGciOi"`: "",
	} {
		if got := clip(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}
