package route

import (
	"cmp"
	"fmt"
	"strings"
)

// listenerState is what the conditions of a listener say. The zero Refusals are
// the good case.
type listenerState struct {
	accepted, refs, programmed Refusal

	usable  bool            // it has a certificate, or needs none
	unread  bool            // nothing is known yet of its certificate files
	names   map[string]bool // DNS names of its certificates
	overlap Refusal         // a warning, no refusal
}

func (in *inspection) listeners(listeners []attached) []listenerState {
	out := make([]listenerState, len(listeners))
	for i := range listeners {
		s := &out[i]
		s.accepted = acceptedRefusal(&listeners[i], in.own.Ports)
		in.resolve(listeners[i].listener, s)
		refs, none := in.authorities(listeners[i].listener)
		s.refs, s.accepted = cmp.Or(s.refs, refs), cmp.Or(s.accepted, none)
		s.programmed = in.idle(&listeners[i], s)
	}
	for i := range listeners {
		for j := range listeners {
			if i == j || out[i].overlap.Reason == overlappingCertificates || listeners[i].conflict != (conflict{}) || listeners[j].conflict != (conflict{}) {
				continue
			}
			found := overlap(listeners[i].listener, listeners[j].listener, out[i].names, out[j].names)
			if out[i].overlap == (Refusal{}) || found.Reason == overlappingCertificates {
				out[i].overlap = found
			}
		}
	}
	return out
}

func acceptedRefusal(a *attached, ports map[uint16]string) Refusal {
	l := a.listener
	switch text := ports[l.Port]; {
	case a.conflict.reason != "":
		return a.conflict.refusal(l)
	case !l.Protocol.served():
		return Refusal{"UnsupportedProtocol", fmt.Sprintf("listener %q has protocol %q; write HTTP or HTTPS", l.Name, l.Protocol)}
	case text != "":
		return Refusal{"PortUnavailable", "port " + number(l.Port) + " " + text}
	}
	return Refusal{}
}

func (c conflict) refusal(l *Listener) Refusal {
	what, way := "have one hostname", "hostname or port"
	if c.reason == protocolConflict {
		what, way = "have protocols that exclude each other", "port"
	}
	return Refusal{c.reason, fmt.Sprintf("listeners %q and %q on port %d %s, and neither serves; change the %s of one", l.Name, c.with, l.Port, what, way)}
}

// resolve follows the references of a listener. One certificate of several is
// enough to serve; the condition names the first that is bad.
func (in *inspection) resolve(l *Listener, s *listenerState) {
	switch {
	case l.Protocol != HTTPS: // nobody looks for certificates of what is not served
		s.usable = true
	case l.Own():
		s.usable = true
		// One for all such listeners; who reserves names is not known here, and this is for a warning.
		s.name(Certificate{Names: in.CertificateNames(func(string) bool { return false })})
	case l.Files != nil:
		c, read := in.own.Files[l.Name]
		s.unread, s.usable = !read, read && c.usable()
		s.name(c)
		if c.Fault != "" {
			s.refs = Refusal{"InvalidCertificateRef", fmt.Sprintf("listener %q: certificate files %s", l.Name, c.Fault)}
		}
	default:
		for _, ref := range l.Certificates {
			c, refusal := ResolveCertificate(in.Gateway, ref, in.grants, in.facts)
			if refusal == (Refusal{}) || c.Kept {
				s.usable = true
				s.name(c)
			}
			s.refs = cmp.Or(s.refs, refusal)
		}
	}
	if _, bad := l.kinds(); bad != nil && s.refs == (Refusal{}) {
		s.refs = Refusal{"InvalidRouteKinds", fmt.Sprintf("listener %q cannot serve %s; remove it from allowedRoutes.kinds", l.Name, bad)}
	}
}

func (s *listenerState) name(c Certificate) {
	for _, name := range c.Names {
		if s.names == nil {
			s.names = map[string]bool{}
		}
		s.names[name] = true
	}
}

// idle is why a listener does not serve.
func (in *inspection) idle(a *attached, s *listenerState) Refusal {
	_, bound := in.own.Ports[a.listener.Port]
	switch {
	case a.conflict.reason != "":
		return s.accepted
	case s.accepted != (Refusal{}):
		return Refusal{"Invalid", s.accepted.Text}
	case !s.usable && !s.unread:
		return Refusal{"Invalid", s.refs.Text}
	case in.refusal != (Refusal{}):
		return Refusal{"Invalid", in.refusal.Text}
	case !in.own.Live:
		return in.notLive()
	case s.unread:
		return Refusal{"Pending", fmt.Sprintf("listener %q: its certificate files are not read yet; it opens once they are", a.listener.Name)}
	case !bound:
		return Refusal{"Pending", "port " + number(a.listener.Port) + " is not open yet; the Gateway's conditions say what it waits for"}
	}
	return Refusal{}
}

const overlappingCertificates = "OverlappingCertificates"

// overlap is what two listeners share under TLS, on which a client that
// reuses its connection reaches the other; certificates before hostnames
// (ListenerConditionOverlappingTLSConfig).
func overlap(a, b *Listener, namesA, namesB map[string]bool) Refusal {
	if a.Protocol != HTTPS || b.Protocol != HTTPS || a.Port != b.Port {
		return Refusal{}
	}
	const text = "listeners %q and %q have %s that overlap; requests over a connection of the other get 421"
	if covers(namesA, namesB) || covers(namesB, namesA) {
		return Refusal{overlappingCertificates, fmt.Sprintf(text, a.Name, b.Name, "certificates")}
	}
	if _, ok := Intersect(a.Hostname, b.Hostname); ok {
		return Refusal{"OverlappingHostnames", fmt.Sprintf(text, a.Name, b.Name, "hostnames")}
	}
	return Refusal{}
}

// covers reports whether a certificate with the names is one for a name of the other.
func covers(names, other map[string]bool) bool {
	for name := range other {
		_, rest, _ := strings.Cut(name, ".")
		if names[name] || names["*."+rest] && !strings.HasPrefix(name, "*.") {
			return true
		}
	}
	return false
}

// certifies reports whether a name of a certificate covers another: the
// wildcard of a certificate is one label (RFC 6125, section 6.4.3).
func certifies(name, other string) bool {
	if suffix, ok := wildcard(name); ok {
		label, ok := strings.CutSuffix(other, suffix)
		return ok && label != "" && !strings.Contains(label, ".")
	}
	return name == other
}

func (in *inspection) listenerStatus(a *attached, s *listenerState) ListenerStatus {
	out := ListenerStatus{Name: a.listener.Name}
	out.SupportedKinds, _ = a.listener.kinds()
	for _, r := range a.routes {
		if !in.refused[r.Route] {
			out.AttachedRoutes++
		}
	}
	conflicted := conditionOf("Conflicted", in.Generation, Refusal{"NoConflicts", "no other listener is in the way"}, "", "")
	if a.conflict.reason != "" {
		conflicted = conditionOf("Conflicted", in.Generation, Refusal{}, a.conflict.reason, s.accepted.Text)
	}
	out.Conditions = []Condition{
		conditionOf("Accepted", in.Generation, s.accepted, "Accepted", "the listener is valid"),
		conditionOf("Programmed", in.Generation, s.programmed, "Programmed", "the listener serves"),
		conditionOf("ResolvedRefs", in.Generation, s.refs, "ResolvedRefs", "all references of the listener can be followed"),
		conflicted,
	}
	if s.overlap != (Refusal{}) {
		out.Conditions = append(out.Conditions, conditionOf("OverlappingTLSConfig", in.Generation, Refusal{}, s.overlap.Reason, s.overlap.Text))
	}
	return out
}
