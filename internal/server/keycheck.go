package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/apikey"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

// canTakeKeys refuses the API keys of a batch that are none, or that speak for others, and warns of what takes keys
// and is attached to no Gateway (tokens.md 14.2).
func (s *Server) canTakeKeys(b batch, then map[string]catalog.Record, v *view) (warnings []resource.Fault, err error) {
	var faults []resource.Fault
	claimed := map[string]*apikey.Record{}
	directory := sync.OnceValue(func() *grant.Directory { return s.directoryOf(v) })
	for _, ch := range b.changes {
		if ch.Remove {
			continue
		}
		rec := then[catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)]
		told := func(code, field, text, hint, severity string) resource.Fault {
			return resource.Fault{
				File: rec.Places.File, Line: rec.Places.Line, Column: rec.Places.Col, Code: code, Resource: rec.ID(), Field: field, Text: text, Hint: hint, Severity: severity,
			}
		}
		switch was := b.known[catalog.Key(rec.Kind, rec.Namespace, rec.Name)]; {
		case rec.Kind == "RequestAuthentication":
			if a, err := resource.RequestAuthentication(rec.Object, 0); err == nil && a.APIKeys != "" && !v.onGateway(&a, s.meta.RootNamespace) {
				warnings = append(warnings, told("", "metadata.annotations[countersign.dev/api-keys]", "attached to no Gateway: API keys are taken nowhere by it, for inside the mesh none are",
					"targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: …}]", resource.Warning))
			}
			continue
		case rec.Kind != "APIKey" || string(was.JSON) == string(rec.JSON):
			continue
		}
		key, err := s.apiKeys.of(rec)
		if err != nil {
			return nil, err
		}
		for _, f := range key.Validate(s.td.Name(), time.Now()) {
			faults = append(faults, told(f.Code, f.Field, f.Text, f.Hint, resource.Error))
		}
		for i, x := range key.Secrets {
			by := claimed[x.ID]
			if by == nil {
				by = s.holder(x.ID, then)
			}
			if by != nil && by.Principal() != key.Principal() {
				f := apikey.Taken(&key, i, by)
				faults = append(faults, told(f.Code, f.Field, f.Text, f.Hint, resource.Error))
			}
			claimed[x.ID] = &key
		}
		for i, a := range key.Audiences {
			if _, owner, consent := directory().Reach(a, key.Namespace, key.Scopes); owner != "" && !consent {
				faults = append(faults, told(noConsent, fmt.Sprintf("spec.audiences[%d]", i), fmt.Sprintf("an audience of namespace %s without its consent", owner),
					fmt.Sprintf("there, in the OAuthResource: grantTo: [{namespace: %s, scopes: […]}]", key.Namespace), resource.Error))
			}
		}
		if text := limitless(&key, then); text != "" {
			warnings = append(warnings, told("", "spec.limitClass", text, "", resource.Warning))
		}
	}
	if len(faults) > 0 {
		return nil, &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s: %s; nothing was changed", b.doing, count(len(faults), "fault")), Faults: faults}
	}
	return warnings, nil
}

// holder is the stored key that still has an id once the batch is in force.
func (s *Server) holder(id string, then map[string]catalog.Record) *apikey.Record {
	by := s.world.load().apiKeys.Holder(id)
	if by == nil {
		return nil
	}
	rec, ok := then[catalog.Key("APIKey", by.Namespace, by.Name)]
	if !ok {
		return nil
	}
	key, err := s.apiKeys.of(rec)
	if err != nil || !slices.ContainsFunc(key.Secrets, func(x apikey.Secret) bool { return x.ID == id }) {
		return nil
	}
	return by
}

// onGateway reports whether a RequestAuthentication is attached to a Gateway of ours.
func (v *view) onGateway(a *policy.RequestAuthentication, root string) bool {
	c, _ := policy.Compile(policy.Set{RootNamespace: root, RequestAuth: []policy.RequestAuthentication{*a}})
	for _, g := range v.Edge.Ours() {
		if c.APIKeys(v.gatewayDestination(g.Name)) != "" {
			return true
		}
	}
	return false
}

// limitless says that the limit class of a key does not exist.
func limitless(key *apikey.Record, objects map[string]catalog.Record) string {
	if key.LimitClass == "" {
		return ""
	}
	if _, ok := objects[catalog.Key("RateLimit", key.Namespace, key.LimitClass)]; ok {
		return ""
	}
	return fmt.Sprintf("no RateLimit %q in namespace %s: requests with the key are answered 500", key.LimitClass, key.Namespace)
}

// unreadyKey says why a key is of no use now.
func (s *Server) unreadyKey(v *view, key *apikey.Record, now time.Time) string {
	switch {
	case s.tokens == nil:
		return "there is no token service"
	case key.Disabled:
		return "disabled"
	case !now.Before(key.Expires):
		return "expired"
	}
	for _, x := range key.Secrets {
		if by := v.apiKeys.Holder(x.ID); by == nil || by.Principal() != key.Principal() {
			return "id " + x.ID + " is another key's"
		}
	}
	for _, a := range key.Audiences {
		switch canonical, owner, consent := v.directory.Reach(a, key.Namespace, key.Scopes); {
		case owner != "" && !consent:
			return fmt.Sprintf("audience %s of namespace %s is not granted", a, owner)
		case canonical == "":
			return "no audience " + a
		}
	}
	for _, r := range key.Routes {
		if !slices.ContainsFunc(v.routeNames(), func(name string) bool { return name == r }) {
			return "no HTTPRoute " + r
		}
	}
	return limitless(key, v.records)
}

func (v *view) routeNames() (out []string) {
	for i := range v.Edge.Routes {
		out = append(out, v.Edge.Routes[i].Name.String())
	}
	return out
}

// keyNotes say what a caller could prove himself with instead of a key.
func (v *view) keyNotes(key *apikey.Record) []string {
	if !strings.HasPrefix(key.Owner, "spiffe://") {
		return nil
	}
	for _, i := range v.Instances {
		if i.Owner == key.Owner {
			return []string{"its owner runs in the mesh, where its SVID proves more: call the service there, without a key"}
		}
	}
	return nil
}

func (s *Server) directoryOf(v *view) *grant.Directory {
	d, _ := grant.New(s.grantObjects(v))
	return d
}
