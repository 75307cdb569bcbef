package apikey

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// K3, K5b, P2 and T9: what is a key in the two fields, and what is one credential too many.
func TestK3Find(t *testing.T) {
	const key = "csk_live_7Kq2m9XbTa_x"
	lines := func(l ...string) []string { return l }
	tests := []struct {
		name          string
		authorization []string
		header        []string
		want          string
		err           error
	}{
		{"nothing", nil, nil, "", nil},
		{"bearer", lines("Bearer " + key), nil, key, nil},
		{"scheme in any case", lines("bEARER " + key), nil, key, nil},
		{"several blanks", lines("Bearer   " + key), nil, key, nil},
		{"X-API-Key", nil, lines(key), key, nil},
		{"blanks around it", nil, lines(" " + key + "\t"), key, nil},
		{"what only begins like one", nil, lines("csk_"), "csk_", nil},
		{"K5b the application's", nil, lines("abc"), "", nil},
		{"the application's, twice", nil, lines("abc", "def"), "", nil},
		{"the application's beside a bearer key", lines("Bearer " + key), lines("abc"), key, nil},
		{"no prefix in capitals", nil, lines("CSK_live_x"), "", nil},
		{"a key with a scheme in X-API-Key", nil, lines("Bearer " + key), "", nil},
		{"a foreign token", lines("Bearer eyJ.a.b"), nil, "", nil},
		{"two foreign tokens are not judged here", lines("Bearer eyJ.a.b", "Bearer c"), nil, "", nil},
		{"Basic", lines("Basic " + key), nil, "", nil},
		{"no scheme", lines(key), nil, "", nil},
		{"scheme that begins alike", lines("Bearers " + key), nil, "", nil},
		{"key as a DPoP token", lines("DPoP " + key), nil, "", nil},
		{"Basic beside X-API-Key", lines("Basic YTpi"), lines(key), key, nil},
		{"Digest beside X-API-Key", lines(`Digest username="a", uri="/"`), lines(key), key, nil},

		{"K3 in both", lines("Bearer " + key), lines(key), "", ErrCredentials},
		{"K3 twice in Authorization", lines("Bearer "+key, "Bearer "+key), nil, "", ErrCredentials},
		{"K3 twice in X-API-Key", nil, lines(key, key), "", ErrCredentials},
		{"P2 joined in Authorization", lines("Bearer " + key + ", Bearer " + key), nil, "", ErrCredentials},
		{"P2 joined in X-API-Key", nil, lines(key + "," + key), "", ErrCredentials},
		{"beside the application's", nil, lines("abc", key), "", ErrCredentials},
		{"joined with the application's", nil, lines("abc, " + key), "", ErrCredentials},
		{"before the application's", nil, lines(key, "abc"), "", ErrCredentials},
		{"before an empty line", nil, lines(key, ""), "", ErrCredentials},
		{"T9 bearer and X-API-Key", lines("Bearer eyJ.a.b"), lines(key), "", ErrCredentials},
		{"DPoP and X-API-Key", lines("DPoP eyJ.a.b"), lines(key), "", ErrCredentials},
		{"scheme alone and X-API-Key", lines("Bearer"), lines(key), "", ErrCredentials},
		{"token before the key", lines("Bearer eyJ.a.b, Bearer " + key), nil, "", ErrCredentials},
		{"token behind the key", lines("Bearer "+key, "Bearer eyJ.a.b"), nil, "", ErrCredentials},
		{"Basic behind the key", lines("Bearer "+key, "Basic YTpi"), nil, "", ErrCredentials},
		{"tab for a blank", lines("Bearer\t" + key), nil, "", ErrCredentials},
		{"blank and tab", lines("Bearer \t" + key), nil, "", ErrCredentials},
		{"trailing comma", lines("Bearer " + key + ","), nil, "", ErrCredentials},
	}
	for _, tt := range tests {
		got, err := Find(tt.authorization, tt.header)
		if got != tt.want || err != tt.err {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	a, h := []string{"Bearer " + vector}, []string{"abc"}
	if n := testing.AllocsPerRun(100, func() { Find(a, h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	long := strings.Repeat("/c%63csk_live_%25", 300)
	if n := testing.AllocsPerRun(100, func() { InURL(long) }); n != 0 {
		t.Errorf("InURL: %v allocations", n)
	}
}

// escape percent-encodes every byte, as often as it is told.
func escape(s string, times int) string {
	for i := range times {
		var out strings.Builder
		for _, c := range []byte(s) {
			if i == 0 || c == '%' {
				fmt.Fprintf(&out, "%%%02x", c)
			} else {
				out.WriteByte(c)
			}
		}
		s = out.String()
	}
	return s
}

func TestK3InURL(t *testing.T) {
	other := resealed("csk_test_0000000000_" + vectorSecret + "000000")
	tests := []struct {
		name, target string
		want         []string
	}{
		{"none", "/orders?a=b&c=%20d", nil},
		{"query", "/orders?key=" + vector, []string{vector}},
		{"path", "/" + vector + "/orders", []string{vector}},
		{"absolute form", "http://" + vector + "@shop.test/", []string{vector}},
		{"fragment", "/#" + vector, []string{vector}},
		{"in a word", "/x" + vector + "y", []string{vector}},
		{"one underscore encoded", "/?k=" + strings.Replace(vector, "_", "%5F", 1), []string{vector}},
		{"all encoded", "/?k=" + escape(vector, 1), []string{vector}},
		{"encoded in capitals", "/?k=" + strings.ToUpper(escape("csk", 1)) + vector[3:], []string{vector}},
		{"encoded twice", "/?k=" + escape(vector, 2), []string{vector}},
		{"encoded three times", "/?k=" + escape(vector, 3), []string{vector}},
		{"two", "/" + vector + "?" + other, []string{vector, other}},
		{"behind a beginning", "/csk_csk_live_" + vector, []string{vector}},
		{"behind what swallows its first character", "/csk_%2" + vector, []string{vector}},
		{"behind a half escape", "/%" + vector + "%", []string{vector}},
		{"behind one that ends as it begins", "/" + vector[:crcAt] + "zzzcsk" + vector[3:], []string{vector[:crcAt] + "zzzcsk", vector}},
		{"wrong checksum", "/?" + vector[:crcAt] + "zzzzzz", []string{vector[:crcAt] + "zzzzzz"}},
		{"cut", "/?" + vector[:Len-1], nil},
		{"cut in an escape", "/?" + vector[:Len-1] + "%4", nil},
		{"public part", "/keys/" + vector[:idEnd], nil},
		{"other environment", "/?" + "csk_prod" + vector[8:], nil},
		{"empty", "", nil},
		{"percent alone", "%", nil},
	}
	for _, tt := range tests {
		if got := InURL(tt.target); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("Bearer "+vector, "", "abc", false)
	f.Add("Bearer\tcsk_", "Basic a, b", "csk_,csk_", true)
	f.Add("DPoP x", "", "csk_", false)
	f.Fuzz(func(t *testing.T, a, b, h string, two bool) {
		authorization := []string{a}
		if two {
			authorization = append(authorization, b)
		}
		got, err := Find(authorization, []string{h})
		switch {
		case err != nil:
			if got != "" || err != ErrCredentials || !strings.Contains(a+b+h, Prefix) {
				t.Fatal("refused though there is no key")
			}
		case got == "":
			if strings.HasPrefix(h, Prefix) || strings.HasPrefix(a, "Bearer csk_") {
				t.Fatal("a key goes on to the application")
			}
		default:
			if !strings.HasPrefix(got, Prefix) || strings.ContainsAny(got, ",") || !strings.Contains(a+"\n"+b+"\n"+h, got) {
				t.Fatalf("%q is no value of a field", got)
			}
			if again, err := Find(nil, []string{got}); err != nil || again != got {
				t.Fatalf("%q alone: got %q, %v", got, again, err)
			}
		}
		// A key beside is never let through.
		if got != "" {
			if _, err := Find(append(authorization, "Bearer "+vector), []string{h}); err != ErrCredentials {
				t.Fatal("two credentials are taken")
			}
		}
	})
}

func FuzzInURL(f *testing.F) {
	f.Add("/?k="+vector, uint8(0))
	f.Add("/csk_%2", uint8(1))
	f.Add("%25%2525csk_live_%", uint8(2))
	f.Fuzz(func(t *testing.T, target string, times uint8) {
		found := InURL(target)
		for _, key := range found {
			if !pattern.MatchString(key) || len(key) != Len {
				t.Fatalf("%q is no key", key)
			}
		}
		for _, raw := range pattern.FindAllString(target, -1) {
			if !slices.Contains(found, raw) {
				t.Fatalf("%q is not found", raw)
			}
		}
		// Whatever stands before it, as long as it does not end in an escape, a key is found.
		if i := strings.LastIndexByte(target, '%'); i >= 0 && i > len(target)-3 || !utf8.ValidString(target) {
			return
		}
		if got := InURL(target + "/" + escape(vector, int(times%4)) + target); !slices.Contains(got, vector) {
			t.Fatalf("behind %q it is not found", target)
		}
	})
}
