package server

import (
	"cmp"
	"fmt"
	"strings"

	"countersign.dev/internal/route"
)

// filterTexts says of each filter what it does.
func filterTexts(filters []route.Filter) []string {
	out := []string{}
	for i := range filters {
		f := &filters[i]
		switch {
		case f.RequestHeaders != nil:
			out = append(out, headerText("request", f.RequestHeaders))
		case f.ResponseHeaders != nil:
			out = append(out, headerText("response", f.ResponseHeaders))
		case f.Redirect != nil:
			out = append(out, fmt.Sprintf("answers %d", f.Redirect.Status))
		case f.Rewrite != nil:
			out = append(out, rewriteTexts(f.Rewrite)...)
		case f.CORS != nil:
			out = append(out, "CORS for "+cmp.Or(strings.Join(f.CORS.Origins, ", "), "no origin"))
		case f.Extension != nil:
			out = append(out, "extension "+f.Extension.String())
		default:
			out = append(out, "filter "+f.Unknown+", which is not built")
		}
	}
	return out
}

// headerText names the fields a filter changes. Values stay out: they may be credentials for the backend.
func headerText(of string, f *route.HeaderFilter) string {
	var parts []string
	if len(f.Remove) > 0 {
		parts = append(parts, "loses "+strings.Join(f.Remove, ", "))
	}
	for _, change := range []struct {
		verb string
		list []route.Pair
	}{{"has set ", f.Set}, {"has added ", f.Add}} {
		var names []string
		for _, p := range change.list {
			names = append(names, p.Name)
		}
		if len(names) > 0 {
			parts = append(parts, change.verb+strings.Join(names, ", "))
		}
	}
	return of + " header " + strings.Join(parts, ", ")
}

func rewriteTexts(f *route.Rewrite) (out []string) {
	if f.Hostname != "" {
		out = append(out, "host becomes "+f.Hostname)
	}
	switch {
	case f.Path == nil:
	case f.Path.Full:
		out = append(out, "path becomes "+f.Path.Value)
	default:
		out = append(out, "prefix becomes "+cmp.Or(f.Path.Value, "/"))
	}
	return out
}

// redirectText is where a redirect leads, as far as that stands without a request.
func redirectText(r *route.Redirect, at *route.Router, hostname string) string {
	host, path := cmp.Or(r.Hostname, hostname, "*"), ""
	scheme := cmp.Or(r.Scheme, strings.ToLower(string(at.Protocol)))
	port := r.Port
	if port == 0 && r.Scheme == "" {
		port = at.Port
	}
	if port != 0 && port != defaultPort(scheme) {
		host += fmt.Sprintf(":%d", port)
	}
	switch p := r.Path; {
	case p == nil:
	case p.Full:
		path = p.Value
	default:
		path = strings.TrimSuffix(p.Value, "/") + "/*"
	}
	return scheme + "://" + host + path
}

func defaultPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}
