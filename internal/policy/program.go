package policy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Program is what applies to one destination. Destinations with the same list of policies
// share one. It never changes.
type Program struct {
	own      string
	deny     []*rule // in rule-number order
	allow    []*rule
	hasAllow bool

	mode     Mode
	modeFrom string
	ports    map[uint16]Mode
	portFrom string
}

// sealed is the program without a snapshot: nothing is allowed, no mode is open.
var sealed = &Program{hasAllow: true, mode: Strict, modeFrom: sourceMeshDefault}

// For picks the program of a destination. Without a snapshot (c is nil) it denies everything.
func (c *Compiled) For(d Destination) *Program {
	if c == nil {
		return sealed
	}
	var key []byte
	var applied []*attachable
	for i := range c.policies {
		if a := &c.policies[i]; c.attached(a, d) {
			applied = append(applied, a)
			key = binary.AppendUvarint(key, uint64(i))
		}
	}
	modes := c.applicableModes(d)
	for _, i := range modes {
		key = binary.AppendVarint(key, int64(-1-i)) // behind all policies; absent is 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.programs[string(key)]; ok {
		return p
	}
	p := c.program(d, applied, modes)
	if len(c.programs) < maxPrograms {
		c.programs[string(key)] = p
	}
	return p
}

func (c *Compiled) program(d Destination, applied []*attachable, modes [3]int) *Program {
	p := &Program{own: c.set.TrustDomain}
	for _, a := range applied {
		if a.deny {
			p.deny = append(p.deny, a.holding(d)...)
			continue
		}
		// An ALLOW policy counts as attached even if no rule of it can match.
		p.hasAllow = true
		p.allow = append(p.allow, a.rules...)
	}
	p.setModes(c, modes)
	return p
}

// attached is istio-semantics 4.1: its own namespace, or the whole mesh from the root
// namespace. Namespace countersign is reached from the root by DENY alone: a mesh-wide ALLOW,
// the built-in allow-nothing first of all, would end every token.
func (c *Compiled) attached(a *attachable, d Destination) bool {
	p := a.policy
	if len(p.Gateways) > 0 {
		return d.isGateway(p.Namespace, p.Gateways)
	}
	reaches := p.Namespace == c.set.RootNamespace && (d.Namespace != reservedNamespace || a.deny)
	return (reaches || p.Namespace == d.Namespace) && selects(p.Selector, d.Labels)
}

// GatewayLabel is the label that the Workload of a Gateway has, with the Gateway's name.
const GatewayLabel = "gateway.networking.k8s.io/gateway-name"

// isGateway reports whether a destination is one of the Gateways that targetRefs of a namespace name. Labels are no
// proof: who leaves one out of a Workload would be out of reach of a DENY.
func (d Destination) isGateway(namespace string, names []string) bool {
	return d.Gateway && d.Namespace == namespace && slices.Contains(names, d.ServiceAccount)
}

// holding gives the rules of a DENY that hold at d. "Nobody without a token" from the root
// namespace would shut out all who come to namespace countersign for one (istio-semantics 4.1).
// Programs of that namespace are shared with no other: its modes are in their key.
func (a *attachable) holding(d Destination) []*rule {
	if d.Namespace != reservedNamespace || a.policy.Namespace == d.Namespace {
		return a.rules
	}
	var out []*rule
	for _, r := range a.rules {
		if !r.token {
			out = append(out, r)
		}
	}
	return out
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// The three scopes of PeerAuthentication, from the widest (istio-semantics 5).
const (
	scopeMesh = iota
	scopeNamespace
	scopeWorkload

	alwaysStrict = -2 // in place of an object, in namespace countersign
)

// sortedModes puts the oldest first: in each scope one object counts (istio-semantics 4.2).
// An object that should have been refused closes what it selects.
func (b *compiler) sortedModes(c *Compiled) {
	c.modes = slices.Clone(c.set.PeerAuth)
	slices.SortStableFunc(c.modes, func(x, y PeerAuthentication) int {
		return cmp.Or(cmp.Compare(x.Created, y.Created), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Namespace, y.Namespace))
	})
	c.set.DefaultMode = b.mode("defaultPeerMode", c.set.DefaultMode)
	if c.set.DefaultMode == Unset {
		c.set.DefaultMode = Strict
	}
	for i := range c.modes {
		m := &c.modes[i]
		b.policy, b.pos = &Policy{Namespace: m.Namespace, Name: m.Name}, m.Pos
		m.Mode = b.mode("spec.mtls.mode", m.Mode)
		switch {
		case len(m.Selector) == 0 && len(m.Ports) > 0:
			b.fault("spec.portLevelMtls", "ports without a selector")
			m.Mode, m.Ports = Strict, nil
		case len(m.Selector) > 0 && m.Namespace == c.set.RootNamespace:
			b.fault("spec.selector", "a selector in the root namespace")
			m.Mode, m.Ports = Strict, nil
		case len(m.Ports) > 0:
			ports := make(map[uint16]Mode, len(m.Ports))
			for _, port := range slices.Sorted(maps.Keys(m.Ports)) {
				ports[port] = b.mode(fmt.Sprintf("spec.portLevelMtls[%d]", port), m.Ports[port])
			}
			m.Ports = ports
		}
	}
	b.policy = nil
}

func (b *compiler) mode(field string, m Mode) Mode {
	switch m {
	case Unset, Strict, Permissive, Disable:
		return m
	case "UNSET":
		return Unset
	}
	b.fault(field, "%q is not a mode; taken as STRICT", m)
	return Strict
}

// applicableModes gives for each scope the index of the object that counts, or -1. None
// attaches in namespace countersign: there the SVID is always demanded (istio-semantics 4.1).
func (c *Compiled) applicableModes(d Destination) [3]int {
	found := [3]int{-1, -1, -1}
	if d.Namespace == reservedNamespace {
		return [3]int{alwaysStrict, alwaysStrict, alwaysStrict}
	}
	for i := range c.modes {
		m := &c.modes[i]
		scope := scopeNamespace
		switch root := m.Namespace == c.set.RootNamespace; {
		case !root && m.Namespace != d.Namespace, !selects(m.Selector, d.Labels):
			continue
		case len(m.Selector) > 0:
			scope = scopeWorkload
		case root:
			scope = scopeMesh
		}
		if found[scope] < 0 {
			found[scope] = i
		}
	}
	return found
}

func (p *Program) setModes(c *Compiled, found [3]int) {
	p.mode, p.modeFrom = c.set.DefaultMode, sourceMeshDefault
	for scope, i := range found {
		switch {
		case i == alwaysStrict:
			p.mode, p.modeFrom = Strict, "namespace "+reservedNamespace
			continue
		case i < 0:
			continue
		}
		m := &c.modes[i]
		from := "PeerAuthentication/" + m.Namespace + "/" + m.Name
		if m.Mode != Unset {
			p.mode, p.modeFrom = m.Mode, from
		}
		if scope == scopeWorkload {
			p.ports, p.portFrom = m.Ports, from
		}
	}
}

// Mode is the effective mode of a workload port (istio-semantics 5).
func (p *Program) Mode(port uint16) Mode {
	mode, _ := p.ModeFrom(port)
	return mode
}

// ModeFrom is Mode, and who says so: "PeerAuthentication/ns/name" or "mesh default".
func (p *Program) ModeFrom(port uint16) (Mode, string) {
	if m := p.ports[port]; m != Unset {
		return m, p.portFrom
	}
	return p.mode, p.modeFrom
}

// HasAllow says whether an ALLOW policy is attached: then what no rule allows is denied.
func (p *Program) HasAllow() bool { return p.hasAllow }

// NamesDestination says whether any ALLOW rule is attached. If not, there is no nearest miss:
// the only ALLOW is the built-in allow-nothing, or one as empty.
func (p *Program) NamesDestination() bool { return len(p.allow) > 0 }
