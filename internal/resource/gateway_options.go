package resource

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/route"
)

// optionPrefix is that of the annotations and TLS options that are ours.
const optionPrefix = "countersign.dev/"

// maxOptionList bounds the values of one option that is a list.
const maxOptionList = 1024

// wiredOptions are those that the proxy acts on. Of the others the value that holds anyway is
// taken, and any other is E301: an option that is taken and does nothing is worse than none.
var wiredOptions = []string{
	"websocket", "request-body", "stream-idle", "ip-allow", "ip-deny", "escaped-reserved", "merge-slashes",
	"allow-client-headers", "underscores", "trusted-proxies", "trusted-proxy-addresses", "hsts", "via", "forwarded",
	"max-connections", "max-connections-per-source", "plaintext", "api-key-header",
}

// optionsOf are the annotations of an object that the proxy acts on, as package route takes them.
func optionsOf(o Object) route.Options {
	var out route.Options
	for key, value := range o.Annotations {
		if name, _, _ := cutOption(key); slices.Contains(wiredOptions, name) {
			if out == nil {
				out = route.Options{}
			}
			out[strings.TrimPrefix(key, optionPrefix)] = value
		}
	}
	return out
}

// edgeOption is one annotation of gateway.md 11.2. Kinds that take it: a Gateway also takes it
// with a listener's name behind it, an HTTPRoute with a rule's.
type edgeOption struct {
	kinds []string
	check func(string) *complaint
	holds string // the value that says what holds without it
	ready bool   // to be wired; Options.Gateway takes all of its values
}

func edgeOptions() map[string]edgeOption {
	gateway, both, routes := []string{"Gateway"}, []string{"Gateway", "HTTPRoute"}, []string{"HTTPRoute"}
	ready := func(kinds []string, holds string, check func(string) *complaint) edgeOption {
		return edgeOption{kinds, check, holds, true}
	}
	later := func(kinds []string, holds string, values ...string) edgeOption {
		if len(values) == 0 {
			return edgeOption{kinds, anyText, holds, false}
		}
		return edgeOption{kinds, optionWord(values...), holds, false}
	}
	const none = "\x00" // no value says it
	return map[string]edgeOption{
		"websocket":                  ready(both, "allow", optionWord("allow", "deny")),
		"request-body":               ready(both, "10Mi", checkSize),
		"stream-idle":                ready(both, none, checkIdle),
		"ip-allow":                   ready(both, none, checkNetworks),
		"ip-deny":                    ready(both, none, checkNetworks),
		"escaped-reserved":           ready(both, "refuse", optionWord("refuse", "keep")),
		"merge-slashes":              ready(both, "true", optionWord("true", "false")),
		"allow-client-headers":       ready(both, none, checkFieldNames),
		"underscores":                ready(both, "allow", optionWord("allow", "drop")),
		"plaintext":                  ready([]string{"Service"}, "refuse", optionWord("refuse", "allow")),
		"api-key-header":             ready(gateway, "X-API-Key", checkFieldName),
		"trusted-proxies":            ready(gateway, none, checkCount(0, 64)),
		"trusted-proxy-addresses":    ready(gateway, none, checkNetworks),
		"hsts":                       ready(gateway, none, checkHeaderValue),
		"via":                        ready(gateway, "true", optionWord("true", "false")),
		"forwarded":                  ready(gateway, "false", optionWord("true", "false")),
		"max-connections":            ready(gateway, "10000", checkCount(1, 1_000_000)),
		"max-connections-per-source": ready(gateway, "256", checkCount(1, 1_000_000)),

		"token":            later(routes, none),
		"scopes":           later(routes, none),
		"on-outage":        later(routes, none),
		"dpop-nonce":       later(routes, none),
		"compress":         later(both, none),
		"compress-private": later(both, "deny", "deny", "allow"),
		"sign-in":          later(both, "off", "off", "browser", "required"),
		"retry-unsafe":     later(routes, "false", "true", "false"),
		"cross-site":       later(both, "protect", "protect", "allow"),
		"waf":              later(both, "off", "off", "detect", "block"),
		"proxy-protocol":   later(gateway, "off", "off", "required"),
		"http3":            later(gateway, "off", "off", "on"),
		"client-principal": later(gateway, "off", "off", "subject"),
	}
}

// edgeOptions judges the annotations that are ours: E402.
func (o *object) edgeOptions() {
	given := fieldsOf(fieldsOf(o.value["metadata"])["annotations"])
	var known map[string]edgeOption
	if len(given) > 0 { // most objects have none
		known = edgeOptions()
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		name, part, partial := cutOption(key)
		if name == "" || key == writtenBy {
			continue
		}
		p := root.field("metadata").field("annotations").field(key)
		option, ok := known[name]
		value := textOf(given[key])
		switch {
		case !ok:
			o.fault("E402", p, atKey, "annotation "+quote(key)+" is not known", didYouMean(name, slices.Sorted(maps.Keys(known))))
		case !slices.Contains(option.kinds, o.kind):
			o.fault("E402", p, atKey, o.kind+" has no option "+name, "it stands on "+strings.Join(option.kinds, ", "))
		case partial && !o.hasPart(part):
			o.fault("E402", p, atKey, "annotation "+quote(key)+" names "+quote(part)+", which is not there", "behind the dot stands the name of a listener of this Gateway, or of a rule of this route")
		default:
			if c := option.check(value); c != nil {
				o.fault(c.code, p, atValue, c.text, c.hint)
			} else if value != option.holds && !o.takes(name, option) {
				o.unsupported(p, atValue, "not supported yet", "")
			}
		}
	}
	o.checkProxies(given)
}

// checkProxies warns of a Gateway that believes whoever reaches its port, and of one that names proxies and does not
// ask them.
func (o *object) checkProxies(given map[string]any) {
	const addresses = optionPrefix + "trusted-proxy-addresses"
	counted, named := false, ""
	for _, key := range slices.Sorted(maps.Keys(given)) {
		name, part, _ := cutOption(key)
		switch name {
		case "trusted-proxies":
			counted = true
			if textOf(given[key]) != "0" && given[addresses] == nil && (part == "" || given[addresses+"."+part] == nil) {
				o.warn("W-proxies", root.field("metadata").field("annotations").field(key), atKey,
					"whoever reaches the port names his address himself", "name the proxies in "+addresses)
			}
		case "trusted-proxy-addresses":
			named = key
		}
	}
	if named != "" && !counted {
		o.warn("W-proxies", root.field("metadata").field("annotations").field(named), atKey,
			"the X-Forwarded-For of these proxies is not read", "say in "+optionPrefix+"trusted-proxies how many of them a request passes: \"1\"")
	}
}

func (o *object) takes(name string, option edgeOption) bool {
	return option.ready && (o.batch.options.Gateway || slices.Contains(wiredOptions, name))
}

// cutOption splits countersign.dev/name.part; name is empty for an annotation that is not ours.
func cutOption(key string) (name, part string, partial bool) {
	rest, ours := strings.CutPrefix(key, optionPrefix)
	if !ours {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}

// hasPart reports whether a listener or rule has a name.
func (o *object) hasPart(name string) bool {
	list := map[string]string{"Gateway": "listeners", "HTTPRoute": "rules"}[o.kind]
	return name != "" && slices.ContainsFunc(itemsOf(at(o.value["spec"], list)), func(v any) bool { return word(v, "name") == name })
}

// checkSlashes is E404 as far as one route shows: merge-slashes "false" where a path decides.
func (o *object) checkSlashes(spec map[string]any) {
	given := fieldsOf(fieldsOf(o.value["metadata"])["annotations"])
	for _, key := range slices.Sorted(maps.Keys(given)) {
		name, part, partial := cutOption(key)
		if name != "merge-slashes" || given[key] != "false" {
			continue
		}
		for i, r := range itemsOf(spec["rules"]) {
			if (!partial || word(r, "name") == part) && !all(at(r, "matches"), func(m any) bool {
				return word(m, "path", "type") == "PathPrefix" && word(m, "path", "value") == "/"
			}) {
				o.fault("E404", root.field("metadata").field("annotations").field(key), atKey,
					fmt.Sprintf("rule %d matches a path: empty segments would pass by it", i), "leave the annotation out")
				break
			}
		}
	}
}

func badOption(s, hint string) *complaint {
	return complain("E402", quote(s)+" is not a value of this annotation", hint)
}

func optionWord(values ...string) func(string) *complaint {
	return func(s string) *complaint {
		if !slices.Contains(values, s) {
			return badOption(s, "one of "+strings.Join(values, ", "))
		}
		return nil
	}
}

func checkSize(s string) *complaint {
	if _, ok := route.ParseSize(s); !ok {
		return badOption(s, "bytes, or a number with Ki, Mi or Gi: 10Mi; 0: no bound")
	}
	return nil
}

func checkIdle(s string) *complaint {
	d, err := time.ParseDuration(s)
	if err != nil || !gatewayDuration.MatchString(s) || d < time.Second {
		return badOption(s, "a duration of at least 1s, such as 60s or 1h")
	}
	return nil
}

func checkNetworks(s string) *complaint {
	parts := strings.Split(s, ",")
	if len(parts) > maxOptionList {
		return complain("E402", fmt.Sprintf("%d networks, at most %d are taken", len(parts), maxOptionList), "")
	}
	for _, part := range parts {
		if _, err := route.ParseNetworks(part); err != nil {
			return badOption(strings.TrimSpace(part), "addresses and networks with a comma between them: 192.0.2.0/24, 2001:db8::1")
		}
	}
	return nil
}

// checkFieldName judges a header that keys are looked for in: none that means something else.
func checkFieldName(s string) *complaint {
	if !isToken(s) || neverInRequest(strings.ToLower(s)) || strings.EqualFold(s, "cookie") {
		return badOption(s, "the name of a header, such as X-API-Key")
	}
	return nil
}

// checkFieldNames judges what a route lets through: never identity and decisions.
func checkFieldNames(s string) *complaint {
	for part := range strings.SplitSeq(s, ",") {
		name := strings.ToLower(strings.TrimSpace(part))
		if !isToken(name) || neverInMessage(name) || h1.Lets(name) == h1.Nobody {
			return badOption(part, "names of headers that are dropped otherwise, with a comma between them, none of identity or decisions: X-Real-IP")
		}
	}
	return nil
}

func checkCount(least, most int) func(string) *complaint {
	return func(s string) *complaint {
		n, err := strconv.Atoi(s)
		if err != nil || strconv.Itoa(n) != s || n < least || n > most {
			return badOption(s, fmt.Sprintf("a number from %d to %d, in quotes", least, most))
		}
		return nil
	}
}

func checkHeaderValue(s string) *complaint {
	if !strings.HasPrefix(s, "max-age=") || len(s) > 256 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return badOption(s, "such as max-age=31536000; includeSubDomains")
	}
	return nil
}
