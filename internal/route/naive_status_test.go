package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// naiveWorld is the naive twin of Status: gateway.md 10, with 4.1, 5, 8.1 and 12 where it refers to them, one
// obligation after the other. It asks the objects and the facts anew for everything, and calls nothing of the package.
type naiveWorld struct {
	o Objects
	f Facts
}

const gatewayAPI = "gateway.networking.k8s.io"

// told writes conditions as the test compares them: of no order, and without their messages.
func told(generation int64, conditions ...string) string {
	slices.Sort(conditions)
	return fmt.Sprintf("generation %d %s", generation, strings.Join(conditions, " "))
}

// truth is True with a good reason where nothing is wrong, else False.
func truth(kind, wrong, good string) string {
	if wrong != "" {
		return kind + "=False/" + wrong
	}
	return kind + "=True/" + good
}

func (n naiveWorld) status() map[string]string {
	out := map[string]string{}
	for _, c := range append(n.o.Classes, Class{Meta: Meta{Name: Name{Name: "countersign"}, Generation: 1}}) {
		if class, ours := n.class(c.Name.Name); ours {
			wrong := ""
			if class.HasParametersRef {
				wrong = "InvalidParameters"
			}
			features := map[string]bool{}
			for _, name := range n.f.Features {
				features[name] = true
			}
			out["class "+c.Name.Name] = fmt.Sprintln(told(class.Generation, truth("Accepted", wrong, "Accepted"), "SupportedVersion=True/SupportedVersion"), slices.Sorted(maps.Keys(features)))
		}
	}
	for i := range n.o.Gateways {
		if _, ours := n.class(n.o.Gateways[i].Class); ours {
			n.gateway(&n.o.Gateways[i], out)
		}
	}
	for i := range n.o.Routes {
		if r := &n.o.Routes[i]; n.f.Routes == nil || n.f.Routes(r.Name) {
			n.route(r, out)
		}
	}
	for _, l := range n.o.Limits {
		out["limit "+l.String()] = fmt.Sprint(len(l.Targets))
		for i, to := range l.Targets {
			wrong := "TargetNotFound"
			if n.targeted(to) {
				wrong = ""
			}
			out[fmt.Sprintf("limit %s target %d", l.Name, i)] = fmt.Sprintln(to, told(l.Generation, truth("Accepted", wrong, "Accepted")))
		}
	}
	return out
}

// class: own are those of our controller; one is built in as long as no document has its name (2).
func (n naiveWorld) class(name string) (Class, bool) {
	for _, c := range n.o.Classes {
		if c.Name.Name == name {
			return c, c.Controller == "countersign.dev/gateway"
		}
	}
	return Class{Meta: Meta{Generation: 1}}, name == "countersign"
}

// targeted: a RateLimit has the Gateway or route it names, and in it the listener or rule (16).
func (n naiveWorld) targeted(to LimitTarget) bool {
	for _, g := range n.o.Gateways {
		if _, ours := n.class(g.Class); ours && to.Kind == (Kind{gatewayAPI, "Gateway"}) && g.Name == to.Name {
			return to.Section == "" || slices.ContainsFunc(g.Listeners, func(l Listener) bool { return l.Name == to.Section })
		}
	}
	for _, r := range n.o.Routes {
		if to.Kind == (Kind{gatewayAPI, "HTTPRoute"}) && r.Name == to.Name {
			return to.Section == "" || slices.ContainsFunc(r.Rules, func(rule Rule) bool { return rule.Name == to.Section })
		}
	}
	return false
}

func (n naiveWorld) gateway(g *Gateway, out map[string]string) {
	facts := n.f.Gateways[g.Name]
	good, unresolved, programmed, pending, insecure := 0, "", false, false, false
	for i := range g.Listeners {
		l := &g.Listeners[i]
		conditions := n.listener(g, i)
		key := fmt.Sprintf("gateway %s listener %d", g.Name, i)
		out[key] = fmt.Sprintln(l.Name, n.kinds(l), n.attached(g, i), told(g.Generation, conditions...))
		if slices.Contains(conditions, "Accepted=True/Accepted") {
			good++
		}
		if !slices.Contains(conditions, "ResolvedRefs=True/ResolvedRefs") {
			unresolved = "ListenersNotResolved"
		}
		programmed = programmed || slices.Contains(conditions, "Programmed=True/Programmed")
		pending = pending || slices.Contains(conditions, "Programmed=False/Pending")
		insecure = insecure || l.Protocol == "HTTPS" && n.validation(g, l.Port) != nil && n.validation(g, l.Port).Insecure
	}

	// Accepted, then Programmed: once one listener serves.
	accepted, idle := "Accepted=True/Accepted", ""
	switch wrong := n.wrong(g); {
	case wrong != "":
		accepted = "Accepted=False/" + wrong
	case good == 0:
		accepted = "Accepted=False/ListenersNotValid"
	case good < len(g.Listeners):
		accepted = "Accepted=True/ListenersNotValid"
	}
	switch {
	case strings.HasPrefix(accepted, "Accepted=False"):
		idle = "Invalid"
	case facts.AddressRefusal.Reason != "":
		idle = facts.AddressRefusal.Reason
	case programmed:
	case pending || !facts.Live: // no instance runs it
		idle = "Pending"
	default:
		idle = "Invalid"
	}
	conditions := []string{accepted, truth("Programmed", idle, "Programmed"), truth("ResolvedRefs", unresolved, "ResolvedRefs")}
	if insecure {
		conditions = append(conditions, "InsecureFrontendValidationMode=True/ConfigurationChanged")
	}
	out["gateway "+g.String()] = fmt.Sprintln(len(g.Listeners), facts.Addresses, told(g.Generation, conditions...))
}

// wrong: no kind of parameters and no type of address but IPAddress is supported (3.1, 4.2).
func (n naiveWorld) wrong(g *Gateway) string {
	if class, _ := n.class(g.Class); class.HasParametersRef || g.HasParametersRef {
		return "InvalidParameters"
	}
	for _, a := range g.Addresses {
		if a.Type != "IPAddress" {
			return "UnsupportedAddress"
		}
	}
	return ""
}

// listener are the conditions of a listener.
func (n naiveWorld) listener(g *Gateway, i int) []string {
	l, facts := &g.Listeners[i], n.f.Gateways[g.Name]
	conflict, served := n.conflict(g, i), l.Protocol == "HTTP" || l.Protocol == "HTTPS"

	// What it refers to: certificates, kinds of routes, who vouches for callers.
	certificate, shown, unread := "", true, false
	if l.Protocol == "HTTPS" {
		certificate, shown, unread = n.certificate(g, l)
	}
	kind := ""
	if served && slices.ContainsFunc(l.Kinds, func(k Kind) bool { return k != Kind{gatewayAPI, "HTTPRoute"} }) {
		kind = "InvalidRouteKinds"
	}
	authority, none := "", ""
	if v := n.validation(g, l.Port); v != nil && l.Protocol == "HTTPS" {
		none = "NoValidCACertificate"
		for _, to := range v.Authorities {
			switch {
			case to.Kind != Kind{"countersign.dev", "TrustDomain"}:
				authority = cmp.Or(authority, "InvalidCACertificateKind")
			case n.f.TrustDomain == nil || !n.f.TrustDomain(to.Name.Name):
				authority = cmp.Or(authority, "InvalidCACertificateRef")
			default:
				none = "" // one good of several serves
			}
		}
	}
	refs := cmp.Or(certificate, kind, authority)

	// Accepted.
	protocol, port := "", ""
	if !served {
		protocol = "UnsupportedProtocol"
	}
	if facts.Ports[l.Port] != "" {
		port = "PortUnavailable"
	}
	wrong := cmp.Or(conflict, protocol, port, none)

	// Programmed: on a conflict its reason, for the suite looks.
	_, bound := facts.Ports[l.Port]
	idle := ""
	switch {
	case conflict != "":
		idle = conflict
	case wrong != "" || n.wrong(g) != "" || !shown:
		idle = "Invalid"
	case unread || !facts.Live || !bound:
		idle = "Pending"
	}

	conditions := []string{
		truth("Accepted", wrong, "Accepted"), truth("Programmed", idle, "Programmed"), truth("ResolvedRefs", refs, "ResolvedRefs"),
		"Conflicted=False/NoConflicts",
	}
	if conflict != "" {
		conditions[3] = "Conflicted=True/" + conflict
	}
	if overlap := n.overlap(g, i); overlap != "" {
		conditions = append(conditions, "OverlappingTLSConfig=True/"+overlap)
	}
	return conditions
}

// conflict is the table of 4.1; no listener of a conflict wins.
func (n naiveWorld) conflict(g *Gateway, i int) string {
	protocol, hostname := "", ""
	for j := range g.Listeners {
		a, b := g.Listeners[i], g.Listeners[j]
		if i == j || a.Port != b.Port {
			continue
		}
		pair := []string{string(a.Protocol), string(b.Protocol)}
		slices.Sort(pair)
		switch strings.Join(pair, "+") {
		case "HTTP+HTTP", "HTTPS+HTTPS", "TLS+TLS", "HTTPS+TLS":
			if a.Hostname == b.Hostname {
				hostname = "HostnameConflict"
			}
		case "HTTP+HTTPS", "HTTP+TLS", "HTTP+TCP", "HTTPS+TCP", "TCP+TLS", "TCP+TCP":
			protocol = "ProtocolConflict"
		}
	}
	return cmp.Or(protocol, hostname)
}

// certificate: files, else those referred to, else our own (12.1). One of several is enough, and a bad one in place of
// a good one keeps the good one shown.
func (n naiveWorld) certificate(g *Gateway, l *Listener) (wrong string, shown, unread bool) {
	if l.Files != nil {
		c, read := n.f.Gateways[g.Name].Files[l.Name]
		if c.Fault != "" {
			return "InvalidCertificateRef", c.Kept, false
		}
		return "", true, !read
	}
	for _, to := range l.Certificates {
		switch {
		case to.Kind != Kind{"", "Secret"}:
			wrong = cmp.Or(wrong, "InvalidCertificateRef")
		case to.Namespace != g.Namespace && !n.granted(g.Namespace, "Gateway", to):
			wrong = cmp.Or(wrong, "RefNotPermitted")
		case n.f.Secret == nil || n.f.Secret(to.Name).Fault != "":
			wrong = cmp.Or(wrong, "InvalidCertificateRef")
			shown = shown || n.f.Secret != nil && n.f.Secret(to.Name).Kept
		default:
			shown = true
		}
	}
	return wrong, shown || len(l.Certificates) == 0, false
}

// granted: any from of a ReferenceGrant of the target's namespace, with any to of it (8.1).
func (n naiveWorld) granted(namespace, kind string, to Ref) bool {
	for _, grant := range n.o.Grants {
		for _, from := range grant.From {
			for _, target := range grant.To {
				if grant.Namespace == to.Namespace && from.Group == gatewayAPI && from.Kind.Kind == kind && from.Namespace == namespace &&
					target.Kind == to.Kind && (target.Name == "" || target.Name == to.Name.Name) {
					return true
				}
			}
		}
	}
	return false
}

// validation: that of the port replaces the default (12.3).
func (n naiveWorld) validation(g *Gateway, port uint16) *Validation {
	v := g.Frontend.Default
	for p, own := range g.Frontend.Ports {
		if p == port {
			v = own
		}
	}
	return v
}

// hosts has one that both take of any two patterns of the world that have one in common, and for certificates too.
var hosts = []string{
	"test", "x.test", "y.test", "q.test", "a.x.test", "b.x.test", "c.x.test", "a.b.x.test", "c.b.x.test", "a.c.x.test",
	"a.y.test", "c.y.test", "localhost", "q",
}

// inPattern: the wildcard of a hostname is any number of labels, that of a certificate one.
func inPattern(pattern, host string, one bool) bool {
	p, h := strings.Split(pattern, "."), strings.Split(host, ".")
	if p[0] == "*" && len(h) >= len(p) && (!one || len(h) == len(p)) {
		p, h = p[1:], h[len(h)-len(p)+1:]
	}
	return slices.Equal(p, h)
}

func namedBy(patterns []string, host string, one bool) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return inPattern(p, host, one) })
}

// overlap: HTTPS listeners of one port that both take a host, or show certificates for one. Where both are so, it
// says certificates (ListenerConditionOverlappingTLSConfig). What conflicts serves nothing.
func (n naiveWorld) overlap(g *Gateway, i int) string {
	byName, byCertificate := "", ""
	for j := range g.Listeners {
		a, b := &g.Listeners[i], &g.Listeners[j]
		if i == j || a.Port != b.Port || a.Protocol != "HTTPS" || b.Protocol != "HTTPS" || n.conflict(g, i) != "" || n.conflict(g, j) != "" {
			continue
		}
		for _, host := range hosts {
			if (a.Hostname == "" || inPattern(a.Hostname, host, false)) && (b.Hostname == "" || inPattern(b.Hostname, host, false)) {
				byName = "OverlappingHostnames"
			}
			if namedBy(n.names(g, a), host, true) && namedBy(n.names(g, b), host, true) {
				byCertificate = "OverlappingCertificates"
			}
		}
	}
	return cmp.Or(byCertificate, byName)
}

// names are those of the certificates that a listener shows. Our own is one SVID of the Gateway, with the hostnames of
// all listeners that show it, and localhost.
func (n naiveWorld) names(g *Gateway, l *Listener) (out []string) {
	own := func(l *Listener) bool {
		return l.Protocol == "HTTPS" && l.Files == nil && len(l.Certificates) == 0
	}
	if own(l) {
		out = []string{"localhost"}
		for i := range g.Listeners {
			if own(&g.Listeners[i]) && g.Listeners[i].Hostname != "" {
				out = append(out, g.Listeners[i].Hostname)
			}
		}
	}
	if l.Files != nil {
		out = n.f.Gateways[g.Name].Files[l.Name].Names
	}
	for _, to := range l.Certificates {
		one := &Listener{Protocol: "HTTPS", Certificates: []Ref{to}}
		if _, shown, _ := n.certificate(g, one); shown {
			out = append(out, n.f.Secret(to.Name).Names...)
		}
	}
	return out
}

// kinds are the possible ones named, and never absent (5, 29): HTTPRoute is the only one that is built.
func (n naiveWorld) kinds(l *Listener) []Kind {
	k := Kind{gatewayAPI, "HTTPRoute"}
	if (l.Protocol == "HTTP" || l.Protocol == "HTTPS") && (len(l.Kinds) == 0 || slices.Contains(l.Kinds, k)) {
		return []Kind{k}
	}
	return []Kind{}
}
