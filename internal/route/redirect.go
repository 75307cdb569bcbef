package route

import (
	"cmp"
	"strconv"
	"strings"

	"countersign.dev/internal/h1"
)

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
	host := withoutPort(u.Authority)
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

// withoutPort leaves the host as it was sent, an IPv6 literal in its brackets.
func withoutPort(authority string) string {
	_, digits := h1.LookupHost(authority)
	return strings.TrimSuffix(strings.TrimSuffix(authority, digits), ":")
}

// checkRedirect refuses what cannot be a redirect.
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
}
