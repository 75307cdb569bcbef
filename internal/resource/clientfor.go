package resource

import (
	"encoding/json"
	"strings"
)

// ClientSpec is what `client create` says of a client.
type ClientSpec struct {
	Namespace, Name   string
	Auth              string // empty: by SPIFFEID and JWKS, else client_secret
	SPIFFEID, JWKS    string
	Audiences, Scopes []string // every scope at every audience, and by default
}

// ClientFor is the OAuthClient that says so, as JSON for Decode, which judges it.
func ClientFor(c ClientSpec) ([]byte, error) {
	spec := ordered{}
	switch {
	case c.Auth != "":
		spec = append(spec, pair{"auth", c.Auth})
	case c.SPIFFEID != "":
	case c.JWKS != "":
		spec = append(spec, pair{"auth", "private_key_jwt"})
	default:
		spec = append(spec, pair{"auth", "client_secret"})
	}
	if c.SPIFFEID != "" {
		spec = append(spec, pair{"spiffeId", c.SPIFFEID})
	}
	if c.JWKS != "" {
		dec := json.NewDecoder(strings.NewReader(c.JWKS))
		dec.UseNumber()
		var keys any
		if err := dec.Decode(&keys); err != nil {
			return nil, err
		}
		spec = append(spec, pair{"jwks", arrange(nil, keys)})
	}
	var targets []any
	for _, a := range c.Audiences {
		t := ordered{{"audience", a}}
		if len(c.Scopes) > 0 {
			var scopes []any
			for _, s := range c.Scopes {
				scopes = append(scopes, s)
			}
			t = append(t, pair{"scopes", scopes}, pair{"defaultScopes", scopes})
		}
		targets = append(targets, t)
	}
	if len(targets) > 0 {
		spec = append(spec, pair{"targets", targets})
	}
	return assemble("OAuthClient", c.Namespace, c.Name, nil, nil, spec).JSON, nil
}
