package route

import (
	"slices"
	"strconv"
)

// Protocols that are not served, but still conflict (gateway.md 4.1).
const (
	protocolTLS Protocol = "TLS"
	protocolTCP Protocol = "TCP"
)

// Reasons of a conflict.
const (
	protocolConflict = "ProtocolConflict"
	hostnameConflict = "HostnameConflict"
)

// conflict is why two listeners of one Gateway cannot live together, and with
// which of the others. The zero value is none.
type conflict struct{ reason, with string }

// conflicts finds for every listener its conflict, one of protocols before one
// of hostnames. No listener of a conflict wins.
func conflicts(listeners []Listener) []conflict {
	out := make([]conflict, len(listeners))
	for i := range listeners {
		for j := range listeners {
			if i == j {
				continue
			}
			reason := clash(&listeners[i], &listeners[j])
			if reason == protocolConflict && out[i].reason != reason || reason != "" && out[i].reason == "" {
				out[i] = conflict{reason, listeners[j].Name}
			}
		}
	}
	return out
}

// clash is the table of gateway.md 4.1, the same for both. A protocol that is
// not known takes no port and clashes with nothing.
func clash(a, b *Listener) string {
	known := []Protocol{HTTP, HTTPS, protocolTLS, protocolTCP}
	switch {
	case a.Port != b.Port || !slices.Contains(known, a.Protocol) || !slices.Contains(known, b.Protocol):
		return ""
	case a.Protocol == protocolTCP || b.Protocol == protocolTCP || (a.Protocol == HTTP) != (b.Protocol == HTTP):
		return protocolConflict
	case a.Hostname == b.Hostname:
		return hostnameConflict
	}
	return ""
}

// served reports whether listeners of the protocol are built.
func (p Protocol) served() bool { return p == HTTP || p == HTTPS }

// kinds are the routes that may attach: those asked for that the protocol can
// serve, in the order written; never nil. bad is the first that it cannot.
func (l *Listener) kinds() (out []Kind, bad *Kind) {
	out = []Kind{}
	if !l.Protocol.served() {
		return out, nil
	}
	if len(l.Kinds) == 0 {
		return append(out, httpRouteKind), nil
	}
	for _, k := range l.Kinds {
		switch {
		case k != httpRouteKind && bad == nil:
			bad = &k
		case k == httpRouteKind && len(out) == 0:
			out = append(out, k)
		}
	}
	return out, bad
}

// admits reports whether allowedRoutes of a listener in a Gateway of the
// namespace take HTTPRoutes of the other.
func (l *Listener) admits(gateway, namespace string, labels map[string]map[string]string) bool {
	if kinds, _ := l.kinds(); len(kinds) == 0 {
		return false
	}
	switch l.From {
	case "All":
		return true
	case "Same":
		return gateway == namespace
	case "Selector":
		return l.Selector != nil && l.Selector.namespaceAdmits(namespace, labels[namespace])
	}
	return false
}

func number(port uint16) string { return strconv.Itoa(int(port)) }
