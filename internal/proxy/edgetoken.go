package proxy

import (
	"context"
	"errors"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/route"
)

// Credential is what a caller showed at a Gateway and was taken for its identity.
type Credential struct {
	Kind string // one of the kinds below; "": nothing that the token service exchanges
	Text string // as it was shown: never in a record, a log or an error
	// Of a key, after its check: the id of its secret and its scopes, by which the token is kept.
	KeyID  string
	Scopes []string

	kept bool // it goes on in Authorization, by forwardOriginalToken
}

// The kinds of credentials, as subject_token_type (tokens.md 7.2).
const (
	OwnToken     = "urn:ietf:params:oauth:token-type:access_token"
	ForeignToken = "urn:ietf:params:oauth:token-type:jwt"
	APIKey       = "urn:countersign:token-type:api_key"
)

// EdgeCall asks for the edge token of one credential towards one service.
type EdgeCall struct {
	Credential
	Audience string   // of the service
	Policy   [32]byte // the revision that let the request in
}

// The refusals of the exchange. What the token service said stands in the record alone.
var (
	refuseEdgeToken = &refused{status: 403, layer: audit.LayerToken, reason: "exchange", text: "the credential is not good for this service", keep: true}
	refuseNoEdge    = &refused{status: 503, layer: audit.LayerToken, reason: "missing", text: "no access token", decision: audit.Failed, keep: true, retry: "5"}
	refuseTwoShown  = &refused{status: 400, layer: audit.LayerToken, reason: "multiple", detail: "a credential was taken, and Authorization has another", text: "two credentials", keep: true}
)

// show keeps the token that was taken, if the token service exchanges it: one of our own, or of an issuer that is
// trusted for its subjects. What a RequestAuthentication alone knows stays at the door.
func (x *exchange) show(out *bearer.Outcome) {
	switch {
	case x.link.door == nil || out.Token == nil:
	case out.Own:
		x.shown = Credential{Kind: OwnToken, Text: out.Raw, kept: out.Kept}
	case x.v.Tokens.Exchanges(out.Token.Issuer()):
		x.shown = Credential{Kind: ForeignToken, Text: out.Raw, kept: out.Kept}
	}
}

// edgeToken is step 16 of gateway.md 15: the credential that was taken goes on as an edge token for the service that
// was chosen (tokens.md 15.1). A token that goes on by forwardOriginalToken in Authorization stays there instead.
func (x *exchange) edgeToken() *refused {
	switch {
	case x.shown.Kind == "" || x.shown.kept || x.place.foreign: // what is outside the mesh gets no token of ours
		return nil
	case len(x.r.Header["Authorization"]) > 0:
		return refuseTwoShown // neither may get lost: who the caller is, nor what the application is told
	}
	svc := x.v.Services[x.place.key]
	if svc == nil || svc.Audience == "" {
		return refuseNoEdge
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), attachTime)
	defer cancel()
	token, err := x.p.exchange(ctx, &x.run.Run, EdgeCall{Credential: x.shown, Audience: svc.Audience, Policy: x.v.PolicyRevision})
	if err != nil {
		return x.noEdgeToken(err)
	}
	x.r.Header["Authorization"] = []string{"Bearer " + token}
	return nil
}

func (x *exchange) noEdgeToken(err error) *refused {
	if x.overdue() {
		return refuseOverdueRule
	}
	no := *refuseNoEdge
	if why, ok := errors.AsType[*NoToken](err); ok {
		if why.Refused {
			no = *refuseEdgeToken
		}
		no.detail = why.detail()
	}
	x.p.log.Debug("no edge token", "gateway", x.run.label, "service", x.place.text, "error", err)
	return &no
}

// reached are the services that a request which the rule took may go to, as "ns/name": a token for one of them may be
// shown with it (gateway.md 13).
func (x *exchange) reached(rule *route.Rule) []string {
	var out []string
	for i := range rule.Backends {
		b := &rule.Backends[i]
		if _, bad := x.v.Refused[b]; bad || b.Weight == 0 {
			continue
		}
		if at := x.v.place(ServiceKey(b.Ref.Name), b.Port); at != nil {
			out = append(out, at.text)
		}
	}
	return out
}
