package grant

import (
	"slices"
	"strings"

	"countersign.dev/internal/identity"
)

// The grants built, as they stand in a record and in grant_type.
const (
	GrantClientCredentials = "client_credentials"
	GrantTokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// May reports whether the client has that grant.
func (c *Client) May(grant string) bool { return slices.Contains(c.Grants, grant) }

// addClients keeps every client: one with a fault is disabled, for without its record the
// workload would be an implicit client, and that may be more.
func (d *Directory) addClients(f *faults, clients []Client) []*Client {
	list := inOrder(clients, func(c *Client) (int64, string, string) { return c.Since, c.Namespace, c.Name })
	for _, c := range list {
		if !d.checkClient(f, c) {
			c.Disabled = true
		}
		if d.clients[c.ClientID] == nil {
			d.clients[c.ClientID] = c
		}
		// Of several records of one identity that counts which has no other name for it, else the first.
		id := strings.TrimSuffix(c.SPIFFEID, "*")
		if first := d.identities[id]; first == nil || first.ClientID != id && c.ClientID == id {
			d.identities[id] = c
		}
	}
	delete(d.identities, "") // clients that are no workloads
	return list
}

// Client is the record of that client_id; nil: there is none. It may be disabled.
func (d *Directory) Client(clientID string) *Client { return d.clients[clientID] }

// ClientFor is the client of a proven SPIFFE ID that calls itself clientID (tokens.md 5.3 step
// 5): by a record that names the ID, else an implicit one; nil: none. It may be disabled.
func (d *Directory) ClientFor(clientID, spiffeID string) *Client {
	id, err := identity.ParseID([]byte(spiffeID))
	if err != nil || id.Path() == "" || reservedID(spiffeID) {
		return nil
	}
	c := d.clients[clientID]
	if clientID == spiffeID {
		c = d.recordOf(spiffeID)
		if c == nil {
			return d.implicit(spiffeID)
		}
	}
	if c == nil || c.Auth != AuthSPIFFE || !matchesID(c.SPIFFEID, spiffeID) {
		return nil
	}
	return c
}

// recordOf is the record of an identity: exact before prefix, a longer prefix first.
func (d *Directory) recordOf(id string) *Client {
	if c := d.identities[id]; c != nil {
		return c
	}
	for i := strings.LastIndexByte(id, '/'); i >= len("spiffe://"); i = strings.LastIndexByte(id[:i], '/') {
		if c := d.identities[id[:i+1]]; c != nil {
			return c
		}
	}
	return nil
}

// implicit is the client that an identity of this trust domain is without a record. It may not
// exchange: its only grant of that kind leads to transaction tokens.
func (d *Directory) implicit(id string) *Client {
	if d.noImplicit || !strings.HasPrefix(id, d.domain) {
		return nil
	}
	return &Client{
		Namespace: d.namespaceOfID(id), ClientID: id, Auth: AuthSPIFFE, SPIFFEID: id,
		Grants: []string{GrantClientCredentials}, Binding: BindIdentity, Implicit: true,
	}
}

// matchesID compares an ID to a pattern: exact, or a prefix of whole segments ending in /*
// (draft spiffe-client-auth, section 5.1).
func matchesID(pattern, id string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasSuffix(prefix, "/") {
		return len(id) > len(prefix) && strings.HasPrefix(id, prefix)
	}
	return pattern == id && id != ""
}

// reservedID reports the ID of a node or server, of whatever domain: it is never a client.
func reservedID(id string) bool {
	_, path, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
	return strings.HasPrefix(path+"/", "ns/"+identity.ReservedNamespace+"/")
}
