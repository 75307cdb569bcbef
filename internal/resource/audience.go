package resource

import (
	"fmt"
	"sync"
	"time"

	"countersign.dev/internal/grant"
)

// audienceShape is the OAuthResource of tokens.md 6.
var audienceShape = sync.OnceValue(func() *shape {
	flag := &shape{form: boolean}
	return fieldsIn(
		named{"audience", textWith(checkOwnURI)},
		named{"service", textWith(checkLabel("a service of this namespace"))},
		named{"resources", listOf(maxAudience, textWith(checkOwnURI))},
		named{"scopes", listOf(maxScopes, fieldsIn(named{"name", textWith(checkScope)}, named{"public", flag}))},
		named{"ttlCap", span("5s", "1h", "1h is the default")},
		named{"allowBearer", flag},
		named{"typ", oneOf("type", "at+jwt", "JWT")},
		named{"requireToken", flag},
		named{"grantTo", listOf(maxAudience, fieldsIn(
			named{"namespace", textWith(checkNamespace)},
			named{"scopes", scopesShape()},
		))},
		named{"delegation", oneOf("delegation", "forward").orLater("exchange")},
		named{"onStale", oneOf("answer", "serve", "deny").orLater("introspect")},
		named{"requireTransaction", laterField(flag)},
	)
})

// checkAudience holds what no single field can tell: tokens.md 6, 8.1.
func checkAudience(o *object) {
	at := root.field("spec")
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	_, hasURI := spec["audience"]
	_, hasService := spec["service"]
	switch {
	case hasURI && hasService:
		o.fault("E224", at.field("service"), atKey, "together with audience", "keep one of them")
	case !hasURI && !hasService:
		o.faultOf("E224", "spec", at, atKey, "neither audience nor service", "audience: https://ledger.example.com, or service: payments")
	}
	if hasService && spec["typ"] == "JWT" {
		// An ID token could pass for an access token.
		o.fault("E224", at.field("typ"), atValue, "JWT for a service of the mesh", "leave it out: proxies take at+jwt alone")
	}
	o.checkTwice("E224", spec["resources"], at.field("resources"))

	var known []string
	seen := make(map[string]bool)
	for i, v := range itemsOf(spec["scopes"]) {
		m, ok := v.(map[string]any)
		p := at.field("scopes").item(i)
		name, has := m["name"]
		s := textOf(name)
		switch {
		case ok && !has:
			o.fault("E224", p, atValue, "a scope without name", "such as {name: ledger:read}")
		case s != "" && seen[s]:
			o.fault("E224", p.field("name"), atValue, quote(s)+" stands twice", "remove one")
		case s != "":
			known, seen[s] = append(known, s), true
		}
	}
	namespaces := make(map[string]bool)
	for i, v := range itemsOf(spec["grantTo"]) {
		m, ok := v.(map[string]any)
		p := at.field("grantTo").item(i)
		ns, has := m["namespace"]
		s := textOf(ns)
		switch {
		case ok && !has:
			o.fault("E224", p, atValue, "a grant without namespace", "such as {namespace: front, scopes: [ledger:read]}")
		case s != "" && namespaces[s]:
			o.fault("E224", p.field("namespace"), atValue, quote(s)+" stands twice", "put the scopes of one namespace together")
		default:
			namespaces[s] = true
		}
		o.within(m["scopes"], known, "the scopes of this audience", p.field("scopes"))
	}
}

// audienceSpec is the spec of an OAuthResource as stored; match has judged it.
type audienceSpec struct {
	Audience     string          `json:"audience"`
	Service      string          `json:"service"`
	Resources    []string        `json:"resources"`
	Scopes       []grant.Scope   `json:"scopes"`
	TTLCap       string          `json:"ttlCap"`
	AllowBearer  bool            `json:"allowBearer"`
	Typ          string          `json:"typ"`
	RequireToken bool            `json:"requireToken"`
	GrantTo      []grant.GrantTo `json:"grantTo"`
	Delegation   string          `json:"delegation"`
	OnStale      string          `json:"onStale"`
}

// Audience is the OAuthResource of an accepted object, its defaults filled in. OnStale is
// empty for serve.
func Audience(o Object) (grant.Audience, error) {
	spec, err := specOf[audienceSpec](o, "OAuthResource")
	if err != nil {
		return grant.Audience{}, err
	}
	if (spec.Audience == "") == (spec.Service == "") {
		return grant.Audience{}, fmt.Errorf("%s: audience or service is needed", o.ID())
	}
	out := grant.Audience{
		Namespace: o.Namespace, Name: o.Name, URI: spec.Audience, Service: spec.Service,
		Resources: spec.Resources, Scopes: spec.Scopes, AllowBearer: spec.AllowBearer,
		TypJWT: spec.Typ == "JWT", RequireToken: spec.RequireToken, GrantTo: spec.GrantTo,
	}
	if spec.OnStale != "serve" {
		out.OnStale = spec.OnStale
	}
	if out.TTLCap, err = durationOr(spec.TTLCap, time.Hour); err != nil {
		return grant.Audience{}, fmt.Errorf("%s: ttlCap: %w", o.ID(), err)
	}
	return out, nil
}
