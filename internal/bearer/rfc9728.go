package bearer

import (
	"encoding/json"
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
	if r.directory == nil || r.issuer == "" {
		return ""
	}
	r.metadata = make(map[string][]byte)
	for _, service := range w.Services {
		namespace, name, _ := strings.Cut(service, "/")
		host := name + "." + namespace
		canonical, _ := r.directory.Find(host, "")
		a := r.directory.Audience(canonical)
		if a == nil {
			continue
		}
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
