package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
)

// resourceMetadata answers for a service with a record what tokens it takes and whose (tokens.md
// 11.3). It stands before token and policy: who was refused for want of a token finds out here
// where to get one. What no record names is the program's own affair.
func (x *exchange) resourceMetadata() *refused {
	if !strings.HasPrefix(x.path, bearer.MetadataPath) || x.ask.HasQuery {
		return nil
	}
	method := x.r.Method
	if method != http.MethodGet && method != http.MethodHead {
		return nil
	}
	rules := x.run.rules(x.v)
	if rules == nil {
		return nil
	}
	host, port, ok := splitAuthority(x.host, 80)
	if !ok {
		return nil
	}
	if port != 80 && port != 443 {
		host += ":" + strconv.Itoa(int(port))
	}
	text := rules.Metadata(host, x.path)
	if text == nil {
		return nil
	}
	x.limitDrain()
	h := x.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	h["Cache-Control"] = []string{"public, max-age=300"}
	x.begun.Store(true)
	x.w.WriteHeader(http.StatusOK)
	x.rec.Layer = audit.LayerRoute
	o := outcome{status: http.StatusOK}
	if method == http.MethodGet {
		_, _ = x.w.Write(text)
		o.resp = int64(len(text))
	}
	x.finish(o)
	return nil
}
