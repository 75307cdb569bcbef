package token

import (
	"context"
	"slices"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
)

// Edge tokens (tokens.md 8.2): what a Gateway gets for a credential that it took from a caller, towards one service.
const (
	edgeTTL   = 60 * time.Second
	edgeLeast = 1 // seconds: a caller is served to the end of its credential

	typeAPIKey = "urn:countersign:token-type:api_key"
	originKey  = "api_key"
)

// Gateway is what the routes of a Gateway lead to: the routes, "ns/name", by the audience of the service.
type Gateway map[string][]string

// gateway is what the caller's routes lead to if it is a Gateway, known by its certificate; nil: it is none.
func (c *caller) gateway() Gateway { return c.world.gateway(c.workload()) }

func (w *World) gateway(id string) Gateway {
	if w.Gateway == nil || id == "" {
		return nil
	}
	return w.Gateway(id)
}

// gatewayClient is the client that a Gateway without a record is, whatever is said of workloads without one.
func (w *World) gatewayClient(id, namespace string) *grant.Client {
	if w.gateway(id) == nil {
		return nil
	}
	return &grant.Client{Namespace: namespace, ClientID: id, Auth: grant.AuthSPIFFE, SPIFFEID: id, Binding: grant.BindIdentity, Implicit: true}
}

// edge is the exchange of a Gateway: the steps of tokens.md 7.2 for what it received, towards a service that its
// routes lead to and no other. No DelegationPolicy is asked.
func (s *Service) edge(ctx context.Context, c *caller, to Gateway, f *form, rec *audit.Record) (*answer, *fault) {
	if fault := checkTypes(f, true); fault != nil { // 1
		return nil, fault
	}
	var i *issue
	var key *apikey.Record
	var fault *fault
	if f.One("subject_token_type") == typeAPIKey {
		i, key, fault = s.keySubject(c, f)
	} else {
		i, fault = s.edgeSubject(c, to, f)
	}
	if fault != nil {
		return nil, fault
	}
	rec.ParentJTI, rec.RTI = i.parent, i.rti
	target, fault := to.target(c, f)
	if fault != nil {
		return nil, fault
	}
	rec.Audience = target.Canonical
	if key != nil {
		if fault := to.reaches(c, key, i, target.Canonical); fault != nil {
			return nil, fault
		}
	}
	e := grant.Exchange{
		Client: c.client, Actor: c.workload(), Subject: i.subject, Chain: i.actors, SubjectScopes: i.scopes, Scopes: f.Scopes(),
	}
	scopes, err := e.Edge() // 7 to 9
	if err != nil {
		return nil, refused(err)
	}
	i.scopes, i.actors = scopes, e.Acts()
	i.grant, i.target, i.typ, i.edge = rec.Grant, target, typeAccess, true
	return s.mint(ctx, c, i, rec) // 10
}

// edgeSubject is steps 2 to 6 for a token.
func (s *Service) edgeSubject(c *caller, to Gateway, f *form) (*issue, *fault) {
	i, subject, fault := s.subjectOf(c, f, to)
	if fault != nil {
		return nil, fault
	}
	if i.oat == originKey { // of a key there is one edge token, which goes no further
		return nil, refuse(codeRequest, textDelegation).because("delegation", "")
	}
	if _, fault := s.actorOf(c, f, i, subject); fault != nil {
		return nil, fault
	}
	return i, nil
}

// keySubject checks an API key once more, so that a captured Gateway speaks only for callers that it has seen
// (tokens.md 14.5).
func (s *Service) keySubject(c *caller, f *form) (*issue, *apikey.Record, *fault) {
	no := func(detail string) (*issue, *apikey.Record, *fault) {
		return nil, nil, refuse(codeRequest, textSubject).because("", detail)
	}
	if f.One("actor_token") != "" {
		return nil, nil, refuse(codeRequest, textActor)
	}
	v, until, err := c.world.APIKeys.Alive([]byte(f.One("subject_token")), c.now)
	if err != nil {
		return no(v.Reason.Code())
	}
	i := &issue{
		subject: v.Record.Principal(), scopes: v.Record.Scopes, until: until,
		rti: "key:" + v.ID, oat: originKey, ocid: c.client.ClientID, own: v.Record.Owner,
	}
	if reason := s.revoked(&subject{Sub: i.subject, RTI: i.rti, Client: i.ocid, OCID: i.ocid, Iat: c.now.Unix()}); reason != "" {
		return no(string(reason))
	}
	return i, v.Record, nil
}

// target is the one service that is asked for, if the routes lead to it.
func (g Gateway) target(c *caller, f *form) (grant.Resolved, *fault) {
	audience := f.All("audience")
	if len(audience) != 1 || len(f.All("resource")) > 0 {
		return grant.Resolved{}, refuse("invalid_target", "target not allowed")
	}
	canonical, ok := c.world.Directory.Find(audience[0], c.client.Namespace)
	if _, leads := g[canonical]; !ok || !leads {
		return grant.Resolved{}, refuse("invalid_target", "target not allowed")
	}
	return grant.Resolved{Canonical: canonical, Record: c.world.Directory.Audience(canonical)}, nil
}

// leads says whether a token is for a service of the routes.
func (g Gateway) leads(audience []string) bool {
	return slices.ContainsFunc(audience, func(a string) bool { _, ok := g[a]; return ok })
}

// reaches says whether an API key is for that service, by what it names: its audiences, its routes, or both.
func (g Gateway) reaches(c *caller, key *apikey.Record, i *issue, canonical string) *fault {
	scopes, ok := c.world.Directory.ForKey(key.Namespace, key.Audiences, key.Scopes, canonical)
	if ok && len(key.Routes) > 0 {
		ok = slices.ContainsFunc(g[canonical], func(r string) bool { return slices.Contains(key.Routes, r) })
	}
	if !ok {
		return refuse("invalid_target", "target not allowed").because("", "key_scope")
	}
	i.scopes = scopes
	return nil
}
