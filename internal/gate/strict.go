package gate

import (
	"net/http"
	"net/url"
	"strconv"

	"countersign.dev/internal/h1"
)

// Strict shows next the requests of a listener of the edge profile in one form: what passed a Gate has its path made
// normal, without escaped reserved characters, and its header without what strangers may not say.
func Strict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := normalize(r); f != nil {
			answer(w, f)
			return
		}
		if r.URL.Path == "*" { // no single resource is meant (RFC 9110 section 9.3.7)
			w.Header().Set("Allow", h1.Allow)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func normalize(r *http.Request) *h1.Fault {
	target := r.RequestURI
	if target[0] != '/' && target != "*" {
		_, origin, f := h1.Absolute(target, r.TLS != nil)
		if f != nil {
			return f
		}
		target = origin
	}
	path, query, _, f := h1.Edge.Normalize(target)
	if f == nil {
		f = h1.CheckStrict(path)
	}
	if f != nil {
		return f
	}
	plain, err := url.PathUnescape(path) // an escape that is left is of no reserved character
	if err != nil {
		return h1.CheckStrict("/%2F")
	}
	r.URL = &url.URL{Path: plain, RawQuery: query}
	_, f = h1.Edge.Strip(r.Header)
	return f
}

// answer is the fault's own line and nothing of the request.
func answer(w http.ResponseWriter, f *h1.Fault) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(f.Text)))
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(f.Status)
	_, _ = w.Write([]byte(f.Text))
}
