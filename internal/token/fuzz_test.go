package token

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzForm: what is read is clean, within its limits, and what net/url reads.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{
		"", "&", "a", "=", "a=1&a=2", "audience=a&audience=b", "scope=a+b%20c", "n=%zz", "n=%00", "n=%ff", "%61=1&a=2", "a;b=1",
		"grant_type=client_credentials&client_id=spiffe%3A%2F%2Fa%2Fb&resource=https://x", strings.Repeat("a=&", 70), "=1", "a==b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var got form
		if !got.parse(body) {
			return
		}
		if len(got.values) > maxParameters {
			t.Fatalf("%d parameters", len(got.values))
		}
		want, err := url.ParseQuery(strings.ReplaceAll(body, ";", "%3B"))
		if err != nil {
			t.Fatalf("net/url refuses %q: %v", body, err)
		}
		n := map[string]int{}
		for _, p := range got.values {
			if p.name == "" || len(p.name) > maxName || len(p.value) > maxValue || !utf8.ValidString(p.name+p.value) || strings.ContainsRune(p.name+p.value, 0) {
				t.Fatalf("%q", p)
			}
			if want[p.name][n[p.name]] != p.value {
				t.Fatalf("%q: %q, net/url reads %q", p.name, p.value, want[p.name])
			}
			n[p.name]++
		}
		for name, values := range want {
			if n[name] != len(values) {
				t.Fatalf("%q stands %d times, read %d times", name, len(values), n[name])
			}
			if len(values) > 1 && name != "audience" && name != "resource" && !got.repeated {
				t.Fatalf("%q is repeated", name)
			}
		}
	})
}

// FuzzBasic: what is read, encoded as RFC 6749 wants it, is read as the same.
func FuzzBasic(f *testing.F) {
	for _, plain := range []string{"ci:css_x", "a:b:c:s", "spiffe%3A%2F%2Fa:s", ":", "a:", "a", "a:%zz", "a\x00:b", "a+b:c"} {
		f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte(plain)))
	}
	f.Add("basic YTpi")
	f.Add("Bearer YTpi")
	f.Add("Basic YTp\ni")
	f.Fuzz(func(t *testing.T, header string) {
		user, secret, ok := parseBasic(header)
		if !ok {
			return
		}
		if user == "" || !utf8.ValidString(user+secret) || strings.ContainsRune(user+secret, 0) {
			t.Fatalf("%q, %q", user, secret)
		}
		again := "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(user)+":"+url.QueryEscape(secret)))
		if len(again) > 2*maxValue {
			return
		}
		if u, s, ok := parseBasic(again); !ok || u != user || s != secret {
			t.Fatalf("%q, %q became %q, %q", user, secret, u, s)
		}
	})
}
