package resource

import "testing"

func TestSameSpec(t *testing.T) {
	gateway := func(meta, spec string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge"` + meta + `},"spec":{` + spec + `}}`
	}
	const bare = `"gatewayClassName":"c","listeners":[{"name":"a","port":80,"protocol":"HTTP"}]`
	for _, tt := range []struct {
		what, a, b string
		same       bool
	}{
		{"itself", gateway("", bare), gateway("", bare), true},
		{"an annotation", gateway("", bare), gateway(`,"annotations":{"a":"b"}`, bare), true},
		{"a default written down", gateway("", bare),
			gateway("", `"gatewayClassName":"c","listeners":[{"name":"a","port":80,"protocol":"HTTP","allowedRoutes":{"namespaces":{"from":"Same"}}}]`), true},
		{"another value than the default", gateway("", bare),
			gateway("", `"gatewayClassName":"c","listeners":[{"name":"a","port":80,"protocol":"HTTP","allowedRoutes":{"namespaces":{"from":"All"}}}]`), false},
		{"another port", gateway("", bare), gateway("", `"gatewayClassName":"c","listeners":[{"name":"a","port":81,"protocol":"HTTP"}]`), false},
		{"a field more", gateway("", bare), gateway("", bare+`,"infrastructure":{"labels":{"a":"b"}}`), false},
		{"no JSON", gateway("", bare), "{", false},
	} {
		if got := SameSpec(Object{Kind: "Gateway", JSON: []byte(tt.a)}, Object{Kind: "Gateway", JSON: []byte(tt.b)}); got != tt.same {
			t.Errorf("%s: %v", tt.what, got)
		}
	}
}
