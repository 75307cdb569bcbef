package bearer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/policy"
)

// without reports whether rest is whole with pieces between separators taken out, all else being
// byte for byte the same.
func without(whole, rest, sep string) bool {
	have := strings.Split(rest, sep)
	for _, piece := range strings.Split(whole, sep) {
		if len(have) > 0 && have[0] == piece {
			have = have[1:]
		}
	}
	return len(have) == 0 || rest == ""
}

func params(query string, name string) []found {
	return (&place{kind: inParam, name: name}).findParam(&Request{Query: query, HasQuery: true}, nil)
}

// FuzzQuery: after a parameter was taken out no scanner finds it, and the rest is what it was.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"access_token=a.b.c", "b=1&access_token=x&a=%2f", "access%5Ftoken=x", "access_token", "&&access_token=&", "%61ccess_token=%", "a=1;access_token=x",
		"access_token=a&access_token=b", "ACCESS_TOKEN=x", "access+token=x", "=access_token", "%zz=1&%", "access_token=%2e%2E",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		list := params(query, "access_token")
		rest, left := cutParams(query, []string{"access_token"})
		if n := len(params(rest, "access_token")); n > 0 && left {
			t.Errorf("%d tokens are left in %q", n, rest)
		}
		if left != (rest != "") || !without(query, rest, "&") {
			t.Errorf("%q became %q", query, rest)
		}
		if gone := strings.Count(query, "&") - strings.Count(rest, "&"); rest != "" && gone != len(list) {
			t.Errorf("%d pieces of %q are gone, %d held tokens: %q", gone, query, len(list), rest)
		}
		for _, x := range list {
			if !x.bad && x.raw == "" {
				t.Error("an empty token is good")
			}
		}
	})
}

// FuzzCookie: the same of cookies.
func FuzzCookie(f *testing.F) {
	for _, line := range []string{
		"tok=a.b.c", "a=1; tok=x", "tok=x; a=1", "tok", " tok = x ;b", "\ttok=x", "tok=\"x\"", ";;tok=;", "Tok=x", "a=tok=x", "tok=1;tok=2; tok=3",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p := &place{kind: inCookie, name: "tok"}
		list := p.findCookie([]string{line}, nil)
		kept := cutCookies([]string{line}, []string{"tok"})
		if n := len(p.findCookie(kept, nil)); n > 0 {
			t.Errorf("%d tokens are left in %q", n, kept)
		}
		switch rest := strings.Join(kept, ""); {
		case len(list) == 0 && (len(kept) != 1 || rest != line):
			t.Errorf("%q without a token became %q", line, kept)
		case len(list) > 0 && !without(line, rest, ";") && !without(strings.TrimLeft(afterFirst(line), " \t"), rest, ";"):
			t.Errorf("%q became %q", line, rest)
		}
	})
}

// afterFirst is a Cookie line from its first piece on that is not the token's.
func afterFirst(line string) string {
	for {
		piece, next, more := strings.Cut(line, ";")
		if name, _, _ := cookie(piece); name != "tok" || !more {
			return line
		}
		line = next
	}
}

// FuzzAuthorization: a token is taken in one spelling alone, and whatever holds the scheme
// otherwise is refused.
func FuzzAuthorization(f *testing.F) {
	for _, line := range []string{
		"Bearer a.b.c", "bearer a", "Bearer", "Bearer ", "Bearer\ta", "Bearer  a", "Basic Bearer a", "xBearer a", "Bearer,a", "BEARER a", "Basic x",
		"DPoP a", "Bearer a b", "", " Bearer a", "Bearer é",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		raw, there, bad := readBearer(line)
		good := strings.HasPrefix(line, "Bearer ") && strings.TrimLeft(line[7:], " ") != ""
		if (there && !bad) != good {
			t.Errorf("%q: there %t, bad %t", line, there, bad)
		}
		if good && (raw == "" || raw[0] == ' ' || !strings.HasSuffix(line, raw)) {
			t.Errorf("%q: token %q", line, raw)
		}
		if !there && strings.Contains(line, "Bearer ") {
			t.Errorf("%q is no token here and one to Envoy", line)
		}
		p := place{kind: inHeader, name: "X-Jwt", prefix: "Value "}
		raw, there, bad = p.read(line)
		if there != strings.Contains(line, "Value ") || there && !bad && "Value "+raw != line {
			t.Errorf("%q behind a prefix: %q, there %t, bad %t", line, raw, there, bad)
		}
	})
}

// FuzzAuthenticate: no bytes in any place make the step panic, identify somebody without a good
// token, or leave a token where it was removed.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	token := w.id.foreign()
	own := w.own.ours()
	r := w.rules(everywhere(w)...)
	f.Add("GET", "access_token=TOKEN", "Bearer TOKEN", "tok=TOKEN", "Value TOKEN")
	f.Add("OPTIONS", "a=1&access_token=OWN", "bearer OWN", "tok=TOKEN; a=1", "")
	f.Add("GET", "", "DPoP OWN, Bearer OWN", "", "TOKEN")
	f.Fuzz(func(t *testing.T, method, query, auth, cookies, custom string) {
		fill := strings.NewReplacer("TOKEN", token, "OWN", own)
		q := w.get("/?" + fill.Replace(query))
		q.Method = method
		for name, v := range map[string]string{"Authorization": auth, "Cookie": cookies, "X-Jwt": custom} {
			if v != "" {
				q.Header[name] = []string{fill.Replace(v)}
			}
		}
		if method == http.MethodOptions {
			q.Header["Origin"], q.Header["Access-Control-Request-Method"] = []string{"x"}, []string{"GET"}
		}
		sent := fmt.Sprint(q.Query, q.Header)
		out := r.Authenticate(q)
		if out.Token != nil && !strings.Contains(sent, token) && !strings.Contains(sent, own) && !strings.Contains(sent, "%") {
			t.Errorf("%s identifies %s", sent, out.Token.Subject())
		}
		noneLeft(t, r, q, out)
	})
}

// everywhere are rules of one issuer that read all kinds of places.
func everywhere(w *world) []policy.TokenRule {
	return []policy.TokenRule{
		w.r(), w.r(func(r *policy.TokenRule) {
			r.Headers = []policy.TokenHeader{{Name: "x-jwt", Prefix: "Value "}}
			r.Params, r.Cookies = []string{"t"}, []string{"tok"}
		}),
	}
}

// noneLeft holds that the application finds no token where one was removed: of a request that a
// rule without forwarding let pass, and of a preflight, nothing is left at any recognised place.
func noneLeft(t *testing.T, r *Rules, q *Request, out Outcome) {
	t.Helper()
	if out.Refused != nil || out.Token == nil && !isPreflight(q) || out.Own {
		return
	}
	for _, f := range r.find(program(q, out), nil) {
		if f.place.kind != inBuiltIn {
			t.Errorf("the application gets %+v at %s", f, f.place.name)
		}
	}
}

// TestNothingIsLeft is the same of many requests that mostly succeed: tokens at random places,
// among other things that stay.
func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	r := w.rules(everywhere(w)...)
	token := w.id.foreign()
	rng := rand.New(rand.NewPCG(1, 2))
	passed := 0
	for range 2000 {
		q := w.get("/")
		if rng.IntN(4) == 0 {
			q = w.get("/", "Origin: x", "Access-Control-Request-Method: GET")
			q.Method = http.MethodOptions
		}
		some := func(pieces ...string) (out []string) {
			for range rng.IntN(4) {
				out = append(out, pieces[rng.IntN(len(pieces))])
			}
			return out
		}
		if list := some("access_token="+token, "t="+token, "a=1", "b=%2F", ""); list != nil {
			q.Query, q.HasQuery = strings.Join(list, "&"), true
		}
		for range rng.IntN(3) {
			if list := some("tok="+token, "a=1", "x=y"); list != nil {
				q.Header["Cookie"] = append(q.Header["Cookie"], strings.Join(list, "; "))
			}
		}
		q.Header["X-Jwt"] = some("Value "+token, "other")
		if rng.IntN(2) == 0 {
			q.Header["Authorization"] = []string{"Bearer " + token}
		}
		q.Header["X-Else"] = []string{"stays"}
		before := maps.Clone(q.Header)
		query := q.Query
		out := r.Authenticate(q)
		noneLeft(t, r, q, out)
		if out.Refused != nil {
			t.Fatalf("%v %q: %+v", before, query, out.Refused)
		}
		p := program(q, out)
		if out.Token != nil {
			passed++
		}
		if !slices.Equal(p.Header["X-Else"], []string{"stays"}) || strings.Count(p.Query, "b=%2F") != strings.Count(query, "b=%2F") ||
			strings.Count(fmt.Sprint(p.Header["Cookie"]), "a=1") != strings.Count(fmt.Sprint(before["Cookie"]), "a=1") {
			t.Fatalf("%v %q became %v %q", before, query, p.Header, p.Query)
		}
		if strings.Contains(fmt.Sprint(p.Header, p.Query), token) {
			t.Fatalf("%v %q: the token is left in %v %q", before, query, p.Header, p.Query)
		}
	}
	if passed < 500 {
		t.Errorf("only %d of 2000 requests had an identity", passed)
	}
}
