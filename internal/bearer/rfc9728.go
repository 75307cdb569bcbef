package bearer

import (
	"encoding/json"
	"iter"
	"net/url"
	"slices"
	"strings"

	"countersign.dev/internal/grant"
)

// MetadataPath is how the path of protected resource metadata begins (RFC 9728, section 3.1);
// the resource's own path follows.
const MetadataPath = "/.well-known/oauth-protected-resource"

// protectedResource is a document of RFC 9728, section 2, as far as something here has it.
type protectedResource struct {
	Resource string   `json:"resource"`
	Servers  []string `json:"authorization_servers"`
	Scopes   []string `json:"scopes_supported,omitempty"`
	Methods  []string `json:"bearer_methods_supported"`
	MTLS     bool     `json:"tls_client_certificate_bound_access_tokens"`
	Name     string   `json:"resource_name"`
}

// Metadata is the document of the resource that a host (lower case, without the port of its
// scheme) and a path of the form of MetadataPath name; nil: that is none of the workload's
// with a record.
func (r *Rules) Metadata(host, path string) []byte {
	suffix, ok := strings.CutPrefix(path, MetadataPath)
	if !ok || suffix != "" && suffix[0] != '/' {
		return nil
	}
	return r.metadata[host+suffix]
}

// describe makes the metadata of the workload's recorded services, each by its name in the mesh
// and by the resources of its record. It gives the URL that challenges name; "" is none.
func (r *Rules) describe(w Workload) (first string) {
	r.metadata = make(map[string][]byte)
	for service, a := range r.recorded(w.Services) {
		namespace, name, _ := strings.Cut(service, "/")
		host := name + "." + namespace
		for _, resource := range append([]string{"http://" + host}, a.Resources...) {
			if at, ok := placeOf(resource); ok && r.metadata[at] == nil {
				r.metadata[at] = r.document(resource, service, a)
			}
		}
		if first == "" || service == w.Service {
			first = "http://" + host + MetadataPath
		}
	}
	return first
}

// Resource is the document of a resource of services ("ns/name") that others reach by a Gateway, host and path as
// Metadata takes them; nil: it is none of theirs.
func (b *Book) Resource(services []string, host, path string) []byte {
	r := &Rules{issuer: b.facts.Issuer, directory: b.facts.Directory}
	suffix := strings.TrimPrefix(path, MetadataPath)
	for service, a := range r.recorded(services) {
		for _, resource := range a.Resources {
			if at, ok := placeOf(resource); ok && at == host+suffix {
				return r.document(resource, service, a)
			}
		}
	}
	return nil
}

// Where is the URL of the document of the resource that a request is for: the longest above its path; "" is none.
func (b *Book) Where(services []string, host, path string) (where string) {
	r, longest := &Rules{issuer: b.facts.Issuer, directory: b.facts.Directory}, -1
	for _, a := range r.recorded(services) {
		for _, resource := range a.Resources {
			at, ok := placeOf(resource)
			below, under := strings.CutPrefix(host+path, at)
			if !ok || !under || below != "" && below[0] != '/' || len(at) <= longest {
				continue
			}
			u, _ := url.Parse(resource) // placeOf has read it
			where, longest = u.Scheme+"://"+u.Host+MetadataPath+strings.TrimSuffix(u.EscapedPath(), "/"), len(at)
		}
	}
	return where
}

// recorded are the services that have a record.
func (r *Rules) recorded(services []string) iter.Seq2[string, *grant.Audience] {
	return func(yield func(string, *grant.Audience) bool) {
		if r.directory == nil || r.issuer == "" {
			return
		}
		for _, service := range services {
			namespace, name, _ := strings.Cut(service, "/")
			canonical, _ := r.directory.Find(name+"."+namespace, "")
			if a := r.directory.Audience(canonical); a != nil && !yield(service, a) {
				return
			}
		}
	}
}

func (r *Rules) document(resource, service string, a *grant.Audience) []byte {
	d := protectedResource{Resource: resource, Servers: []string{r.issuer}, Methods: []string{"header"}, MTLS: true, Name: service}
	for _, s := range a.Scopes {
		if s.Public {
			d.Scopes = append(d.Scopes, s.Name)
		}
	}
	slices.Sort(d.Scopes)
	text, err := json.Marshal(d)
	if err != nil {
		return nil // it holds texts alone
	}
	return text
}

// placeOf is where Metadata looks a resource up; false for one that no request can name.
func placeOf(resource string) (string, bool) {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.ForceQuery || u.User != nil {
		return "", false
	}
	port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	if port == "" {
		return "", false
	}
	path := u.EscapedPath()
	if path == "/" { // section 3.1: of the host alone it goes
		path = ""
	}
	return strings.TrimSuffix(strings.ToLower(u.Host), port) + path, true
}
