package grant

import (
	"fmt"
	"slices"
	"strings"

	"countersign.dev/internal/identity"
)

// The codes of istio-semantics.md 11 that are given here.
const (
	badName = "E103" // a name that is not one
	twice   = "E113" // the same thing twice
	wrong   = "E224" // what nobody may have
	foreign = "E308" // somebody else's name, without that one's consent
)

// place is an object, for a Fault.
type place struct{ kind, namespace, name string }

type faults []Fault

func (f *faults) add(at place, code, field, text, hint string) {
	*f = append(*f, Fault{Kind: at.kind, Namespace: at.namespace, Name: at.name, Code: code, Field: field, Text: text, Hint: hint})
}

// taken reports what another object has. It names that one's namespace and not the object,
// which the writer may not be allowed to see (security.md 4).
func (f *faults) taken(at place, field, what, value, by string) {
	code := foreign
	if by == at.namespace {
		code = twice
	}
	f.add(at, code, field, fmt.Sprintf("%s %.80q is taken in namespace %s", what, value, by), "it must be unique in the trust domain")
}

// checkAudience reports whether a record may speak for what it names.
func (d *Directory) checkAudience(f *faults, a *Audience, owners map[string]*Audience) bool {
	at, before := place{"OAuthResource", a.Namespace, a.Name}, len(*f)
	canonical := d.audienceOf(a)
	if a.Service != "" {
		if first := owners[a.service()]; first != nil {
			f.taken(at, "spec.service", "the service", a.Service, first.Namespace)
		} else if first := owners[canonical]; canonical != "" && first != nil {
			f.taken(at, "spec.service", "the audience of service", a.Service, first.Namespace)
		} else if canonical != "" && d.namespaceOfID(canonical) != a.Namespace {
			f.add(at, foreign, "spec.service", fmt.Sprintf("service %s is owned by an identity that is not of namespace %s", a.Service, a.Namespace),
				"only an OAuthResource in the namespace of its first owner speaks for that identity")
		}
	}
	for i, v := range slices.Concat([]string{a.URI}, a.Resources) {
		field := "spec.audience"
		if i > 0 {
			field = fmt.Sprintf("spec.resources[%d]", i-1)
		}
		switch first := owners[v]; {
		case v == "":
		case first != nil:
			f.taken(at, field, "the value", v, first.Namespace)
		case strings.HasPrefix(v, d.domain) || d.canonical[v]:
			f.add(at, foreign, field, fmt.Sprintf("%.80q is the identity of a workload", v), "write service: with the name of a service it owns")
		}
	}
	return len(*f) == before
}

// checkClient reports whether a client may call itself so.
func (d *Directory) checkClient(f *faults, c *Client) bool {
	at, before := place{"OAuthClient", c.Namespace, c.Name}, len(*f)
	prefix, _, colon := strings.Cut(c.ClientID, ":")
	switch alias := d.aliases[prefix]; {
	case d.clients[c.ClientID] != nil:
		f.taken(at, "spec.clientId", "clientId", c.ClientID, d.clients[c.ClientID].Namespace)
	case colon && prefix == "spiffe" && c.ClientID != c.SPIFFEID:
		f.add(at, wrong, "spec.clientId", "clientId is a SPIFFE ID that the client does not have", "leave it out: it follows from spiffeId")
	case colon && prefix != "spiffe" && reservedAlias(prefix):
		f.add(at, wrong, "spec.clientId", fmt.Sprintf("clientId begins with %s:, as the sub of somebody else does", prefix), "")
	case colon && alias != nil && alias.Since > c.Since:
		f.add(place{"TrustedIssuer", alias.Namespace, alias.Name}, foreign, "metadata.name",
			fmt.Sprintf("the clientId of a client of namespace %s begins with %s: it would be the sub of a user of this issuer", c.Namespace, prefix+":"), "give the issuer another name")
		delete(d.aliases, alias.Name)
		delete(d.issuers, alias.Issuer)
		return true
	case colon && alias != nil:
		f.add(at, foreign, "spec.clientId", fmt.Sprintf("clientId begins with %s:, the alias of an issuer of namespace %s: it would be the sub of a user there", prefix, alias.Namespace), "")
	}
	switch {
	case c.SPIFFEID == "":
	case !validPattern(c.SPIFFEID):
		f.add(at, badName, "spec.spiffeId", fmt.Sprintf("%.80q is no SPIFFE ID, nor the beginning of one and /*", c.SPIFFEID), "")
	case reservedID(c.SPIFFEID):
		f.add(at, wrong, "spec.spiffeId", "namespace "+identity.ReservedNamespace+" is reserved for nodes and servers: they are no clients", "")
	}
	return len(*f) == before
}

// validPattern reports an exact SPIFFE ID or a trust domain, or either and /*.
func validPattern(s string) bool {
	_, err := identity.ParseID([]byte(strings.TrimSuffix(s, "/*")))
	return err == nil
}

// refuseConfusable takes audiences out whose access tokens, of typ JWT, could pass for tokens
// of another kind (tokens.md 8.1).
func (d *Directory) refuseConfusable(f *faults, list []*Audience) {
	for _, a := range list {
		canonical := d.audienceOf(a)
		if !a.TypJWT || d.records[canonical] != a && d.byService[a.service()] != a {
			continue
		}
		at := place{"OAuthResource", a.Namespace, a.Name}
		switch client := d.clients[canonical]; {
		case a.Service != "" || strings.HasPrefix(canonical, "spiffe://"):
			f.add(at, wrong, "spec.typ", "typ JWT is not for mesh services", "their proxies take at+jwt, the default")
		case canonical == d.issuer:
			f.add(at, wrong, "spec.audience", "typ JWT is not for the issuer: an ID token could pass for an access token", "")
		case client != nil && client.Since > a.Since:
			f.add(place{"OAuthClient", client.Namespace, client.Name}, wrong, "spec.clientId",
				fmt.Sprintf("clientId is an audience of typ JWT (namespace %s): ID tokens of the client could pass for its access tokens", a.Namespace), "")
			client.Disabled = true
			continue
		case client != nil:
			f.add(at, wrong, "spec.audience", fmt.Sprintf("typ JWT is not for the clientId of a client (namespace %s): its ID tokens could pass for access tokens", client.Namespace), "")
		default:
			continue
		}
		d.remove(a)
	}
}

// checkTargets reports scopes of other namespaces without their consent, and audiences that
// stand twice. It takes nothing out: scopes are granted by what Scopes finds.
func (d *Directory) checkTargets(f *faults, list []*Client) {
	for _, c := range list {
		at := place{"OAuthClient", c.Namespace, c.Name}
		seen := make(map[string]int)
		for i, t := range c.Targets {
			field := fmt.Sprintf("spec.targets[%d]", i)
			if canonical, ok := d.find(t.Audience, c.Namespace); ok {
				if first, again := seen[canonical]; again {
					f.add(at, twice, field+".audience", fmt.Sprintf("the audience of spec.targets[%d] again", first), "services of one owner share an audience: write one target")
				} else {
					seen[canonical] = i
				}
			}
			ns, record := d.speaker(t.Audience, c.Namespace)
			if ns == "" || ns == c.Namespace || len(t.Scopes)+len(t.DefaultScopes) == 0 {
				continue
			}
			consent := "grantTo in an OAuthResource of namespace " + ns
			if record != nil {
				consent = "grantTo in OAuthResource " + ns + "/" + record.Name
			}
			refused := func(s string) bool { return record == nil || !record.grants(c.Namespace, s) }
			if slices.ContainsFunc(t.Scopes, refused) || slices.ContainsFunc(t.DefaultScopes, refused) {
				f.add(at, foreign, field+".scopes", fmt.Sprintf("scopes of namespace %s without its consent: %s", ns, consent),
					fmt.Sprintf("there: grantTo: [{namespace: %s, scopes: […]}]", c.Namespace))
			}
		}
	}
}

// speaker is the namespace that an audience belongs to, as written in an object of namespace
// ns, and its record, the service there or not. "" is unknown.
func (d *Directory) speaker(value, ns string) (string, *Audience) {
	canonical, known := d.find(value, ns)
	if known {
		if owner := d.namespaceOf(canonical); owner != "" {
			return owner, d.records[canonical]
		}
	}
	if service, ok := d.name(value, ns); ok {
		owner, _, _ := strings.Cut(service, "/")
		return owner, d.byService[service]
	}
	return d.namespaceOfID(value), nil
}
