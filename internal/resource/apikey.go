package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Limits of an APIKey (tokens.md 14.2).
const (
	maxKeySecrets = 2
	maxKeyReach   = 64 // audiences, routes, networks
)

var (
	keyID    = regexp.MustCompile(`^[0-9A-Za-z]{10}$`)
	keyHash  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyShape = regexp.MustCompile(`csk_(live|test)_([0-9A-Za-z]{10})_[0-9A-Za-z]*`)
)

// apiKeyShape is the APIKey of tokens.md 14.2.
var apiKeyShape = sync.OnceValue(func() *shape {
	flag := &shape{form: boolean}
	return fieldsIn(
		named{"env", oneOf("environment", "live", "test")},
		named{"secrets", listOf(maxKeySecrets, fieldsIn(
			named{"id", textWith(checkKeyID)},
			named{"sha256", textWith(checkKeyHash)},
			named{"until", textWith(checkExpires)},
		))},
		named{"owner", textWith(checkWord("an owner"))},
		named{"scopes", scopesShape()},
		named{"audiences", listOf(maxKeyReach, textWith(checkReference))},
		named{"routes", listOf(maxKeyReach, textWith(checkRouteName))},
		named{"cidrs", listOf(maxKeyReach, textWith(checkNetwork))},
		named{"expires", textWith(checkExpires)},
		named{"limitClass", textWith(checkLabel("a RateLimit"))},
		named{"revokeOnLeak", flag},
		named{"disabled", flag},
	)
})

// checkKeyID and checkKeyHash quote nothing: what stands there may be the key itself.
func checkKeyID(s string) *complaint {
	if !keyID.MatchString(s) {
		return complain("E224", "id is not 10 letters and digits", "the part of the key between env and secret; countersign key create makes it")
	}
	return nil
}

func checkKeyHash(s string) *complaint {
	if !keyHash.MatchString(s) {
		return complain("E224", "sha256 is not 64 digits of lower-case hexadecimal", "the hash of the secret, never the key; countersign key create makes it")
	}
	return nil
}

func checkRouteName(s string) *complaint {
	namespace, name, _ := strings.Cut(s, "/")
	if checkNamespace(namespace) != nil || checkName(name) != nil {
		return complain("E103", quote(s)+" is not a route", "namespace/name of an HTTPRoute: shop/public-orders")
	}
	return nil
}

func checkNetwork(s string) *complaint {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return complain("E208", quote(s)+" is not a block of addresses", "such as 203.0.113.0/24 or 2001:db8::/32")
	case p != p.Masked():
		return complain("E208", quote(s)+" has bits behind its length", "write "+p.Masked().String())
	}
	return nil
}

// checkAPIKey holds what no single field can tell, as far as the document shows it: tokens.md 14.2.
func checkAPIKey(o *object) {
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	at := root.field("spec")
	o.missing(spec, [2]string{"env", "env: live, or env: test"},
		[2]string{"secrets", "countersign key create and key rotate make them"},
		[2]string{"owner", "owner: spiffe://cluster.local/ns/" + clip(o.out.Namespace) + "/sa/NAME, or a user, alias:id"},
		[2]string{"expires", "expires: a time within a year, such as 2027-02-18T00:00:00Z"})
	_, audiences := spec["audiences"]
	_, routes := spec["routes"]
	if !audiences && !routes {
		o.faultOf("E224", "spec", at, atKey, "neither audiences nor routes: the key would reach nothing", "audiences: [orders] or routes: ["+clip(o.out.Namespace)+"/orders]")
	}
	for i, v := range itemsOf(spec["secrets"]) {
		m, ok := v.(map[string]any)
		for _, name := range []string{"id", "sha256"} {
			if _, has := m[name]; ok && !has {
				o.fault("E224", at.field("secrets").item(i), atValue, "a secret without "+name, "countersign key create and key rotate make it")
			}
		}
	}
	for _, name := range []string{"scopes", "audiences", "routes", "cidrs"} {
		o.checkTwice("E113", spec[name], at.field(name))
	}
}

// Key is one APIKey, its defaults filled in.
type Key struct {
	Namespace    string         `json:"-"`
	Name         string         `json:"-"`
	Env          string         `json:"env"`
	Secrets      []KeySecret    `json:"secrets"`
	Owner        string         `json:"owner"`
	Scopes       []string       `json:"scopes,omitempty"`
	Audiences    []string       `json:"audiences,omitempty"`
	Routes       []string       `json:"routes,omitempty"`
	CIDRs        []netip.Prefix `json:"cidrs,omitempty"`
	Expires      time.Time      `json:"expires"`
	LimitClass   string         `json:"limitClass,omitempty"`
	RevokeOnLeak *bool          `json:"revokeOnLeak,omitempty"`
	Disabled     bool           `json:"disabled,omitempty"`
}

// KeySecret is what is kept of one secret.
type KeySecret struct {
	ID     string    `json:"id"`
	SHA256 string    `json:"sha256"`
	Until  time.Time `json:"until,omitzero"`
}

// APIKey is the APIKey of an accepted object.
func APIKey(o Object) (Key, error) {
	k, err := specOf[Key](o, "APIKey")
	if err != nil {
		return Key{}, err
	}
	k.Namespace, k.Name = o.Namespace, o.Name
	if k.RevokeOnLeak == nil {
		k.RevokeOnLeak = new(true)
	}
	return k, nil
}

// KeyDocument is the APIKey that says so, as JSON for Decode, which judges it.
func KeyDocument(k Key) ([]byte, error) {
	spec, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("writing APIKey/%s/%s: %w", k.Namespace, k.Name, err)
	}
	v, err := parseOrdered(spec)
	if err != nil {
		return nil, fmt.Errorf("writing APIKey/%s/%s: %w", k.Namespace, k.Name, err)
	}
	return assemble("APIKey", k.Namespace, k.Name, nil, nil, v.(ordered)).JSON, nil
}

// WithSecrets is an APIKey with other secrets; all else stays as somebody wrote it.
func WithSecrets(o Object, secrets []KeySecret) (Object, error) {
	text, err := json.Marshal(secrets)
	if err != nil {
		return o, fmt.Errorf("writing the secrets of %s: %w", o.ID(), err)
	}
	list, err := parseOrdered(text)
	if err != nil {
		return o, fmt.Errorf("writing the secrets of %s: %w", o.ID(), err)
	}
	v, err := parseOrdered(o.JSON)
	if err != nil {
		return o, fmt.Errorf("reading %s: %w", o.ID(), err)
	}
	top, _ := v.(ordered)
	spec, _ := top.field("spec").(ordered)
	for i := range spec {
		if spec[i].key == "secrets" {
			spec[i].value = list
		}
	}
	var b bytes.Buffer
	err = writeJSON(&b, top, false)
	o.JSON = b.Bytes()
	return o, err
}

// hideKeys takes the secrets of API keys out of what is quoted: somebody may have put one in the wrong place.
func hideKeys(s string) string {
	if !strings.Contains(s, "csk_") {
		return s
	}
	return keyShape.ReplaceAllString(s, "csk_${1}_${2}…")
}

// keyHeaders are the headers that a Gateway takes API keys from, by listener; "" is all of them.
func keyHeaders(o Object) map[string]string {
	var out map[string]string
	for key, value := range o.Annotations {
		if name, listener, _ := cutOption(key); name == "api-key-header" {
			if out == nil {
				out = map[string]string{}
			}
			out[listener] = value
		}
	}
	return out
}
