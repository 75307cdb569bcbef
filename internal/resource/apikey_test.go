package resource

import (
	"strings"
	"testing"
)

const keyHead = "apiVersion: countersign.dev/v1\nkind: APIKey\nmetadata: {name: partner-acme, namespace: shop}\n"

const keySecret = "{id: 7Kq2m9XbTa, sha256: b0bd65ed3119037a4dcbf6b8138eb2f09de18490e98a773a68f9353f0c0331cd}"

func keySpec(edit ...string) string {
	spec := "env: live, secrets: [" + keySecret + "], owner: 'spiffe://example.com/ns/shop/sa/partner-acme', scopes: ['orders:read'], audiences: [orders], " +
		"cidrs: [203.0.113.0/24], expires: '2027-02-18T00:00:00Z', limitClass: partner, revokeOnLeak: true, disabled: false"
	for i := 0; i < len(edit); i += 2 {
		spec = strings.Replace(spec, edit[i], edit[i+1], 1)
	}
	return keyHead + "spec: {" + spec + "}\n"
}

// The example of tokens.md 14.2 is taken, and so is what a rotation makes of it.
func TestAPIKeyRoundTrip(t *testing.T) {
	objects, faults := Decode([]File{{Name: "k.yaml", Data: []byte(keySpec())}}, Options{})
	if len(faults) > 0 || len(objects) != 1 {
		t.Fatal(faults)
	}
	k, err := APIKey(objects[0])
	if err != nil || k.Namespace != "shop" || k.Env != "live" || len(k.Secrets) != 1 || !*k.RevokeOnLeak || k.CIDRs[0].String() != "203.0.113.0/24" || k.Expires.Year() != 2027 {
		t.Fatalf("%+v, %v", k, err)
	}
	fresh := KeySecret{ID: "0000000000", SHA256: strings.Repeat("a", 64)}
	again, err := WithSecrets(objects[0], append(k.Secrets, fresh))
	if err != nil {
		t.Fatal(err)
	}
	k2, err := APIKey(again)
	if err != nil || len(k2.Secrets) != 2 || k2.Secrets[1] != fresh || k2.Owner != k.Owner || len(objects[0].JSON) >= len(again.JSON) {
		t.Errorf("%+v, %v", k2, err)
	}
	text, err := KeyDocument(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, faults := Decode([]File{{Name: "k", Data: text}}, Options{}); len(faults) > 0 {
		t.Errorf("%s\n%v", text, faults)
	}
	objects, faults = Decode([]File{{Name: "k.yaml", Data: []byte(keySpec(", revokeOnLeak: true, disabled: false", ""))}}, Options{})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if k, err := APIKey(objects[0]); err != nil || !*k.RevokeOnLeak {
		t.Errorf("revokeOnLeak is not the default: %v", err)
	}
}

func TestAPIKeyFaults(t *testing.T) {
	const whole = "csk_live_7Kq2m9XbTa_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf10nbNI"
	for name, c := range map[string]struct{ doc, code, field string }{
		"no env":                {keySpec("env: live, ", ""), "E224", "spec"},
		"another env":           {keySpec("env: live", "env: prod"), "E110", "spec.env"},
		"no secrets":            {keySpec("secrets: ["+keySecret+"], ", ""), "E224", "spec"},
		"three secrets":         {keySpec(keySecret, keySecret+", "+keySecret+", "+keySecret), "E102", "spec.secrets"},
		"65 audiences":          {keySpec("[orders]", "["+strings.Repeat("a, ", maxKeyReach)+"a]"), "E102", "spec.audiences"},
		"65 routes":             {keySpec("audiences: [orders]", "routes: ["+strings.Repeat("a/b, ", maxKeyReach)+"a/b]"), "E102", "spec.routes"},
		"65 networks":           {keySpec("203.0.113.0/24", strings.Repeat("203.0.113.0/24, ", maxKeyReach)+"203.0.113.0/24"), "E102", "spec.cidrs"},
		"secret without a hash": {keySpec(keySecret, "{id: 7Kq2m9XbTa}"), "E224", "spec.secrets[0]"},
		"the key for its id":    {keySpec("7Kq2m9XbTa", whole), "E224", "spec.secrets[0].id"},
		"the key for its hash":  {keySpec("b0bd65ed3119037a4dcbf6b8138eb2f09de18490e98a773a68f9353f0c0331cd", whole), "E224", "spec.secrets[0].sha256"},
		"the key as a field":    {keySpec("id: 7Kq2m9XbTa", "id: 7Kq2m9XbTa, secret: "+whole), "E106", "spec.secrets[0]"},
		"the key as an owner":   {keySpec("'spiffe://example.com/ns/shop/sa/partner-acme'", "'"+whole+"'"), "", ""},
		"the key as a scope":    {keySpec("'orders:read'", `"`+whole+` x"`), "E224", "spec.scopes[0]"},
		"hash in capitals":      {keySpec("b0bd65", "B0BD65"), "E224", "spec.secrets[0].sha256"},
		"no owner":              {keySpec("owner: 'spiffe://example.com/ns/shop/sa/partner-acme', ", ""), "E224", "spec"},
		"no end":                {keySpec("expires: '2027-02-18T00:00:00Z', ", ""), "E224", "spec"},
		"an end that is none":   {keySpec("'2027-02-18T00:00:00Z'", "soon"), "E111", "spec.expires"},
		"reaches nothing":       {keySpec("audiences: [orders], ", ""), "E224", "spec"},
		"block with bits":       {keySpec("203.0.113.0/24", "203.0.113.7/24"), "E208", "spec.cidrs[0]"},
		"audience twice":        {keySpec("[orders]", "[orders, orders]"), "E113", "spec.audiences[1]"},
		"route without name":    {keySpec("audiences: [orders]", "routes: [shop]"), "E103", "spec.routes[0]"},
		"class with a dot":      {keySpec("limitClass: partner", "limitClass: a.b"), "E103", "spec.limitClass"},
		"unknown field":         {keySpec("disabled: false", "disabeld: false"), "E106", "spec"},
	} {
		_, faults := Decode([]File{{Name: "k.yaml", Data: []byte(c.doc)}}, Options{})
		if c.code != "" && (len(faults) == 0 || faults[0].Code != c.code || faults[0].Field != c.field) {
			t.Errorf("%s: %v", name, faults)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), whole[20:63]) {
				t.Errorf("%s: the key is quoted: %s", name, f.String())
			}
		}
	}
}

// Which keys a Gateway takes decides who comes in: it is of the policy revision, as no other annotation is.
func TestRevisionCountsAPIKeys(t *testing.T) {
	doc := func(annotations string) []Object {
		objects, faults := Decode([]File{{Name: "a", Data: []byte("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop, annotations: {" + annotations + "}}\nspec: {}")}}, Options{})
		if Stops(faults) {
			t.Fatal(faults)
		}
		return objects
	}
	of := func(annotations string) [32]byte { return Revision(doc(annotations), "cluster.local", "istio-system") }
	none, live, test := of("example.com/a: b"), of("countersign.dev/api-keys: live"), of("countersign.dev/api-keys: test")
	if none != of("") || none != of("countersign.dev/api-keys: 'off'") || live == none || live == test {
		t.Error("the revision does not tell which keys are taken")
	}
	for annotations, want := range map[string]string{"countersign.dev/api-keys: live": "live", "countersign.dev/api-keys: 'off'": "", "": ""} {
		if r, err := RequestAuthentication(doc(annotations)[0], 0); err != nil || r.APIKeys != want {
			t.Errorf("%s: %q, %v", annotations, r.APIKeys, err)
		}
	}
}
