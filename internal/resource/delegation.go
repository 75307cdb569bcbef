package resource

import (
	"fmt"
	"strings"
	"sync"

	"countersign.dev/internal/grant"
)

const maxDepth = 8 // of act, tokens.md 8.1

// delegationShape is the DelegationPolicy of tokens.md 6.
var delegationShape = sync.OnceValue(func() *shape {
	return fieldsIn(
		named{"actors", listOf(maxAudience, textWith(checkActor))},
		named{"audiences", listOf(maxAudience, textWith(checkReference))},
		named{"subjectIssuers", listOf(maxAudience, textWith(checkWord("an issuer")))},
		named{"subjects", listOf(maxAudience, textWith(checkSubject))},
		named{"scopes", scopesShape()},
		named{"origins", listOf(0, oneOf("origin", "oidc", "jwt", "svid", "mtls").orLater("api_key", "basic"))},
		named{"maxDepth", &shape{form: integer, check: checkDepth}},
		named{"allowCycles", &shape{form: boolean}},
	)
})

// checkActor takes a service account of the namespace, or SPIFFE IDs.
func checkActor(s string) *complaint {
	if strings.Contains(s, ":") {
		return checkIdentityPattern(s)
	}
	return checkLabel("a service account")(s)
}

// checkSubject takes a subject as it is, or a prefix ending in a star.
func checkSubject(s string) *complaint {
	if strings.Contains(strings.TrimSuffix(s, "*"), "*") {
		return complain("E224", quote(s)+" has a star that is no wildcard", "one star, at the end: corp:*")
	}
	return checkWord("a subject")(s)
}

func checkDepth(s string) *complaint {
	if len(s) != 1 || s[0] < '1' || s[0] > '0'+maxDepth {
		return complain("E224", clip(s)+" is outside 1 to 8", "8 is the default")
	}
	return nil
}

// checkDelegation holds what no single field can tell: tokens.md 6.
func checkDelegation(o *object) {
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	o.missing(spec, [2]string{"actors", "actors: [orders], the service accounts that may act for others"},
		[2]string{"audiences", "audiences: [payments], the services of this namespace that are acted upon"})
}

// delegationSpec is the spec of a DelegationPolicy as stored; match has judged it.
type delegationSpec struct {
	Actors         []string `json:"actors"`
	Audiences      []string `json:"audiences"`
	SubjectIssuers []string `json:"subjectIssuers"`
	Subjects       []string `json:"subjects"`
	Scopes         []string `json:"scopes"`
	Origins        []string `json:"origins"`
	MaxDepth       int      `json:"maxDepth"`
	AllowCycles    bool     `json:"allowCycles"`
}

// Delegation is the DelegationPolicy of an accepted object, its defaults filled in.
func Delegation(o Object) (grant.Delegation, error) {
	spec, err := specOf[delegationSpec](o, "DelegationPolicy")
	if err != nil {
		return grant.Delegation{}, err
	}
	if len(spec.Actors) == 0 || len(spec.Audiences) == 0 {
		return grant.Delegation{}, fmt.Errorf("%s: actors and audiences are needed", o.ID())
	}
	out := grant.Delegation{
		Namespace: o.Namespace, Name: o.Name,
		Actors: spec.Actors, Audiences: spec.Audiences,
		SubjectIssuers: spec.SubjectIssuers, Subjects: spec.Subjects, Scopes: spec.Scopes,
		Origins: spec.Origins, MaxDepth: spec.MaxDepth, AllowCycles: spec.AllowCycles,
	}
	if out.Origins == nil {
		out.Origins = []string{"oidc", "jwt", "svid", "mtls"}
	}
	if out.MaxDepth == 0 {
		out.MaxDepth = maxDepth
	}
	return out, nil
}
