package grant

import (
	"cmp"
	"slices"
	"strings"

	"countersign.dev/internal/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Directory is all objects at one revision, held against each other. It never changes.
type Directory struct {
	domain     string // "spiffe://<trust domain>/", what every ID of ours begins with
	issuer     string
	noImplicit bool

	clients    map[string]*Client // by client_id
	identities map[string]*Client // by spiffeId: a SPIFFE ID, or a prefix ending in /

	services  map[string]string    // "ns/name" → canonical audience
	canonical map[string]bool      // every audience, with or without a record
	records   map[string]*Audience // by canonical audience
	byService map[string]*Audience // by "ns/name", the service there or not
	resources map[string]string    // value of the parameter resource → canonical audience

	issuers     map[string]*Issuer // by iss
	aliases     map[string]*Issuer
	delegations map[string][]*delegation // by canonical audience
}

// New holds the objects against each other. Whatever the faults, the Directory can be used:
// what a fault is about gives nobody anything, and a client with one is disabled.
func New(o Objects) (*Directory, []Fault) {
	d := &Directory{
		domain: "spiffe://" + o.TrustDomain + "/", issuer: o.Issuer, noImplicit: o.NoImplicit,
		clients: make(map[string]*Client), identities: make(map[string]*Client),
		services: make(map[string]string), canonical: make(map[string]bool),
		records: make(map[string]*Audience), byService: make(map[string]*Audience), resources: make(map[string]string),
		issuers: make(map[string]*Issuer), aliases: make(map[string]*Issuer),
		delegations: make(map[string][]*delegation),
	}
	var f faults
	d.addServices(o)
	d.addIssuers(&f, o.Issuers)
	audiences := d.addAudiences(&f, o.Audiences)
	clients := d.addClients(&f, o.Clients)
	d.refuseConfusable(&f, audiences)
	d.checkTargets(&f, clients)
	d.addDelegations(&f, o.Delegations)
	return d, f
}

// inOrder is a copy in the order of Objects: the first of two that claim one name keeps it.
func inOrder[T any](list []T, key func(*T) (since int64, ns, name string)) []*T {
	list = slices.Clone(list)
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	slices.SortStableFunc(out, func(a, b *T) int {
		at, ans, an := key(a)
		bt, bns, bn := key(b)
		return cmp.Or(cmp.Compare(at, bt), cmp.Compare(ans, bns), cmp.Compare(an, bn))
	})
	return out
}

// addServices gives every service its audience: the first owner, else the workload of its own
// name (registry.md 10, rule R1).
func (d *Directory) addServices(o Objects) {
	for _, s := range o.Services {
		id := d.domain + "ns/" + s.Namespace + "/sa/" + s.Name
		if len(s.Owners) > 0 {
			id = s.Owners[0]
		}
		if _, err := identity.ParseID([]byte(id)); err != nil {
			continue // nobody could be the audience
		}
		d.services[s.Namespace+"/"+s.Name] = id
		d.canonical[id], d.resources[id] = true, id
		d.resources["http://"+s.Name+"."+s.Namespace] = id // as its metadata name it (RFC 9728)
	}
}

func (d *Directory) addIssuers(f *faults, list []Issuer) {
	for _, i := range inOrder(list, func(i *Issuer) (int64, string, string) { return i.Since, i.Namespace, i.Name }) {
		at := place{"TrustedIssuer", i.Namespace, i.Name}
		switch first, taken := d.aliases[i.Name]; {
		case reservedAlias(i.Name):
			f.add(at, wrong, "metadata.name", "spiffe, key and cert are no aliases: a sub under them names somebody else", "give the issuer another name")
		case taken:
			f.taken(at, "metadata.name", "the alias", i.Name, first.Namespace)
		case i.Issuer == d.issuer:
			f.add(at, wrong, "spec.issuer", "the issuer is this mesh's own", "its tokens are taken without a record")
		case d.issuers[i.Issuer] != nil:
			f.taken(at, "spec.issuer", "the issuer", i.Issuer, d.issuers[i.Issuer].Namespace)
		default:
			d.aliases[i.Name], d.issuers[i.Issuer] = i, i
		}
	}
}

// reservedAlias reports a prefix of sub that names workloads, API keys or certificates
// (tokens.md 7.3).
func reservedAlias(s string) bool { return s == "spiffe" || s == "key" || s == "cert" }

func (d *Directory) addAudiences(f *faults, audiences []Audience) []*Audience {
	list := inOrder(audiences, func(a *Audience) (int64, string, string) { return a.Since, a.Namespace, a.Name })
	owners := make(map[string]*Audience) // of every value
	for _, a := range list {
		if d.checkAudience(f, a, owners) {
			d.addAudience(a, owners)
		}
	}
	return list
}

func (d *Directory) addAudience(a *Audience, owners map[string]*Audience) {
	if a.Service != "" {
		d.byService[a.service()] = a
		owners[a.service()] = a
	}
	canonical := d.audienceOf(a)
	for _, v := range append(slices.Clone(a.Resources), canonical) {
		if v != "" {
			owners[v] = a
		}
	}
	if canonical == "" {
		return // its service may come
	}
	d.records[canonical], d.canonical[canonical] = a, true
	d.resources[canonical] = canonical
	for _, v := range a.Resources {
		d.resources[v] = canonical
	}
}

// remove takes a record out; a service stays an audience without one.
func (d *Directory) remove(a *Audience) {
	if canonical := d.audienceOf(a); canonical != "" {
		delete(d.records, canonical)
		if a.Service == "" {
			delete(d.canonical, canonical)
			delete(d.resources, canonical)
		}
	}
	for _, v := range a.Resources {
		delete(d.resources, v)
	}
	delete(d.byService, a.service())
}

func (a *Audience) service() string { return a.Namespace + "/" + a.Service }

// audienceOf is the canonical audience of a record; "" while its service does not exist.
func (d *Directory) audienceOf(a *Audience) string {
	if a.Service != "" {
		return d.services[a.service()]
	}
	return a.URI
}

// namespaceOf is the namespace an audience speaks for; "" where nobody here does.
func (d *Directory) namespaceOf(canonical string) string {
	if a := d.records[canonical]; a != nil {
		return a.Namespace
	}
	return d.namespaceOfID(canonical)
}

// namespaceOfID is the namespace of a SPIFFE ID of this trust domain; else "".
func (d *Directory) namespaceOfID(id string) string {
	if !strings.HasPrefix(id, d.domain) {
		return ""
	}
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return ""
	}
	ns, _, _ := identity.Split(parsed)
	return ns
}

// name reads the name of a service as people write it: orders (in namespace ns), orders.shop,
// orders.shop.svc.<trust domain>.
func (d *Directory) name(s, ns string) (service string, ok bool) {
	s, full := strings.CutSuffix(s, ".svc."+strings.TrimSuffix(strings.TrimPrefix(d.domain, "spiffe://"), "/"))
	name, in, dotted := strings.Cut(s, ".")
	if dotted {
		ns = in
	} else if full {
		return "", false
	}
	if identity.CheckLabel(name) != nil || identity.CheckLabel(ns) != nil {
		return "", false
	}
	return ns + "/" + name, true
}

// find is the canonical audience of a value as people write it in an object of namespace ns,
// or send it as audience.
func (d *Directory) find(value, ns string) (canonical string, ok bool) {
	if d.canonical[value] {
		return value, true
	}
	if service, ok := d.name(value, ns); ok {
		canonical, ok = d.services[service]
		return canonical, ok
	}
	return "", false
}

// Audience is the record of an audience; nil: it has none.
func (d *Directory) Audience(canonical string) *Audience { return d.records[canonical] }

// Issuer is the trusted issuer of that iss, byte for byte; nil: it is not trusted.
func (d *Directory) Issuer(iss string) *Issuer { return d.issuers[iss] }

// Issuers are all trusted issuers, by alias.
func (d *Directory) Issuers() []Issuer {
	out := make([]Issuer, 0, len(d.issuers))
	for _, i := range d.issuers {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b Issuer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
