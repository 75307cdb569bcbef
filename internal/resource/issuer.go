package resource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/grant"
)

const defaultLifetime = 24 * time.Hour

// issuerShape is the TrustedIssuer of tokens.md 7.3, with typ and singleAudience of 12.1 and 22.
var issuerShape = sync.OnceValue(func() *shape {
	flag := &shape{form: boolean}
	ignored := listOf(0, oneOf("header", "jku", "x5u", "x5c"))
	ignored.empty = true
	return fieldsIn(
		named{"issuer", textWith(checkIssuerURL)},
		named{"discovery", flag},
		named{"jwksUri", textWith(checkKeysURL)},
		named{"jwks", keySetShape()},
		named{"algs", algorithmsShape()},
		named{"audiences", listOf(maxAudience, textWith(checkWord("an audience")))},
		named{"uses", listOf(0, oneOf("use", "request", "subject").orLater("grant"))},
		named{"subject", fieldsIn(named{"claim", textWith(checkWord("a claim"))})},
		named{"carry", listOf(maxCarried, textWith(checkClaimName))},
		named{"clockSkew", span("0s", "60s", "0s is the default")},
		named{"maxLifetime", span("1m", "90d", "24h is the default")},
		named{"singleAudience", flag},
		named{"ignoreHeaders", ignored},
		named{"typ", oneOf("type", "JWT", "at+jwt", "application/at+jwt")},
		named{"noScope", laterField(&shape{form: str})},
		named{"standalone", laterField(flag)},
		named{"introspection", laterField(&shape{form: anything})},
		named{"trustDomain", laterField(textWith(anyText))},
	)
})

// checkWord judges a text that is compared as it is.
func checkWord(what string) func(string) *complaint {
	return func(s string) *complaint {
		switch {
		case s == "":
			return notEmpty(s)
		case len(s) > maxURL:
			return complain("E102", fmt.Sprintf("a value of %d bytes, at most %d are taken", len(s), maxURL), "")
		case !visible(s):
			return complain("E224", quote(s)+" is not "+what, "printable ASCII without blanks")
		}
		return nil
	}
}

// checkIssuer holds what no single field can tell: tokens.md 7.3.
func checkIssuer(o *object) {
	at := root.field("spec")
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	// The sub of a mapped token is <alias>:<sub>.
	if slices.Contains(reservedSubjects, o.out.Name) {
		o.fault("E224", root.field("metadata").field("name"), atValue, quote(o.out.Name)+" is no alias",
			"a subject "+o.out.Name+":… would read as that of somebody else: write another name")
	}
	o.missing(spec, [2]string{"issuer", "issuer: https://login.example.com, as in iss of its tokens"},
		[2]string{"uses", "uses: [request] for request identity in every proxy, uses: [subject] for exchanges"})

	var sources []string
	for _, name := range []string{"discovery", "jwksUri", "jwks"} {
		if v, ok := spec[name]; ok && v != false {
			sources = append(sources, name)
		}
	}
	switch {
	case len(sources) > 1:
		o.fault("E218", at.field(sources[1]), atKey, "together with "+sources[0], "keep one of discovery, jwksUri, jwks")
	case len(sources) == 0 && spec["discovery"] == false:
		o.fault("E218", at.field("discovery"), atValue, "no discovery, and no keys are named", "add jwksUri or jwks")
	}
	o.judgeKeys(spec["jwks"], at.field("jwks"), textsOf(spec["algs"]))

	uses := textsOf(spec["uses"])
	if _, ok := spec["audiences"]; !ok && slices.Contains(uses, string(grant.UseSubject)) {
		o.fault("E224", at.field("uses"), atKey, "subject without audiences", "list the aud of the tokens that may be exchanged: any other was meant for somebody else")
	}
	for _, name := range []string{"uses", "algs", "audiences", "carry", "ignoreHeaders"} {
		o.checkTwice("E224", spec[name], at.field(name))
	}
	if subject, ok := spec["subject"].(map[string]any); ok && len(subject) == 0 {
		o.fault("E224", at.field("subject"), atKey, "empty", "write {claim: sub}, or leave it out")
	}
}

// issuerSpec is the spec of a TrustedIssuer as stored; match has judged it.
type issuerSpec struct {
	Issuer    string          `json:"issuer"`
	Discovery bool            `json:"discovery"`
	JWKSURI   string          `json:"jwksUri"`
	JWKS      json.RawMessage `json:"jwks"`
	Algs      []string        `json:"algs"`
	Audiences []string        `json:"audiences"`
	Uses      []grant.Use     `json:"uses"`
	Subject   struct {
		Claim string `json:"claim"`
	} `json:"subject"`
	Carry          []string `json:"carry"`
	ClockSkew      string   `json:"clockSkew"`
	MaxLifetime    string   `json:"maxLifetime"`
	SingleAudience bool     `json:"singleAudience"`
	IgnoreHeaders  []string `json:"ignoreHeaders"`
	Typ            string   `json:"typ"`
}

// Issuer is the TrustedIssuer of an accepted object, its defaults filled in.
func Issuer(o Object) (grant.Issuer, error) {
	spec, err := specOf[issuerSpec](o, "TrustedIssuer")
	if err != nil {
		return grant.Issuer{}, err
	}
	if spec.Issuer == "" {
		return grant.Issuer{}, fmt.Errorf("%s: issuer is missing", o.ID())
	}
	out := grant.Issuer{
		Namespace: o.Namespace, Name: o.Name, Issuer: spec.Issuer,
		JWKS: bytes.Clone(spec.JWKS), JWKSURI: spec.JWKSURI, Algs: spec.Algs,
		Audiences: spec.Audiences, Uses: spec.Uses, SubjectClaim: cmp.Or(spec.Subject.Claim, "sub"),
		Carry: spec.Carry, SingleAudience: spec.SingleAudience,
		IgnoreHeaders: spec.IgnoreHeaders, Typ: spec.Typ,
	}
	if out.Algs == nil {
		out.Algs = slices.Clone(algorithms)
	}
	if out.ClockSkew, err = durationOr(spec.ClockSkew, 0); err != nil {
		return grant.Issuer{}, fmt.Errorf("%s: clockSkew: %w", o.ID(), err)
	}
	if out.MaxLifetime, err = durationOr(spec.MaxLifetime, defaultLifetime); err != nil {
		return grant.Issuer{}, fmt.Errorf("%s: maxLifetime: %w", o.ID(), err)
	}
	return out, nil
}
