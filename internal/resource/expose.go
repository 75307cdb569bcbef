package resource

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"countersign.dev/internal/route"
)

// The Gateway that expose shares among all HOSTs (gateway.md 5).
const (
	frontNamespace = "default"
	frontName      = "edge"
	frontPort      = 8443
	exposes        = "countersign.dev/exposes" // on its policies: HOST NAMESPACE/SERVICE, or the latter alone
	exposesLater   = "countersign.dev/exposes-later"

	maxFrontHosts = 64 // listeners of a Gateway
	maxFrontPaths = 64 // matches of a rule
)

// Way is one way in: tokens of Issuer that are meant for Audience, API keys of our Issuer, or everybody. The zero Way
// is a door that is closed.
type Way struct {
	Issuer, Audience string
	Keys, Public     bool
}

// Door is the sentence HOST SERVICE REQUEST… (cli.md 10.8a).
type Door struct {
	Host               string // as ParseHost gives it
	Namespace, Service string
	Labels             map[string]string // those the workload is known with; empty: app: SERVICE
	Port, ServicePort  uint16            // 0: as it is, else 8443 and 80
	Requests           []string          // as typed
	Ways               []Way
	Certificate        string // CHAIN,KEY on the gateway's host; empty: as it is, else our own
}

// Mesh is what the objects of a Door need to know of the mesh.
type Mesh struct{ TrustDomain, RootNamespace string }

// Exposure is what a sentence makes of the objects that are there.
type Exposure struct {
	Put     []Object // of the sentence first, in the order of cli.md 10.8a, then what changes with them
	Removed []Object
	Opened  []Opening // the door as it is then
	Port    uint16    // of its listener
	Own     bool      // which shows a certificate of our own authority
}

// Opening is what one way in leads to. Requests are sorted; "" is every one.
type Opening struct {
	Way
	Requests []string
}

// Refusal is why a sentence cannot be done (cli.md 9.5); nothing of it was.
type Refusal struct{ Code, Text, Hint string }

func (r *Refusal) Error() string { return r.Text }

// ErrNoDoor is the error of a HOST and SERVICE that were never exposed.
var ErrNoDoor = errors.New("not exposed")

// ParseHost reads a HOST: a name, or "*." and one; no scheme, port, path, address.
func ParseHost(s string) (string, bool) {
	host := strings.ToLower(s)
	labels := strings.Split(strings.TrimPrefix(host, "*."), ".")
	last := labels[len(labels)-1]
	if _, err := netip.ParseAddr(host); err == nil || len(host) > 253 || !slices.ContainsFunc([]byte(last), letter) {
		return "", false
	}
	for _, l := range labels {
		if !dnsLabel.MatchString(l) {
			return "", false
		}
	}
	return host, !strings.HasPrefix(last, "0x") // a browser reads 1.2.3.0x4 as an address
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' }

// Expose opens a door, or adds to one: requests and ways in, never taking any. objects are all that are applied.
func Expose(m Mesh, d Door, objects []Object) (Exposure, error) {
	before, after := readFront(m, objects), readFront(m, objects)
	if err := after.open(d, objects); err != nil {
		return Exposure{}, err
	}
	out, err := exposure(before, after, d.key())
	if l := after.listener(d.Host); l != nil {
		out.Port, out.Own = cmp.Or(d.Port, l.port), l.certificate == ""
	}
	return out, err
}

// Unexpose takes all of HOST and SERVICE that nothing else needs.
func Unexpose(m Mesh, d Door, objects []Object) (Exposure, error) {
	before, after := readFront(m, objects), readFront(m, objects)
	if after.doors[d.key()] == nil {
		return Exposure{}, ErrNoDoor
	}
	after.close(d.key())
	out, err := exposure(before, after, d.key())
	out.Put = slices.DeleteFunc(out.Put, func(o Object) bool { return string(o.JSON) == string(before.taken[o.ID()].JSON) })
	return out, err
}

// doorKey is what a door is known by.
type doorKey struct{ host, namespace, service string }

func (d Door) key() doorKey { return doorKey{d.Host, d.Namespace, d.Service} }

func (k doorKey) backend() string { return k.namespace + "/" + k.service }

func (k doorKey) String() string { return k.host + " " + k.backend() }

// door is one HOST of a SERVICE.
type door struct {
	port     uint16
	prefixes []string         // sorted
	ways     map[Way][]string // their requests, sorted; of the zero Way those that wait for one
}

// listener is one of the shared Gateway.
type listener struct {
	name, host, namespace, certificate string
	port                               uint16
}

// front is all that expose wrote: two of them with the same doors are written alike.
type front struct {
	mesh      Mesh
	listeners []listener
	doors     map[doorKey]*door
	labels    map[string]map[string]string // of workloads, by namespace/service
	present   map[string]Object            // by role, see write
	taken     map[string]Object            // every object by ID
}

func (f *front) open(d Door, objects []Object) error {
	if l := f.listener(d.Host); l != nil && l.namespace != d.Namespace {
		return &Refusal{"host_taken", fmt.Sprintf("%s is open to namespace %s only: Gateway/%s/%s", d.Host, l.namespace, frontNamespace, frontName), "countersign route show " + strings.Replace(d.Host, "*", "www", 1)}
	}
	var requests, prefixes []string
	for _, typed := range d.Requests {
		r, prefix, err := doorRequest(typed)
		if err != nil {
			return err
		}
		requests, prefixes = append(requests, r), append(prefixes, prefix)
	}
	if len(requests) == 0 {
		requests, prefixes = []string{""}, []string{"/"}
	}
	at := f.doors[d.key()]
	if at == nil {
		at = &door{port: 80, ways: map[Way][]string{}}
		f.doors[d.key()] = at
	}
	if d.ServicePort != 0 {
		at.port = d.ServicePort
	}
	for _, p := range prefixes {
		if other, service := f.leads(d, p, objects); other != "" {
			return &Refusal{"host_taken", fmt.Sprintf("%s%s goes to %s: %s", d.Host, p, service, other), "countersign route show " + strings.Replace(d.Host, "*", "www", 1)}
		}
	}
	at.prefixes = sortedSet(at.prefixes, prefixes)
	if n := len(at.prefixes); n > maxFrontPaths {
		return &Refusal{"too_large", fmt.Sprintf("%s would lead to %s by %d paths, at most %d are taken", d.Host, d.Service, n, maxFrontPaths), "a route of your own: countersign get httproutes -n " + d.Namespace + " -o yaml"}
	}
	at.add(d.Ways, requests)
	f.labels[d.key().backend()] = d.Labels
	return f.listen(d)
}

// add gives the requests to the ways. Without one they are for all there are; while there is none they wait for the
// first.
func (d *door) add(ways []Way, requests []string) {
	if len(ways) == 0 {
		ways = slices.Collect(maps.Keys(d.ways))
	}
	if len(ways) == 0 {
		ways = []Way{{}}
	}
	if waiting, closed := d.ways[Way{}]; closed && ways[0] != (Way{}) {
		requests = append(slices.Clone(requests), waiting...)
		delete(d.ways, Way{})
	}
	for _, w := range ways {
		all := sortedSet(d.ways[w], requests)
		if slices.Contains(all, "") {
			all = []string{""}
		}
		d.ways[w] = all
	}
}

// listen makes sure of the listener of the HOST; no other port is opened unasked.
func (f *front) listen(d Door) error {
	there := false
	for i := range f.listeners {
		if l := &f.listeners[i]; l.host == d.Host && (d.Port == 0 || l.port == d.Port) {
			there, l.certificate = true, cmp.Or(d.Certificate, l.certificate)
		}
	}
	if there {
		return nil
	}
	port := cmp.Or(d.Port, frontPort)
	if len(f.listeners) >= maxFrontHosts {
		return &Refusal{"too_large", fmt.Sprintf("Gateway/%s/%s has %d hosts, at most %d are taken", frontNamespace, frontName, len(f.listeners), maxFrontHosts), "write a Gateway of your own: countersign help apply"}
	}
	base := hostWord(d.Host)
	if port != frontPort {
		base = cutName(base, 6) + fmt.Sprintf("-%d", port)
	}
	for name := range numbered(base) {
		if !slices.ContainsFunc(f.listeners, func(l listener) bool { return l.name == name }) {
			f.listeners = append(f.listeners, listener{name: name, host: d.Host, namespace: d.Namespace, port: port, certificate: d.Certificate})
			return nil
		}
	}
	return fmt.Errorf("finding a name for the listener of %s: all are taken", d.Host)
}

func (f *front) close(k doorKey) {
	delete(f.doors, k)
	used := func(is func(doorKey) bool) bool {
		return slices.ContainsFunc(f.keys(), func(o doorKey) bool { return f.owns(o) && is(o) })
	}
	if !used(func(o doorKey) bool { return o.host == k.host }) {
		f.listeners = slices.DeleteFunc(f.listeners, func(l listener) bool { return l.host == k.host && l.namespace == k.namespace })
	}
	if !used(func(o doorKey) bool { return o.backend() == k.backend() }) {
		delete(f.labels, k.backend())
	}
}

func (f *front) listener(host string) *listener {
	for i := range f.listeners {
		if f.listeners[i].host == host {
			return &f.listeners[i]
		}
	}
	return nil
}

// leads is the route of another service that has the path of a HOST already, and the service.
func (f *front) leads(d Door, prefix string, objects []Object) (id, service string) {
	own := f.present[roleRoute(d.key())].ID()
	for _, o := range objects {
		if o.Kind != "HTTPRoute" || o.Namespace != d.Namespace || o.ID() == own {
			continue
		}
		r, err := httpRouteOf(o)
		if err != nil || len(r.Hostnames) > 0 && !slices.Contains(r.Hostnames, d.Host) ||
			!slices.ContainsFunc(r.Parents, func(p route.Parent) bool { return p.Name == route.Name{Namespace: frontNamespace, Name: frontName} }) {
			continue
		}
		for _, rule := range r.Rules {
			for _, m := range rule.Matches {
				if m.PathType != route.Prefix || m.Path != prefix && strings.TrimSuffix(m.Path, "/") != prefix {
					continue
				}
				service = r.Name.String()
				if len(rule.Backends) > 0 {
					service = rule.Backends[0].Name.Name
				}
				return o.ID(), service
			}
		}
	}
	return "", ""
}

// doorRequest is a REQUEST in the one form that doors keep, "GET,HEAD /orders/*", and the path of its route: the whole
// segments before the first wildcard.
func doorRequest(typed string) (request, prefix string, err error) {
	methods, paths, err := ParseRequest(typed)
	if err != nil {
		return "", "", err
	}
	slices.Sort(methods)
	request = strings.Join(methods, ",")
	if len(paths) == 0 {
		return request, "/", nil
	}
	path := paths[0]
	if request = strings.TrimSpace(request + " " + path); path == "*" {
		return strings.TrimSuffix(request, " *"), "/", nil
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if segment == "" || strings.ContainsAny(segment, "*{") {
			break
		}
		prefix += "/" + segment
	}
	switch {
	case strings.Contains(path, "//"):
		return "", "", &BadPattern{Text: fmt.Sprintf("path %s: // is taken as / at a Gateway", quote(path)), Hint: "write one /"}
	case prefix == "":
		return request, "/", nil
	case len(prefix) > 1024 || !routePath.MatchString(prefix) || escapedSlash.MatchString(prefix):
		return "", "", &BadPattern{Text: fmt.Sprintf("path %s: a route cannot lead there", quote(path)), Hint: "letters, digits and -._~!$&'()+,;=:@ in its first segments, or %XX, and no . or .."}
	}
	return request, prefix, nil
}

func sortedSet(lists ...[]string) []string {
	out := slices.Concat(lists...)
	slices.Sort(out)
	return slices.Compact(out)
}
