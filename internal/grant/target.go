package grant

import (
	"net/url"
	"strings"
)

// Resolved is what a client asked a token for.
type Resolved struct {
	Canonical string    // aud of the token
	Record    *Audience // nil: a service of the registry without one
	Target    *Target   // of the client's record; nil for an implicit client
}

// Resolve finds the one audience that the parameters audience and resource name, and whether
// the client may have it (tokens.md 6). An error is a *Refusal.
func (d *Directory) Resolve(c *Client, audience, resource []string) (Resolved, error) {
	if len(audience)+len(resource) == 0 {
		if c.Implicit || len(c.Targets) != 1 {
			return Resolved{}, noTarget()
		}
		audience = []string{c.Targets[0].Audience}
	}
	var one string
	for _, v := range audience {
		found, ok := d.find(v, c.Namespace)
		if !ok || one != "" && one != found {
			return Resolved{}, badTarget()
		}
		one = found
	}
	for _, v := range resource {
		found, ok := d.resources[v]
		if !ok || !absolute(v) || one != "" && one != found {
			return Resolved{}, badTarget()
		}
		one = found
	}
	return d.target(c, one)
}

// absolute reports an absolute URI without fragment (RFC 8707, section 2).
func absolute(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.IsAbs() && !strings.Contains(s, "#")
}

// target is the audience, if the client may have it.
func (d *Directory) target(c *Client, canonical string) (Resolved, error) {
	r := Resolved{Canonical: canonical, Record: d.records[canonical]}
	if c.Implicit {
		outside := strings.HasPrefix(canonical, "spiffe://") && !strings.HasPrefix(canonical, d.domain)
		if outside || r.bearer() {
			return Resolved{}, badTarget()
		}
		return r, nil
	}
	for i := range c.Targets {
		if found, ok := d.find(c.Targets[i].Audience, c.Namespace); ok && found == canonical {
			r.Target = &c.Targets[i]
			return r, nil
		}
	}
	return Resolved{}, badTarget()
}

func (r Resolved) bearer() bool { return r.Record != nil && r.Record.AllowBearer }

// Binding is to what a token of the client for that audience is bound (tokens.md 5.1, 9.1);
// never BindDefault. An error is a *Refusal.
func (d *Directory) Binding(c *Client, r Resolved) (Binding, error) {
	b := c.Binding
	if b == BindDefault {
		switch {
		case !c.Implicit && r.bearer():
			b = BindNone
		case c.Auth == AuthSPIFFE:
			b = BindIdentity
		default:
			b = BindNone
		}
	}
	if b == BindNone && !r.bearer() || c.Implicit && r.bearer() {
		return "", badTarget()
	}
	return b, nil
}
