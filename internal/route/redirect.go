package route

import (
	"cmp"
	"errors"
	"strconv"
	"strings"

	"countersign.dev/internal/h1"
)

// ErrLoop refuses a redirect to the URL that was asked for: 508 route/loop.
var ErrLoop = errors.New("the redirect leads to the URL that was asked for")

// URL is what was asked of a listener.
type URL struct {
	Scheme    string // of the listener
	Port      uint16 // of the listener
	Authority string // as sent, checked by h1.CheckHost
	Path      string // in normal form
	Query     string // as sent, without the question mark
	HasQuery  bool
}

// Location is gateway.md 7.2, for a URL the first prefix bytes of whose path a match took.
func (r *Redirect) Location(u URL, prefix int) (string, error) {
	path, err := replacePath(r.Path, u.Path, prefix)
	if err != nil {
		return "", err
	}
	scheme := cmp.Or(r.Scheme, u.Scheme)
	host, sentPort := cutPort(u.Authority)
	if r.Hostname != "" {
		host = r.Hostname
	}
	port := r.Port
	switch {
	case port != 0:
	case r.Scheme != "":
		port = defaultPort(scheme)
	default:
		port = u.Port
	}
	if path == u.Path && scheme == u.Scheme && port == cmp.Or(sentPort, defaultPort(u.Scheme)) && sameHost(host, u.Authority) {
		return "", ErrLoop
	}
	var b strings.Builder
	b.WriteString(scheme)
	b.WriteString("://")
	b.WriteString(host)
	if port != defaultPort(scheme) {
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(int(port)))
	}
	b.WriteString(path)
	if u.HasQuery {
		b.WriteByte('?')
		b.WriteString(u.Query)
	}
	return b.String(), nil
}

func defaultPort(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// cutPort leaves the host as it was sent, an IPv6 literal in its brackets.
func cutPort(authority string) (host string, port uint16) {
	_, digits := h1.LookupHost(authority)
	n, _ := strconv.ParseUint(digits, 10, 16)
	host = strings.TrimSuffix(authority, digits)
	return strings.TrimSuffix(host, ":"), uint16(n)
}

func sameHost(a, b string) bool {
	hostA, _ := h1.LookupHost(a)
	hostB, _ := h1.LookupHost(b)
	return hostA == hostB
}

// checkRedirect refuses what cannot be a redirect, and one that leads every request to itself.
func (a *Action) checkRedirect(r *Redirect) {
	a.checkHost(r.Hostname)
	a.checkReplace(r.Path)
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default:
		a.fault("status %d is none of 301, 302, 303, 307 and 308", r.Status)
	}
	if r.Scheme != "" && defaultPort(r.Scheme) == 0 {
		a.fault("scheme %q is neither http nor https", r.Scheme)
	}
	if r.Scheme == "" && r.Hostname == "" && r.Port == 0 && a.keepsPath(r.Path) {
		a.fault("the redirect leads to the URL that was asked for")
	}
}

// keepsPath reports whether a replacement gives back every path that the rule takes.
func (a *Action) keepsPath(p *PathReplace) bool {
	if p == nil {
		return true
	}
	for _, m := range a.Rule.Matches {
		switch m.PathType {
		case Exact:
			if !p.Full || m.Path != p.Value {
				return false
			}
		case Prefix, "":
			if p.Full || strings.TrimSuffix(m.Path, "/") != strings.TrimSuffix(p.Value, "/") {
				return false
			}
		default:
			return false
		}
	}
	return len(a.Rule.Matches) > 0
}
