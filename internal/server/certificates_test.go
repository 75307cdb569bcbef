package server

import (
	"strings"
	"testing"

	"countersign.dev/internal/control"
	"countersign.dev/internal/route"
)

// What a node tells of certificate files has bounds.
func TestCertificateFilesBounded(t *testing.T) {
	at := func(n int) (out []*control.GatewayFiles) {
		for range n {
			out = append(out, &control.GatewayFiles{})
		}
		return out
	}
	for name, tt := range map[string]struct {
		files []*control.GatewayFiles
		ok    bool
	}{
		"none":         {nil, true},
		"most":         {at(maxGatewayPorts), true},
		"too many":     {at(maxGatewayPorts + 1), false},
		"fault":        {[]*control.GatewayFiles{{Fault: strings.Repeat("a", maxPortText)}}, true},
		"long fault":   {[]*control.GatewayFiles{{Fault: strings.Repeat("a", maxPortText+1)}}, false},
		"names":        {[]*control.GatewayFiles{{Names: make([]string, maxCertificateNames)}}, true},
		"many names":   {[]*control.GatewayFiles{{Names: make([]string, maxCertificateNames+1)}}, false},
		"a long name":  {[]*control.GatewayFiles{{Names: []string{strings.Repeat("a", maxNameBytes+1)}}}, false},
		"a name of it": {[]*control.GatewayFiles{{Names: []string{strings.Repeat("a", maxNameBytes)}}}, true},
	} {
		if err := checkFiles(tt.files); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Only a node that may run a Gateway says that its files are good; before there is such a node any says what is wrong.
func TestSecCertificateFilesBelieved(t *testing.T) {
	g := &route.Gateway{Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: "edge"}}}
	good := &control.GatewayFiles{Namespace: "shop", Name: "edge", Listener: "https", Names: []string{"a.test"}}
	bad := &control.GatewayFiles{Namespace: "shop", Name: "edge", Listener: "https", Fault: "cannot be read; mend them"}
	other := &control.GatewayFiles{Namespace: "shop", Name: "other", Listener: "https"}
	type node struct {
		file            *control.GatewayFiles
		admitted, known bool
	}
	for name, tt := range map[string]struct {
		nodes []node
		want  string // fault; "-" for nothing known
	}{
		"its node":                     {[]node{{good, true, true}}, ""},
		"another node, good":           {[]node{{good, false, true}}, "-"},
		"another node, bad":            {[]node{{bad, false, true}}, "-"},
		"nobody runs it yet, good":     {[]node{{good, false, false}}, "-"},
		"nobody runs it yet, bad":      {[]node{{bad, false, false}}, bad.Fault},
		"good on one, bad on another":  {[]node{{good, true, true}, {bad, true, true}}, ""},
		"bad on one, good on another":  {[]node{{bad, true, true}, {good, true, true}}, ""},
		"of another Gateway":           {[]node{{other, true, true}}, "-"},
		"another node after its own":   {[]node{{bad, true, true}, {good, false, true}}, bad.Fault},
		"nothing was said of any file": {nil, "-"},
	} {
		var f route.GatewayFacts
		for _, n := range tt.nodes {
			takeFiles(&f, g, []*control.GatewayFiles{n.file}, n.admitted, n.known)
		}
		got := "-"
		if c, ok := f.Files["https"]; ok {
			got = c.Fault
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
