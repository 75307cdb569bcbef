package admin

import (
	"encoding/json"
	"reflect"
	"testing"

	"countersign.dev/internal/resource"
)

// A Problem comes out of the wire as it went in: the command prints what the server meant.
func TestProblemRoundTrip(t *testing.T) {
	for _, p := range []Problem{
		{Code: "not_found", Message: "it is not there", Status: 422},
		{Code: "faults", Message: "2 faults", Faults: []resource.Fault{{Code: "E106", File: "a.yaml", Line: 3, Column: 1, Text: "unknown", Hint: "leave it out", Severity: resource.Error}}, More: 7, Exit: 1, Status: 422},
		{Code: "x", Message: "m", Details: Details{{"looked in", []string{"/a", "/b"}}, {"holder", "pid 1"}}, Hints: []string{"a", "b"}, Exit: 125, Status: 409},
		{Code: "x", Message: "a\"b\nc → d", Details: Details{{"none", []string{}}}, Status: 400},
	} {
		b, err := json.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		var got Problem
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v, want %+v", got, p)
		}
	}
	if b, _ := json.Marshal(&Problem{Code: "x"}); !json.Valid(b) {
		t.Errorf("%s is no JSON", b)
	}
}

// FuzzProblem: an answer, however broken, never panics, and what is read stays what it is.
func FuzzProblem(f *testing.F) {
	f.Add([]byte(`{"type":"t","title":"m","status":422,"code":"c","details":{"looked_in":["a"],"x":"y"},"hints":["h"]}`))
	f.Add([]byte(`{"details":null}`))
	f.Add([]byte(`{"details":{"a":1,"b":null,"c":{}}}`))
	f.Add([]byte(`{"details":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var once, twice Problem
		if json.Unmarshal(b, &once) != nil {
			return
		}
		again, err := json.Marshal(&once)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", once, err)
		}
		if err := json.Unmarshal(again, &twice); err != nil {
			t.Fatalf("%s cannot be read: %v", again, err)
		}
		third, err := json.Marshal(&twice)
		if err != nil || string(third) != string(again) {
			t.Fatalf("%s became %s (%v)", again, third, err)
		}
	})
}

func TestParseName(t *testing.T) {
	for _, c := range []struct {
		in, ns string
		wild   bool
		want   Name
		code   string
	}{
		{"api", "", false, Name{Namespace: "default", Name: "api"}, ""},
		{"api", "shop", false, Name{Namespace: "shop", Name: "api"}, ""},
		{"shop/api", "x", false, Name{Namespace: "shop", Name: "api"}, ""},
		{"api.shop", "x", false, Name{Namespace: "shop", Name: "api"}, ""},
		{"spiffe://a.example/ns/shop/sa/api", "", false, Name{Namespace: "shop", Name: "api", TrustDomain: "a.example"}, ""},
		{"*", "", true, Name{Name: "*"}, ""},
		{"shop/*", "", true, Name{Namespace: "shop", Name: "*"}, ""},
		{"*", "", false, Name{}, "name_invalid"},
		{"shop/*", "", false, Name{}, "name_invalid"},
		{"*/api", "", true, Name{}, "name_invalid"},
		{"", "", true, Name{}, "name_invalid"},
		{"Api", "", true, Name{}, "name_invalid"},
		{"a/b/c", "", true, Name{}, "name_invalid"},
		{"a.b.c", "", true, Name{}, "name_invalid"},
		{"api", "No", true, Name{}, "name_invalid"},
		{"a b", "", true, Name{}, "name_invalid"},
		{"spiffe://a.example/x", "", true, Name{}, "name_invalid"},
		{"spiffe://A/ns/a/sa/b", "", true, Name{}, "name_invalid"},
		{"anonymous", "", true, Name{}, "anonymous"},
	} {
		got, err := ParseName(c.in, c.ns, c.wild)
		if c.code != "" {
			p, ok := err.(*Problem)
			if !ok || p.Code != c.code || p.Exit != 2 || len(p.Hints) == 0 {
				t.Errorf("%q in %q: got %+v, %v; want %s with a hint and status 2", c.in, c.ns, got, err, c.code)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q in %q: got %+v, %v; want %+v", c.in, c.ns, got, err, c.want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"GET /a": `'GET /a'`, "": `''`, "it's": `'it'\''s'`, "$(rm -rf /)`x`\"\\": "'$(rm -rf /)`x`\"\\'", "a\nb": "'a\nb'",
	} {
		if got := ShellQuote(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestBare(t *testing.T) {
	if got := Bare("shop", "api", "shop"); got != "api" {
		t.Errorf("got %q", got)
	}
	if got := Bare("shop", "api", "default"); got != "shop/api" {
		t.Errorf("got %q", got)
	}
}
