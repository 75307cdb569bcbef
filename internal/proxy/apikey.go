package proxy

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/limit"
	"countersign.dev/internal/policy"
)

// Keys are the API keys that Gateways take (tokens.md 14).
type Keys struct {
	Set *apikey.Set // every key of the trust domain: an unknown id asks nobody
	// Header is the field that a key stands in, if not in Authorization, by Gateway and listener; listener "" is all of
	// its listeners. Without an entry it is apikey.DefaultHeader.
	Header map[KeyPlace]string
}

// KeyPlace is a Gateway, or one of its listeners.
type KeyPlace struct {
	Gateway  ServiceKey
	Listener string
}

func (k *Keys) header(gateway ServiceKey, listener string) string {
	for _, at := range []KeyPlace{{gateway, listener}, {gateway, ""}} {
		if name, ok := k.Header[at]; ok {
			return http.CanonicalHeaderKey(name)
		}
	}
	return apikey.DefaultHeader
}

// The answers of the key step (tokens.md 14.3, 18.3): who shows a key that is not taken learns which of them it is, and
// no more.
var (
	refuseTwoCredentials = &refused{status: 400, layer: audit.LayerToken, reason: "multiple", text: apikey.ErrCredentials.Error(), keep: true}
	refuseKeyInURL       = &refused{status: 400, layer: audit.LayerToken, reason: keyInURL, text: apikey.ErrInURL.Error(), keep: true}
	refuseCleartextKey   = &refused{status: 400, layer: audit.LayerToken, reason: "plaintext", text: "an API key needs https", keep: true}
	refuseKeyEnded       = &refused{status: 401, layer: audit.LayerToken, reason: "revoked", text: apikey.ErrKey.Error(), challenge: `Bearer error="invalid_token"`, keep: true}
	refuseKeyRate        = &refused{status: 429, layer: audit.LayerLimit, reason: "rate", text: "too many API keys that are not valid", decision: audit.Limited, retry: "1", keep: true}
)

// What a source may get wrong before the answer says so (tokens.md 17). A key that is right is taken all the same.
const (
	wrongKeys      = 100 // a second
	wrongKeysBurst = 200
	wrongSources   = 4096 // that are counted at a time
)

// keyFailures counts keys that were not valid, by source.
type keyFailures struct {
	store *limit.Store
	rule  *limit.Rule
	began time.Time
}

func newKeyFailures(now time.Time) keyFailures {
	rule, err := limit.NewRule(limit.Spec{ID: "proxy/apikey/wrong", Rate: limit.Rate{Requests: wrongKeys, Per: time.Second, Burst: wrongKeysBurst}})
	if err != nil {
		panic(err) // its numbers are the constants above
	}
	return keyFailures{store: limit.New(wrongSources), rule: rule, began: now}
}

// spent counts one more key of the exchange's source that was wrong, and says whether there were too many.
func (f *keyFailures) spent(x *exchange) bool {
	asks := make([]limit.Ask, 1)
	asks[0].Begin(f.rule)
	asks[0].IP(x.clientAddr(), 32, 64)
	return !f.store.Take(x.now.Sub(f.began), asks).Admitted()
}

// apiKey is the key step of a Gateway, in front of the token step (tokens.md 14.3). A key is gone from the request
// behind it, whatever comes of it.
func (x *exchange) apiKey() *refused {
	env := x.v.Compiled.APIKeys(x.run.dst)
	if env == "" {
		return nil
	}
	if no := x.keyInURL(); no != nil {
		return no
	}
	h := x.r.Header
	header := x.v.Keys.header(x.run.key, x.rec.Listener)
	text, err := apikey.Find(h["Authorization"], h[header])
	switch {
	case err != nil:
		return x.challenged(refuseTwoCredentials, "invalid_request")
	case text == "":
		return nil
	}
	in := header
	if !slices.ContainsFunc(h[header], func(v string) bool { return strings.HasPrefix(strings.Trim(v, " \t"), apikey.Prefix) }) {
		in = "Authorization"
	}
	delete(h, in)
	switch {
	case x.link.ofMesh():
		x.note(keyBesideSVID)
		return nil
	case x.exposed():
		return refuseCleartextKey
	}
	verdict, err := x.v.Keys.Set.Check([]byte(text), apikey.Env(env), x.clientAddr(), x.now)
	x.rec.APIKeyID = verdict.ID
	if err == nil && !x.within(x.v, verdict.Record) {
		verdict.Reason, err = apikey.OutOfReach, apikey.ErrForbidden
	}
	x.p.metrics.APIKey(string(verdict.Reason))
	switch err {
	case nil:
	case apikey.ErrForbidden:
		return &refused{status: 403, layer: audit.LayerToken, reason: verdict.Reason.Code(), detail: verdict.Reason.Words(), text: err.Error(), keep: true}
	default:
		if x.p.wrongKeys.spent(x) {
			return refuseKeyRate
		}
		return x.challenged(&refused{status: 401, layer: audit.LayerToken, reason: verdict.Reason.Code(), detail: verdict.Reason.Words(), text: apikey.ErrKey.Error(), keep: true}, "invalid_token")
	}
	key := verdict.Record
	x.key, x.shown = key, Credential{Kind: APIKey, Text: text, KeyID: verdict.ID, Scopes: key.Scopes}
	token := &keyToken{issuer: x.v.Tokens.Issuer(), record: key}
	x.ask.Token = token
	x.rec.Subject = &audit.Subject{
		Iss: token.issuer, Sub: key.Principal(), Scopes: strings.Join(slices.Sorted(slices.Values(key.Scopes)), " "),
		TokenType: "api_key", Auth: "api_key", Binding: "none",
	}
	if x.v.owners[key.Owner] {
		x.note("the owner of the key runs in the mesh: its SVID proves more")
	}
	if x.p.keyUsed != nil {
		x.p.keyUsed(verdict.ID)
	}
	return nil
}

// challenged is an answer with its challenge (RFC 6750, section 3).
func (x *exchange) challenged(no *refused, code string) *refused {
	out := *no
	out.challenge = `Bearer realm="` + x.run.label + `", error="` + code + `"`
	return &out
}

// keyInURL refuses a request with a key in its target: addresses are kept by everybody on the way. One that is right is
// told, to be ended (tokens.md 14.3).
func (x *exchange) keyInURL() *refused {
	found := apikey.InURL(x.r.RequestURI)
	if len(found) == 0 {
		return nil
	}
	for _, text := range found {
		if _, id, ok := x.v.Keys.Set.Proves([]byte(text)); ok {
			x.rec.APIKeyID = id
			if x.p.keyExposed != nil {
				x.p.keyExposed(id, x.run.label)
			}
		}
	}
	return x.challenged(refuseKeyInURL, "invalid_request")
}

// within is step 9: the rule that takes the request is of a route of the key, and every service that it can choose is
// one of its audiences.
func (x *exchange) within(v *view, key *apikey.Record) bool {
	if len(key.Routes) > 0 && !slices.Contains(key.Routes, x.hit.Route.Name.String()) {
		return false
	}
	if len(key.Audiences) == 0 {
		return true
	}
	directory := v.Tokens.Directory()
	for i := range x.hit.Rule.Backends {
		b := &x.hit.Rule.Backends[i]
		if b.Weight > 0 && !directory.Reaches(key.Namespace, key.Audiences, key.Scopes, b.Ref.Name.String()) {
			return false
		}
	}
	return true
}

// withoutToken refuses a token beside an API key, be it good or not.
func (x *exchange) withoutToken() *refused {
	return x.challenged(refuseTwoCredentials, "invalid_request")
}

// keyBesideSVID is noted where a workload shows a key (tokens.md 14.2).
const keyBesideSVID = "an API key was taken out: the caller's SVID proves more"

// ofMesh reports a caller that a certificate of our trust domain proves.
func (l *link) ofMesh() bool { return l.peerID != "" && l.caller != nil && !l.caller.Foreign }

// stripKey takes API keys out of what a workload sends: inside the mesh they are no credential, and whoever received
// one could use it.
func (x *exchange) stripKey() *refused {
	if !x.link.ofMesh() {
		return nil
	}
	h := x.r.Header
	for _, name := range []string{"Authorization", apikey.DefaultHeader} {
		if slices.ContainsFunc(h[name], holdsKey) {
			delete(h, name)
			x.note(keyBesideSVID)
		}
	}
	return nil
}

// holdsKey reports a value that holds a key for certain: other programs have keys that begin alike.
func holdsKey(v string) bool {
	i := strings.Index(v, apikey.Prefix)
	return i >= 0 && len(v) >= i+apikey.Len && apikey.Is(v[i:i+apikey.Len])
}

// keyToken is what policy reads of an API key (tokens.md 8.7).
type keyToken struct {
	issuer string
	record *apikey.Record
}

var _ policy.Token = (*keyToken)(nil)

func (t *keyToken) Issuer() string              { return t.issuer }
func (t *keyToken) Subject() string             { return t.record.Principal() }
func (t *keyToken) Upstream() (iss, sub string) { return "", "" }
func (t *keyToken) Audience() []string          { return nil }
func (t *keyToken) Presenter() string           { return "" }
func (t *keyToken) Actors() []string            { return nil }
func (t *keyToken) Claim(path []string) (v []string) {
	if len(path) != 1 {
		return nil
	}
	switch path[0] {
	case "scope":
		return t.record.Scopes
	case "own":
		return []string{t.record.Owner}
	case "oat":
		return []string{"api_key"}
	}
	return nil
}

// endKeys ends what is under way with an API key whose own time is over: no change of objects tells of that.
func (p *Proxy) endKeys() {
	v := p.view.Load()
	for _, r := range p.all() {
		if len(r.doors) == 0 {
			continue
		}
		r.live.sweep(func(x *exchange) *cut {
			if x.key == nil {
				return nil
			}
			_, c := x.judgeKey(v)
			return c
		})
	}
}

// judgeKey asks whether the key of an exchange under way still counts for it, and gives what policy reads of it now.
func (x *exchange) judgeKey(v *view) (*keyToken, *cut) {
	now := v.Keys.Set.Still(x.rec.APIKeyID, x.p.now())
	if now != nil && now.Principal() == x.key.Principal() && string(now.Env) == v.Compiled.APIKeys(x.run.dst) &&
		now.Admits(x.clientAddr()) && x.within(v, now) {
		return &keyToken{issuer: v.Tokens.Issuer(), record: now}, nil
	}
	return nil, &cut{why: cutToken, rev: v.PolicyRevision}
}
