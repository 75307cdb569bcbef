package server

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

// exposed is a door as people read it.
type exposed struct {
	asked  admin.ExposeRequest
	door   resource.Door
	opened []resource.Opening
	own    bool   // its certificate is of our authority
	issuer string // our own
}

// url is the address of the door; that of a wildcard is one host below it.
func (x exposed) url() (host, url string) {
	host = strings.Replace(x.door.Host, "*", "www", 1)
	if x.door.Port == 443 {
		return host, "https://" + host
	}
	return host, fmt.Sprintf("https://%s:%d", host, x.door.Port)
}

// sentence says who may pass. beside: policies that expose did not write let others in.
func (x exposed) sentence(beside bool) string {
	_, url := x.url()
	if rest, ok := strings.CutPrefix(x.door.Host, "*."); ok {
		url = strings.Replace(url, "www."+rest, x.door.Host, 1)
	}
	var said []string
	public := false
	for i, o := range x.opened {
		same := func(p resource.Opening) bool { return slices.Equal(p.Requests, o.Requests) }
		if slices.ContainsFunc(x.opened[:i], same) {
			continue // said with it
		}
		who := ""
		var with []string
		for _, p := range x.opened {
			switch {
			case !same(p):
			case p.Public:
				who, public = "everybody", true
			default:
				with = append(with, x.shows(p.Way))
			}
		}
		if who == "" {
			who = "whoever has " + strings.Join(with, " or ")
		}
		said = append(said, fmt.Sprintf("%s may %s at %s", who, sayRequests(o.Requests), url))
	}
	if len(said) == 0 {
		return ""
	}
	if !public && !beside {
		said[len(said)-1] += ", and nobody else"
	}
	return strings.Join(said, "; ")
}

func (x exposed) shows(w resource.Way) string {
	switch {
	case w.Keys:
		return "an API key for " + x.asked.Service
	case w.Issuer == x.issuer:
		return "a token for " + x.asked.Service
	}
	return fmt.Sprintf("a token of %s for %s", w.Issuer, w.Audience)
}

// sayRequests are requests as they are typed.
func sayRequests(requests []string) string {
	var out []string
	for _, r := range requests {
		methods, path, _ := strings.Cut(r, " ")
		if strings.HasPrefix(r, "/") || strings.HasPrefix(r, "*") {
			methods, path = "", r
		}
		if strings.HasSuffix(path, "/*") {
			path += "*"
		}
		words := strings.TrimSpace(strings.ReplaceAll(methods, ",", ", ") + " " + path)
		switch {
		case words == "":
			words = "make every call"
		case methods == "":
			words = "call " + words
		}
		out = append(out, words)
	}
	return strings.Join(out, ", ")
}

// next are the commands that follow: a key, and a call that passes.
func (x exposed) next() []string {
	if len(x.opened) == 0 {
		return nil
	}
	at := x.opened[len(x.opened)-1] // everybody, else keys, else tokens
	var out []string
	header := ""
	switch {
	case at.Keys:
		out = append(out, "key: KEY=$(countersign key create partner --audience "+x.asked.Service+")")
		header = ` -H "X-API-Key: $KEY"`
	case !at.Public:
		header = ` -H "Authorization: Bearer $TOKEN"`
	}
	host, url := x.url()
	curl := "try: curl"
	if x.own {
		curl += " --cacert <(countersign ca root)"
	}
	if host != "localhost" && !strings.HasSuffix(host, ".localhost") {
		curl += fmt.Sprintf(" --resolve %s:%d:127.0.0.1", host, x.door.Port)
	}
	method, path := sample(at.Requests)
	switch method {
	case "":
	case "HEAD":
		curl += " -I"
	default:
		curl += " -X " + method
	}
	url += path
	if !plainURL.MatchString(url) {
		url = admin.ShellQuote(url)
	}
	return append(out, curl+header+" "+url)
}

var plainURL = regexp.MustCompile(`^[-A-Za-z0-9./:_~%]+$`)

// sample is a call that one of the requests takes; method is empty for GET.
func sample(requests []string) (method, path string) {
	best := slices.IndexFunc(requests, func(r string) bool {
		methods, _, _ := strings.Cut(r, " ")
		return r == "" || strings.HasPrefix(r, "/") || strings.HasPrefix(r, "*") || slices.Contains(strings.Split(methods, ","), "GET")
	})
	r := requests[max(best, 0)]
	method, path, _ = strings.Cut(r, " ")
	if strings.HasPrefix(r, "/") || strings.HasPrefix(r, "*") {
		method, path = "", r
	}
	if best >= 0 {
		method = ""
	}
	method, _, _ = strings.Cut(method, ",")
	switch {
	case path == "", path == "/*":
		path = "/"
	case strings.HasPrefix(path, "*"):
		path = "/17" + path[1:]
	}
	path = strings.NewReplacer("{*}", "17", "{**}", "17").Replace(path)
	if rest, ok := strings.CutSuffix(path, "/*"); ok {
		return method, rest + "/17"
	}
	return method, strings.TrimSuffix(path, "*")
}

func (x exposed) undo() string {
	out := fmt.Sprintf("countersign expose %s %s --remove", x.door.Host, x.asked.Service)
	if strings.HasPrefix(x.door.Host, "*") {
		out = fmt.Sprintf("countersign expose %s %s --remove", admin.ShellQuote(x.door.Host), x.asked.Service)
	}
	if ns := x.asked.Namespace; ns != "" && ns != "default" {
		out += " -n " + ns
	}
	return out
}

// entersBeside reports whether a policy that expose did not write may let somebody in at the shared Gateway.
func entersBeside(v *view) bool {
	labels := map[string]string{"app": "edge", policy.GatewayLabel: "edge"}
	return slices.ContainsFunc(v.Policies, func(p policy.Policy) bool {
		if p.Action != policy.Allow || len(p.Rules) == 0 || p.WrittenBy == "expose" {
			return false
		}
		if len(p.Gateways) > 0 {
			return p.Namespace == "default" && slices.Contains(p.Gateways, "edge")
		}
		for k, want := range p.Selector {
			if labels[k] != want {
				return false
			}
		}
		return p.Namespace == "default" || p.Namespace == v.Mesh.RootNamespace
	})
}
