package policy

import (
	"slices"
	"strconv"
)

// Grant is one operation of one rule that one peer meets: of an ALLOW rule what it may do,
// of a DENY rule what it may not. Empty lists restrict nothing.
type Grant struct {
	Action     Action
	Methods    []string
	NotMethods []string
	Paths      []string
	NotPaths   []string
	Hosts      []string
	NotHosts   []string
	Ports      []string
	NotPorts   []string
	If         []string // what must hold besides, every one: "claim role is admin"
	Policy     string   // "ns/name"
	Rule       int
	Pos        Pos
	WrittenBy  string
}

// May lists what the rules here say of one peer: first the ALLOW grants, then the DENY rules
// that touch it, each in rule-number order. With ports, operations on none of them are left
// out. Where no ALLOW policy is attached (HasAllow) the peer may do all that no DENY names.
func (p *Program) May(peer Peer, ports []uint16) []Grant {
	if p == nil {
		return nil
	}
	who := newCaller(&peer, p.own)
	var out []Grant
	for _, rules := range [][]*rule{p.allow, p.deny} {
		for _, r := range rules {
			if from, ok := r.matchesPeer(&who); ok && r.mayHold(&who, ports) {
				out = append(out, r.grants(ports, r.terms(from))...)
			}
		}
	}
	return out
}

// mayHold is matchesConn for a peer at any of several ports; none are all.
func (r *rule) mayHold(who *caller, ports []uint16) bool {
	return r.matchesCaller(who) && (len(ports) == 0 || slices.ContainsFunc(ports, r.matchesPort))
}

func (r *rule) grants(ports []uint16, terms []string) []Grant {
	base := Grant{Action: Deny, If: terms, Policy: r.verdict.Policy, Rule: r.verdict.Rule, Pos: r.verdict.Pos, WrittenBy: r.verdict.WrittenBy}
	if r.verdict.Allow {
		base.Action = Allow
	}
	if len(r.to) == 0 {
		return []Grant{base}
	}
	var out []Grant
	for i := range r.to {
		o := &r.to[i]
		reached := func(port uint16) bool { return o.matchesPort(port, r.positive()) }
		if o.conservative && r.verdict.Allow || len(ports) > 0 && !slices.ContainsFunc(ports, reached) {
			continue
		}
		g := base
		g.Methods, g.NotMethods = texts(&o.methods), texts(&o.notMethods)
		g.Paths, g.NotPaths = texts(&o.paths), texts(&o.notPaths)
		g.Hosts, g.NotHosts = texts(&o.hosts), texts(&o.notHosts)
		g.Ports, g.NotPorts = portTexts(o.ports), portTexts(o.notPorts)
		out = append(out, g)
	}
	return out
}

// The texts of lists, as they decide: principals of our own trust domain, service accounts
// with their namespace.
func texts(l *values) []string {
	var out []string
	for i := range l.any {
		out = append(out, l.any[i].value)
	}
	return out
}

func identityTexts(l *identities) []string {
	var out []string
	for i := range l.any {
		out = append(out, l.any[i].value)
	}
	return out
}

func portTexts(l portValues) []string {
	var out []string
	for i := range l {
		out = append(out, l[i].value)
	}
	return out
}

func decimal(port uint16) string { return strconv.Itoa(int(port)) }
