package resource

import (
	slash "path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// selectorTypes are the types of this release with a value each can have; identity.md 11.2.
var selectorTypes = map[string]string{
	"run": "run:default/api", "gateway": "gateway:default/edge",
	"unix:uid": "unix:uid:1001", "unix:gid": "unix:gid:1001",
	"unix:user": "unix:user:payments", "unix:group": "unix:group:payments",
	"unix:supplementary_gid": "unix:supplementary_gid:1001", "unix:supplementary_group": "unix:supplementary_group:payments",
	"unix:path": "unix:path:/usr/bin/payments", "unix:sha256": "unix:sha256:" + "<64 hex digits>",
}

// laterSelectors are the families of types that later releases build.
var laterSelectors = []string{"systemd", "docker", "k8s", "oidc"}

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checkSelectorText judges one selector of a workload. Selectors are compared byte by byte,
// so a spelling that no node ever finds is an error here, not a silence later.
func checkSelectorText(s string) *complaint {
	if c := checkSelectorForm(s); c != nil {
		return c
	}
	typ, value := selectorType(s)
	example, ok := selectorTypes[typ]
	if !ok {
		return unknownSelector(s)
	}
	if !selectorValue(typ, value) {
		return complain("E223", quote(value)+" is no value of "+typ, "such as "+example)
	}
	return nil
}

// selectorType cuts run:ns/name into run and ns/name, unix:user:bob into unix:user and bob.
func selectorType(s string) (typ, value string) {
	family, rest, _ := strings.Cut(s, ":")
	if family == "run" || family == "gateway" {
		return family, rest
	}
	name, value, ok := strings.Cut(rest, ":")
	if !ok {
		return s, ""
	}
	return family + ":" + name, value
}

func unknownSelector(s string) *complaint {
	family, _, ok := strings.Cut(s, ":")
	if ok && slices.Contains(laterSelectors, family) {
		return complain("E301", family+": selectors are not supported yet", "refused, not weakened: leave the selector out or wait for a later release")
	}
	typ, value := selectorType(s)
	types := []string{"run", "gateway", "unix:uid", "unix:gid", "unix:user", "unix:group", "unix:supplementary_gid", "unix:supplementary_group", "unix:path", "unix:sha256"}
	hint := "selectors start with run: or unix:, such as " + selectorTypes["unix:user"]
	near := nearest(typ, types)
	if _, known := selectorTypes["unix:"+family]; known {
		near, value = "unix:"+family, strings.TrimPrefix(s, family+":")
	}
	if near != "" {
		hint = "did you mean " + near + "? (" + near + ":" + clip(value) + ")"
	}
	return complain("E223", quote(s)+" is not a selector", hint)
}

func selectorValue(typ, value string) bool {
	switch typ {
	case "run", "gateway":
		ns, name, ok := strings.Cut(value, "/")
		return ok && dnsLabel.MatchString(ns) && dnsLabel.MatchString(name)
	case "unix:uid", "unix:gid", "unix:supplementary_gid":
		n, err := strconv.ParseUint(value, 10, 32)
		return err == nil && strconv.FormatUint(n, 10) == value
	case "unix:path":
		return slash.IsAbs(value) && slash.Clean(value) == value && !strings.HasSuffix(value, " (deleted)")
	case "unix:sha256":
		return hex64.MatchString(value)
	}
	return value != ""
}

// checkSelectorForm is what every selector has in common: type:value, at most 1 KiB of
// printable UTF-8.
func checkSelectorForm(s string) *complaint {
	switch {
	case !strings.Contains(s, ":"):
		return complain("E223", quote(s)+" is not a selector", "type:value, such as unix:user:payments")
	case len(s) > 1024:
		return complain("E223", "a selector of more than 1024 bytes", "")
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return complain("E223", quote(s)+" has characters that cannot be printed", "")
	}
	return nil
}

// checkNodeSelector judges one selector of nodes.
func checkNodeSelector(s string) *complaint {
	if c := checkSelectorForm(s); c != nil {
		return c
	}
	const hint = "node:name:web-1 or node:label:zone:eu-1"
	typ, value := selectorType(s)
	switch typ {
	case "node:name":
		if !dnsLabel.MatchString(value) {
			return complain("E223", quote(value)+" is not the name of a node", hint)
		}
		return nil
	case "node:label":
		if key, v, ok := strings.Cut(value, ":"); !ok || key == "" || v == "" {
			return complain("E223", quote(value)+" is not a label of a node", hint)
		}
		return nil
	}
	return complain("E223", quote(s)+" is not a selector of nodes", hint)
}
