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
	host, ok := x.resourceHost()
	if !ok {
		return nil
	}
	if text := rules.Metadata(host, x.path); text != nil {
		x.answerMetadata(text)
	}
	return nil
}

// resourceHost is the host of the request as resources are looked up by.
func (x *exchange) resourceHost() (string, bool) {
	host, port, ok := splitAuthority(x.host, 80)
	if port != 80 && port != 443 {
		host += ":" + strconv.Itoa(int(port))
	}
	return host, ok
}

func (x *exchange) answerMetadata(text []byte) {
	x.limitDrain()
	h := x.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	h["Cache-Control"] = []string{"public, max-age=300"}
	x.secure(h)
	x.begun.Store(true)
	x.w.WriteHeader(http.StatusOK)
	x.rec.Layer = audit.LayerRoute
	o := outcome{status: http.StatusOK}
	if x.r.Method == http.MethodGet {
		_, _ = x.w.Write(text)
		o.resp = int64(len(text))
	}
	x.finish(o)
}
