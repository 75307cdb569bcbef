package grant

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Warnings say what of a client's record cannot work as things are now, and is no fault: what
// it needs may come.
func (d *Directory) Warnings(c *Client) []Fault {
	var f faults
	at := place{"OAuthClient", c.Namespace, c.Name}
	for i, t := range c.Targets {
		field := fmt.Sprintf("spec.targets[%d]", i)
		if t.Exchange && !c.May(GrantTokenExchange) {
			f.add(at, "W-grant", field+".exchange", "exchange without the grant of token exchange", "grants: ["+GrantTokenExchange+"]")
		}
		if t.Attach && !c.May(GrantClientCredentials) {
			f.add(at, "W-grant", field+".attach", "attach without the grant "+GrantClientCredentials, "grants: ["+GrantClientCredentials+"]")
		}
		canonical, ok := d.find(t.Audience, c.Namespace)
		if !ok {
			f.add(at, "W-audience", field+".audience", fmt.Sprintf("%.80s is no audience yet", t.Audience), "")
			continue
		}
		r := Resolved{Canonical: canonical, Record: d.records[canonical]}
		missing := slices.DeleteFunc(slices.Clone(t.Scopes), func(s string) bool {
			return r.Record != nil && slices.ContainsFunc(r.Record.Scopes, func(has Scope) bool { return has.Name == s })
		})
		if len(missing) > 0 {
			f.add(at, "W-scope", field+".scopes", fmt.Sprintf("%.80s has no scope %.200s", t.Audience, strings.Join(missing, ", ")), "an OAuthResource lists the scopes of an audience")
		}
		if t.Attach && !slices.Contains(slices.Collect(maps.Values(d.services)), canonical) {
			f.add(at, "W-attach", field+".attach", fmt.Sprintf("%.80s is no service of the mesh: no call goes there that a token could be attached to", t.Audience), "")
		}
		if _, err := d.Binding(c, r); err != nil {
			f.add(at, "W-binding", field+".audience", fmt.Sprintf("%.80s takes no unbound tokens", t.Audience), "its OAuthResource needs allowBearer: true")
		}
	}
	return f
}
