package audit

import "testing"

func TestSecMask(t *testing.T) {
	const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln-_"
	for in, want := range map[string]string{
		"/orders/17":                 "/orders/17",
		"/" + jwt:                    "/{credential}",
		"/a/" + jwt + "/b":           "/a/{credential}/b",
		"/t=" + jwt + ";x=" + jwt:    "/t={credential};x={credential}",
		"/eyJhbGciOiJFUzI1NiJ9.cut":  "/{credential}",
		"/eyJ.a":                     "/eyJ.a",
		"/heyJude":                   "/heyJude",
		"/css_0123456789abcdefghijK": "/{credential}",
		"/css_main.css":              "/css_main.css",
		"/k/csk_live_7Kq2m9XbTa_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf10nbNI/": "/k/{credential}/",
		"": "",
	} {
		got, hit := Mask(in)
		if got != want || hit != (in != want) {
			t.Errorf("Mask(%q) = %q, %t", in, got, hit)
		}
	}
}
