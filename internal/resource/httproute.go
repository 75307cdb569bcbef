package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/route"
)

var httpRouteShape = crdShape("HTTPRoute", func(s *shape) {
	s.at("useDefaultGateways").notBuilt("All")
	rule := s.at("rules[]")
	rule.at("retry").later, rule.at("sessionPersistence").later = true, true
	for _, where := range []string{"filters[]", "backendRefs[].filters[]"} {
		f := rule.at(where)
		f.at("type").notBuilt("RequestMirror", "ExternalAuth")
		f.at("requestMirror").later, f.at("externalAuth").later = true, true
	}
})

// checkHTTPRoute is step 6 for an HTTPRoute.
func checkHTTPRoute(o *object, spec map[string]any) {
	p := root.field("spec")
	for i, v := range itemsOf(spec["parentRefs"]) {
		switch group, kind := word(v, "group"), word(v, "kind"); {
		case group == "" && kind == "Service":
			o.fault("E301", p.field("parentRefs").item(i), atValue, "routes of a service in the mesh are not supported yet", "name a Gateway")
		case group == gatewayGroup && kind == "ListenerSet":
			o.fault("E301", p.field("parentRefs").item(i), atValue, "kind ListenerSet is not supported yet", "name a Gateway")
		}
	}
	for i, v := range itemsOf(spec["rules"]) {
		o.checkRouteRule(v, p.field("rules").item(i))
	}
	o.checkSlashes(spec)
}

func (o *object) checkRouteRule(rule any, p *path) {
	for i, m := range itemsOf(at(rule, "matches")) {
		o.checkMatch(m, p.field("matches").item(i))
	}
	for i, f := range itemsOf(at(rule, "filters")) {
		o.checkFilter(rule, f, p.field("filters").item(i))
	}
	for i, b := range itemsOf(at(rule, "backendRefs")) {
		for j, f := range itemsOf(at(b, "filters")) {
			o.checkFilter(rule, f, p.field("backendRefs").item(i).field("filters").item(j))
		}
	}
}

// checkMatch judges the regular expressions: the schema knows nothing of their syntax.
func (o *object) checkMatch(m any, p *path) {
	judge := func(v any, p *path) {
		if word(v, "type") != "RegularExpression" {
			return
		}
		if c := checkRegexp(word(v, "value")); c != nil {
			o.fault(c.code, p.field("value"), atValue, c.text, c.hint)
		}
	}
	judge(at(m, "path"), p.field("path"))
	for _, list := range []string{"headers", "queryParams"} {
		for i, v := range itemsOf(at(m, list)) {
			judge(v, p.field(list).item(i))
		}
	}
}

// matchSpec and what follows are a route as stored.
type matchSpec struct {
	Path                 struct{ Type, Value string }
	Method               string
	Headers, QueryParams []struct{ Type, Name, Value string }
}

type pathSpec struct {
	Type                                string
	ReplaceFullPath, ReplacePrefixMatch string
}

type headersSpec struct {
	Set, Add []route.Pair
	Remove   []string
}

type filterSpec struct {
	Type                                          string
	RequestHeaderModifier, ResponseHeaderModifier *headersSpec
	RequestRedirect                               *struct {
		Scheme, Hostname string
		Port             uint16
		Path             *pathSpec
		StatusCode       int
	}
	URLRewrite *struct {
		Hostname string
		Path     *pathSpec
	}
	CORS *struct {
		AllowOrigins, AllowMethods, AllowHeaders, ExposeHeaders []string
		AllowCredentials                                        bool
		MaxAge                                                  int
	}
	ExtensionRef                *refSpec
	RequestMirror, ExternalAuth json.RawMessage
}

type ruleSpec struct {
	Name        string
	Matches     []matchSpec
	Filters     []filterSpec
	BackendRefs []struct {
		refSpec
		Weight  int
		Filters []filterSpec
	}
	Timeouts                  struct{ Request, BackendRequest string }
	Retry, SessionPersistence json.RawMessage
}

// HTTPRoute is the value of an accepted HTTPRoute.
func HTTPRoute(o Object, created time.Time, generation int64) (route.HTTPRoute, error) {
	spec, err := specOf[struct {
		ParentRefs         []refSpec
		Hostnames          []string
		Rules              []ruleSpec
		UseDefaultGateways string
	}](o, "HTTPRoute")
	if err != nil {
		return route.HTTPRoute{}, err
	}
	out := route.HTTPRoute{Meta: meta(o, created, generation), Options: optionsOf(o)}
	if len(spec.Hostnames) > 0 { // an empty list is as if absent
		out.Hostnames = spec.Hostnames
	}
	for _, p := range spec.ParentRefs {
		out.Parents = append(out.Parents, route.Parent{Ref: p.ref(o.Namespace), Section: p.SectionName, Port: p.Port})
	}
	for i, r := range spec.Rules {
		rule, err := r.rule(o.Namespace)
		if err != nil {
			return route.HTTPRoute{}, fmt.Errorf("%s: rule %d: %w", o.ID(), i, err)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func (r ruleSpec) rule(namespace string) (route.Rule, error) {
	if r.Retry != nil || r.SessionPersistence != nil {
		return route.Rule{}, errors.New("retry and sessionPersistence are not built")
	}
	out := route.Rule{Name: r.Name, Filters: filtersOf(r.Filters, namespace)}
	for _, m := range r.Matches {
		out.Matches = append(out.Matches, m.match())
	}
	if len(out.Matches) == 0 { // matches: [] is as if absent
		out.Matches = []route.Match{{PathType: route.Prefix, Path: "/"}}
	}
	for _, b := range r.BackendRefs {
		out.Backends = append(out.Backends, route.Backend{Ref: b.ref(namespace), Port: b.Port, Weight: b.Weight, Filters: filtersOf(b.Filters, namespace)})
	}
	var err1, err2 error
	out.Timeouts.Request, err1 = timeout(r.Timeouts.Request)
	out.Timeouts.Backend, err2 = timeout(r.Timeouts.BackendRequest)
	return out, errors.Join(err1, err2)
}

func timeout(s string) (*time.Duration, error) {
	if s == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, fmt.Errorf("timeout: %w", err)
	}
	return &d, nil
}

func (m matchSpec) match() route.Match {
	out := route.Match{PathType: route.PathType(m.Path.Type), Path: m.Path.Value, Method: m.Method}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, route.Pair{Name: h.Name, Value: h.Value, Regex: h.Type == "RegularExpression"})
	}
	for _, q := range m.QueryParams {
		out.Query = append(out.Query, route.Pair{Name: q.Name, Value: q.Value, Regex: q.Type == "RegularExpression"})
	}
	return out
}

func filtersOf(specs []filterSpec, namespace string) []route.Filter {
	var out []route.Filter
	for _, s := range specs {
		out = append(out, s.filter(namespace))
	}
	return out
}

func (s filterSpec) filter(namespace string) route.Filter {
	switch {
	case s.RequestHeaderModifier != nil:
		return route.Filter{RequestHeaders: s.RequestHeaderModifier.filter()}
	case s.ResponseHeaderModifier != nil:
		return route.Filter{ResponseHeaders: s.ResponseHeaderModifier.filter()}
	case s.RequestRedirect != nil:
		r := s.RequestRedirect
		return route.Filter{Redirect: &route.Redirect{Scheme: r.Scheme, Hostname: r.Hostname, Port: r.Port, Path: r.Path.replace(), Status: r.StatusCode}}
	case s.URLRewrite != nil:
		return route.Filter{Rewrite: &route.Rewrite{Hostname: s.URLRewrite.Hostname, Path: s.URLRewrite.Path.replace()}}
	case s.CORS != nil:
		c := s.CORS
		return route.Filter{CORS: &route.CORS{
			Origins: c.AllowOrigins, Credentials: c.AllowCredentials, Methods: c.AllowMethods, Headers: c.AllowHeaders,
			Expose: c.ExposeHeaders, MaxAge: c.MaxAge,
		}}
	case s.ExtensionRef != nil:
		ref := s.ExtensionRef.ref(namespace)
		return route.Filter{Extension: &ref}
	}
	return route.Filter{Unknown: s.Type}
}

func (h *headersSpec) filter() *route.HeaderFilter {
	return &route.HeaderFilter{Set: h.Set, Add: h.Add, Remove: h.Remove}
}

func (p *pathSpec) replace() *route.PathReplace {
	switch {
	case p == nil:
		return nil
	case p.Type == "ReplaceFullPath":
		return &route.PathReplace{Full: true, Value: p.ReplaceFullPath}
	}
	return &route.PathReplace{Value: p.ReplacePrefixMatch}
}
