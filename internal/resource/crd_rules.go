package resource

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// judgedRules is the digest of the CEL rules that the functions below were written after.
const judgedRules = "7f8f018beeeaa42b4d7ee56dac003ff54837486e955fd5fde5eafe06010fbc02"

// celRules holds a function for every CEL rule of the schema, by the rule's message. Each says
// whether a value, its defaults filled in, keeps the rule; where the evaluation of CEL would
// fail (no such key), it does not.
var celRules = func() map[string]func(self, old any) bool {
	out := make(map[string]func(self, old any) bool)
	for message, keeps := range map[string]func(self any) bool{
		// Gateway
		"IPAddress values must be unique": func(s any) bool { return uniqueAddresses(s, "IPAddress") },
		"Hostname values must be unique":  func(s any) bool { return uniqueAddresses(s, "Hostname") },
		`Hostname value must be empty or contain only valid characters (matching ^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)`: func(s any) bool {
			return word(s, "type") != "Hostname" || !has(s, "value") || celHostname.MatchString(word(s, "value"))
		},
		"Annotation keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.": qualifiedKeys,
		"Label keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.":      qualifiedKeys,
		"If specified, the annotation key's prefix must be a DNS subdomain not longer than 253 characters in total.":                          shortPrefixes,
		"If specified, the label key's prefix must be a DNS subdomain not longer than 253 characters in total.":                               shortPrefixes,
		"tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']": func(s any) bool {
			return all(s, func(l any) bool { return !isOneOf(word(l, "protocol"), "HTTP", "TCP", "UDP") || !has(l, "tls") })
		},
		"tls mode must be Terminate for protocol HTTPS": func(s any) bool {
			return all(s, func(l any) bool {
				return word(l, "protocol") != "HTTPS" || !has(l, "tls") || isOneOf(word(l, "tls", "mode"), "", "Terminate")
			})
		},
		"tls mode must be set for protocol TLS": func(s any) bool {
			return all(s, func(l any) bool { return word(l, "protocol") != "TLS" || word(l, "tls", "mode") != "" })
		},
		"hostname must not be specified for protocols ['TCP', 'UDP']": func(s any) bool {
			return all(s, func(l any) bool { return !isOneOf(word(l, "protocol"), "TCP", "UDP") || word(l, "hostname") == "" })
		},
		"Listener name must be unique within the Gateway": func(s any) bool { return unique(s, "name") },
		"Combination of port, protocol and hostname must be unique for each listener": func(s any) bool {
			return unique(s, "port", "protocol", "hostname")
		},
		"certificateRefs or options must be specified when mode is Terminate": func(s any) bool {
			return word(s, "mode") != "Terminate" || len(itemsOf(at(s, "certificateRefs"))) > 0 || len(fieldsOf(at(s, "options"))) > 0
		},
		"Port for TLS configuration must be unique within the Gateway": func(s any) bool { return unique(s, "port") },

		// HTTPRoute
		"sectionName or port must be specified when parentRefs includes 2 or more references to the same parent": sectioned,
		"sectionName or port must be unique when parentRefs includes 2 or more references to the same parent": func(s any) bool {
			return unique(s, "group", "kind", "name", "namespace", "sectionName", "port")
		},
		"While 16 rules and 64 matches per rule are allowed, the total number of matches across all rules in a route must be less than 128": func(s any) bool {
			n := 0
			for _, r := range itemsOf(s) {
				n += len(itemsOf(at(r, "matches")))
			}
			return n <= 128
		},
		"Rule name must be unique within the route": func(s any) bool {
			return unique(slices.DeleteFunc(slices.Clone(itemsOf(s)), func(r any) bool { return !has(r, "name") }), "name")
		},
		"RequestRedirect filter must not be used together with backendRefs": func(s any) bool {
			return len(itemsOf(at(s, "backendRefs"))) == 0 || all(at(s, "filters"), func(f any) bool { return !has(f, "requestRedirect") })
		},
		"When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(s any) bool {
			return !replacesPrefix(s, "requestRedirect") || onePrefix(s)
		},
		"When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(s any) bool {
			return !replacesPrefix(s, "urlRewrite") || onePrefix(s)
		},
		"Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(s any) bool {
			return !backendReplacesPrefix(s, "requestRedirect") || onePrefix(s)
		},
		"Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified": func(s any) bool {
			return !backendReplacesPrefix(s, "urlRewrite") || onePrefix(s)
		},
		"Must have port for Service reference": func(s any) bool {
			return word(s, "group") != "" || word(s, "kind") != "Service" || has(s, "port")
		},
		"May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both": func(s any) bool {
			return ofType(s, "RequestRedirect") == 0 || ofType(s, "URLRewrite") == 0
		},
		"AllowHeaders cannot contain '*' alongside other methods": starAlone,
		"AllowMethods cannot contain '*' alongside other methods": starAlone,
		"AllowOrigins cannot contain '*' alongside other origins": starAlone,
		"grpc must be specified when protocol is set to 'GRPC'":   together("protocol", "GRPC", "grpc"),
		"protocol must be 'GRPC' when grpc is set":                onlyWith("protocol", "GRPC", "grpc"),
		"http must be specified when protocol is set to 'HTTP'":   together("protocol", "HTTP", "http"),
		"protocol must be 'HTTP' when http is set":                onlyWith("protocol", "HTTP", "http"),
		"Only one of percent or fraction may be specified in HTTPRequestMirrorFilter": func(s any) bool {
			return !has(s, "percent") || !has(s, "fraction")
		},
		"numerator must be less than or equal to denominator": func(s any) bool {
			n, err1 := number(s, "numerator")
			d, err2 := number(s, "denominator")
			return err1 == nil && err2 == nil && n <= d
		},
		"replaceFullPath must be specified when type is set to 'ReplaceFullPath'":       together("type", "ReplaceFullPath", "replaceFullPath"),
		"type must be 'ReplaceFullPath' when replaceFullPath is set":                    onlyWith("type", "ReplaceFullPath", "replaceFullPath"),
		"replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'": together("type", "ReplacePrefixMatch", "replacePrefixMatch"),
		"type must be 'ReplacePrefixMatch' when replacePrefixMatch is set":              onlyWith("type", "ReplacePrefixMatch", "replacePrefixMatch"),
		"type must be one of ['Exact', 'PathPrefix', 'RegularExpression']": func(s any) bool {
			return isOneOf(word(s, "type"), "Exact", "PathPrefix", "RegularExpression")
		},
		"AbsoluteTimeout must be specified when cookie lifetimeType is Permanent": func(s any) bool {
			return word(s, "cookieConfig", "lifetimeType") != "Permanent" || has(s, "absoluteTimeout")
		},
		"cookieConfig can only be set with type Cookie": func(s any) bool {
			return !has(s, "cookieConfig") || word(s, "type") == "Cookie"
		},
		"backendRequest timeout cannot be longer than request timeout": func(s any) bool {
			if !has(s, "request") || !has(s, "backendRequest") {
				return true
			}
			request, err1 := time.ParseDuration(word(s, "request"))
			backend, err2 := time.ParseDuration(word(s, "backendRequest"))
			return err1 == nil && err2 == nil && (request == 0 || backend <= request)
		},
	} {
		out[message] = func(self, _ any) bool { return keeps(self) }
	}
	for message, keeps := range map[string]func(path string) bool{
		"value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']":                                             func(p string) bool { return strings.HasPrefix(p, "/") },
		"must not contain '//' when type one of ['Exact', 'PathPrefix']":                                                                         func(p string) bool { return !strings.Contains(p, "//") },
		"must not contain '/./' when type one of ['Exact', 'PathPrefix']":                                                                        func(p string) bool { return !strings.Contains(p, "/./") },
		"must not contain '/../' when type one of ['Exact', 'PathPrefix']":                                                                       func(p string) bool { return !strings.Contains(p, "/../") },
		"must not contain '%2f' when type one of ['Exact', 'PathPrefix']":                                                                        func(p string) bool { return !strings.Contains(p, "%2f") },
		"must not contain '%2F' when type one of ['Exact', 'PathPrefix']":                                                                        func(p string) bool { return !strings.Contains(p, "%2F") },
		"must not contain '#' when type one of ['Exact', 'PathPrefix']":                                                                          func(p string) bool { return !strings.Contains(p, "#") },
		"must not end with '/..' when type one of ['Exact', 'PathPrefix']":                                                                       func(p string) bool { return !strings.HasSuffix(p, "/..") },
		"must not end with '/.' when type one of ['Exact', 'PathPrefix']":                                                                        func(p string) bool { return !strings.HasSuffix(p, "/.") },
		"must only contain valid characters (matching ^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$) for types ['Exact', 'PathPrefix']": celPath.MatchString,
	} {
		out[message] = func(self, _ any) bool {
			return !isOneOf(word(self, "type"), "Exact", "PathPrefix") || keeps(word(self, "value"))
		}
	}
	for field, kind := range filterTypes {
		nilUnless, needed := onlyWith("type", kind, field), together("type", kind, field)
		out["filter."+field+" must be nil if the filter.type is not "+kind] = func(self, _ any) bool { return nilUnless(self) }
		out["filter."+field+" must be specified for "+kind+" filter.type"] = func(self, _ any) bool { return needed(self) }
	}
	for _, kind := range []string{"CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"} {
		out[kind+" filter cannot be repeated"] = func(self, _ any) bool { return ofType(self, kind) <= 1 }
	}
	out["Value is immutable"] = func(self, old any) bool { return old == nil || self == old }
	return out
}()

// filterTypes is the field that belongs to each type of filter.
var filterTypes = map[string]string{
	"cors": "CORS", "requestHeaderModifier": "RequestHeaderModifier", "responseHeaderModifier": "ResponseHeaderModifier",
	"requestMirror": "RequestMirror", "requestRedirect": "RequestRedirect", "urlRewrite": "URLRewrite",
	"extensionRef": "ExtensionRef", "externalAuth": "ExternalAuth",
}

var (
	celHostname  = regexp.MustCompile(`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	celQualified = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$`)
	celPath      = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)
)

// at walks into records; nil where there is nothing.
func at(v any, names ...string) any {
	for _, name := range names {
		v = fieldsOf(v)[name]
	}
	return v
}

func word(v any, names ...string) string { return textOf(at(v, names...)) }

func has(v any, name string) bool {
	_, ok := fieldsOf(v)[name]
	return ok
}

func number(v any, name string) (int64, error) {
	n, _ := at(v, name).(json.Number)
	return n.Int64()
}

func all(list any, keeps func(any) bool) bool {
	return !slices.ContainsFunc(itemsOf(list), func(v any) bool { return !keeps(v) })
}

func isOneOf(s string, words ...string) bool { return slices.Contains(words, s) }

// unique reports whether no two items agree in all of the fields; a field left out agrees with
// one that is left out or empty.
func unique(list any, fields ...string) bool {
	type six [6]any
	seen := make(map[six]bool)
	for _, item := range itemsOf(list) {
		var key six
		for i, f := range fields {
			if key[i] = at(item, f); key[i] == "" || key[i] == json.Number("0") {
				key[i] = nil
			}
		}
		if seen[key] {
			return false
		}
		seen[key] = true
	}
	return true
}

func uniqueAddresses(list any, kind string) bool {
	return unique(slices.DeleteFunc(slices.Clone(itemsOf(list)), func(a any) bool {
		return word(a, "type") != kind || !has(a, "value")
	}), "value")
}

func qualifiedKeys(v any) bool {
	for key := range fieldsOf(v) {
		if !celQualified.MatchString(key) {
			return false
		}
	}
	return true
}

func shortPrefixes(v any) bool {
	for key := range fieldsOf(v) {
		if prefix, _, _ := strings.Cut(key, "/"); len([]rune(prefix)) >= 253 {
			return false
		}
	}
	return true
}

// sectioned: references to one parent all name a section or none does, and the same for ports.
func sectioned(refs any) bool {
	type parent [4]string
	type named struct{ section, port bool }
	seen := make(map[parent]named)
	for _, r := range itemsOf(refs) {
		key := parent{word(r, "group"), word(r, "kind"), word(r, "name"), word(r, "namespace")}
		port, _ := number(r, "port")
		n := named{word(r, "sectionName") != "", port != 0}
		if before, ok := seen[key]; ok && before != n {
			return false
		}
		seen[key] = n
	}
	return true
}

// replacesPrefix reports whether exactly one filter of its kind replaces a prefix.
func replacesPrefix(v any, filter string) bool {
	n := 0
	for _, f := range itemsOf(at(v, "filters")) {
		if path := at(f, filter, "path"); word(path, "type") == "ReplacePrefixMatch" && has(path, "replacePrefixMatch") {
			n++
		}
	}
	return n == 1
}

func backendReplacesPrefix(rule any, filter string) bool {
	n := 0
	for _, b := range itemsOf(at(rule, "backendRefs")) {
		if replacesPrefix(b, filter) {
			n++
		}
	}
	return n == 1
}

func onePrefix(rule any) bool {
	matches := itemsOf(at(rule, "matches"))
	return len(matches) == 1 && word(matches[0], "path", "type") == "PathPrefix"
}

func ofType(filters any, kind string) int {
	n := 0
	for _, f := range itemsOf(filters) {
		if word(f, "type") == kind {
			n++
		}
	}
	return n
}

func starAlone(list any) bool {
	return len(itemsOf(list)) <= 1 || !slices.Contains(itemsOf(list), any("*"))
}

// together: where field has the value, the other is there.
func together(field, value, other string) func(any) bool {
	return func(v any) bool { return word(v, field) != value || has(v, other) }
}

// onlyWith: the other is there only where field has the value.
func onlyWith(field, value, other string) func(any) bool {
	return func(v any) bool { return word(v, field) == value || !has(v, other) }
}

// checkAddress is the one alternative (oneOf) of the schemas: the value of an IPAddress is one.
func checkAddress(v any) *complaint {
	value := word(v, "value")
	if word(v, "type") != "IPAddress" || !has(v, "value") {
		return nil
	}
	if a, err := netip.ParseAddr(value); err != nil || a.Zone() != "" {
		return complain("E109", quote(value)+" is not an IP address", "such as 192.0.2.1 or 2001:db8::1")
	}
	return nil
}
