package jose

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
)

type wycheproofGroup struct {
	Comment string          `json:"comment"`
	Public  json.RawMessage `json:"public"`
	Private json.RawMessage `json:"private"`
	Tests   []struct {
		ID      int             `json:"tcId"`
		Comment string          `json:"comment"`
		JWS     json.RawMessage `json:"jws"`
		Result  string          `json:"result"`
	} `json:"tests"`
}

func wycheproofGroups(t *testing.T, name string) []wycheproofGroup {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []wycheproofGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Groups
}

// compact is a vector's token: one that is an object is in the JSON serialization, and is put
// to the gate as it is written.
func compact(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// excluded are the valid vectors that are refused, and why.
var excluded = map[int]string{
	346: "key says PS256, header PS384: one key, one algorithm",
	350: "key says PS256, header PS384: one key, one algorithm",
	347: `key says "ES521", which is no algorithm`,
	351: `key says "ES521", which is no algorithm`,
}

// All invalid signatures of Wycheproof are refused, and all valid ones are accepted but those
// excluded and those of symmetric keys.
func TestWycheproofSignatures(t *testing.T) {
	count := map[string]int{}
	for _, g := range wycheproofGroups(t, "json_web_signature_test.json") {
		key := g.Public
		if key == nil {
			key = g.Private // symmetric, or a private key: refused as a set
		}
		keys, setErr := ReadSet([]byte(`{"keys":[` + string(key) + `]}`))
		for _, v := range g.Tests {
			err := setErr
			if err == nil {
				err = VerifySignature(keys, compact(v.JWS))
			}
			switch {
			case v.Result == "invalid" && err == nil:
				t.Errorf("%d %s: accepted", v.ID, v.Comment)
			case v.Result == "invalid":
				count["refused"]++
			case err == nil && excluded[v.ID] != "":
				t.Errorf("%d %s: accepted, though %s", v.ID, v.Comment, excluded[v.ID])
			case err == nil:
				count[string(keys.Keys()[0].Alg())]++
			case excluded[v.ID] != "":
				count["excluded"]++
			case strings.Contains(string(key), `"oct"`):
				count["symmetric"]++
			default:
				t.Errorf("%d %s: refused: %v", v.ID, v.Comment, err)
			}
		}
	}
	for what, want := range map[string]int{
		"refused": 355, "excluded": 4, "symmetric": 10,
		"ES256": 2, "RS256": 8, "RS384": 4, "RS512": 4, "PS256": 6, "PS384": 4, "PS512": 4,
	} {
		if count[what] != want {
			t.Errorf("%s: %d, want %d", what, count[what], want)
		}
	}
}

// All invalid key sets of Wycheproof are refused, or hold no key that verifies the token; of the
// five valid ones all but number 5 are symmetric.
func TestWycheproofKeys(t *testing.T) {
	refused, accepted := 0, 0
	for _, g := range wycheproofGroups(t, "json_web_key_test.json") {
		set := g.Public
		if set == nil {
			set = g.Private
		}
		keys, setErr := ReadSet(set)
		for _, v := range g.Tests {
			err := setErr
			if err == nil {
				err = VerifySignature(keys, compact(v.JWS))
			}
			if want := v.ID == 5; (err == nil) != want {
				t.Errorf("%d %s %s: %v, accepted should be %v", v.ID, g.Comment, v.Comment, err, want)
			}
			if err == nil {
				accepted++
			} else {
				refused++
			}
		}
	}
	if accepted != 1 || refused != 25 {
		t.Errorf("%d accepted, %d refused, want 1 and 25", accepted, refused)
	}
}

// The signatures of RFC 7520 that apply (4.1 RS256, 4.2 PS384, 4.3 ES512; 4.4 and 4.6 are
// symmetric, 4.5, 4.7 and 4.8 are not compact tokens of one signature): their payload is a
// sentence. Wycheproof has them with wrong algorithms in two of the keys.
func TestRFC7520Signatures(t *testing.T) {
	right := map[string]string{"PS256": "PS384", "ES521": "ES512"}
	var found []Alg
	for _, g := range wycheproofGroups(t, "json_web_signature_test.json") {
		if g.Comment != "rfc7520" || g.Public == nil {
			continue
		}
		var k struct {
			Alg string `json:"alg"`
		}
		if err := json.Unmarshal(g.Public, &k); err != nil {
			t.Fatal(err)
		}
		key := string(g.Public)
		if r := right[k.Alg]; r != "" {
			key = strings.Replace(key, k.Alg, r, 1)
		}
		keys, err := ReadSet([]byte(`{"keys":[` + key + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range g.Tests {
			if v.Result == "valid" {
				if err := VerifySignature(keys, compact(v.JWS)); err != nil {
					t.Errorf("%s: %v", v.Comment, err)
				}
				found = append(found, keys.Keys()[0].Alg())
			}
		}
	}
	if len(found) != 3 || found[0] != RS256 || found[1] != PS384 || found[2] != ES512 {
		t.Errorf("verified %v, want one each of RS256, PS384, ES512", found)
	}
}
