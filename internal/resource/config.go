package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/identity"
	"go.yaml.in/yaml/v3"
)

// Config is the file of `up --config`. Every field may be left out.
type Config struct {
	// TrustDomain names a new mesh; it never changes afterwards. [cluster.local]
	TrustDomain string
	// SVIDTTL is the life of a workload's certificate, 10s to 24h. [1h]
	SVIDTTL time.Duration
	// RootNamespace is where policies for the whole mesh lie; of a new mesh. [istio-system]
	RootNamespace string
	// AllowAny lets programs call hosts outside the mesh: outboundTrafficPolicy.mode
	// ALLOW_ANY. [REGISTRY_ONLY]
	AllowAny bool
	// Egress lists what Gateways may call of what they never call because an object names it: this machine, metadata
	// of clouds.
	Egress []Egress
	// Bind lists the addresses of Gateways that name none. [127.0.0.1, ::1]
	Bind []netip.Addr
	// AddressPool lists those of Gateways whose ports are taken there, and of those that ask for any.
	AddressPool []netip.Addr
	// CertificateDirs lists where certificate files of Gateways may lie. nil: the default
	CertificateDirs []string
	// Token is the section of the token service.
	Token TokenConfig
}

const (
	defaultSVIDTTL = time.Hour
	minSVIDTTL     = 10 * time.Second
	maxSVIDTTL     = 24 * time.Hour
	maxConfig      = 64 << 10 // bytes
)

var configFields = []string{"trustDomain", "svidTTL", "rootNamespace", "outboundTrafficPolicy", "egress", "bind", "addressPool", "certificateDirs", "token"}

// configReader collects the faults of one file.
type configReader struct {
	file   string
	faults []Fault
	c      Config
}

// DecodeConfig reads a role file strictly; every fault at once, with its place.
func DecodeConfig(f File) (Config, []Fault) {
	r := &configReader{file: f.Name, c: Config{SVIDTTL: defaultSVIDTTL, Token: TokenConfig{KeyPeriod: defaultKeyPeriod}}}
	if len(f.Data) > maxConfig {
		r.fault(1, 1, "E102", fmt.Sprintf("the file has %s, at most %s is read", size(len(f.Data)), size(maxConfig)), "")
		return r.c, r.faults
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(f.Data, &doc); err != nil {
		line := 1
		fmt.Sscanf(strings.TrimPrefix(err.Error(), "yaml: "), "line %d:", &line)
		r.fault(line, 1, "E101", strings.TrimPrefix(err.Error(), "yaml: "), "")
		return r.c, r.faults
	}
	if len(doc.Content) == 0 {
		return r.c, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		r.fault(root.Line, root.Column, "E109", "the file is no map of fields", "write a line such as\n  svidTTL: 1h")
		return r.c, r.faults
	}
	r.each(root, r.field)
	return r.c, r.faults
}

func (r *configReader) fault(line, col int, code, text, hint string) {
	r.faults = append(r.faults, Fault{File: r.file, Line: line, Column: col, Code: code, Text: text, Hint: hint, Severity: Error})
}

// each goes through the fields of a map; one that stands twice is taken once.
func (r *configReader) each(m *yaml.Node, field func(key, value *yaml.Node)) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if seen[key.Value] {
			r.fault(key.Line, key.Column, "E101", fmt.Sprintf("%s stands twice", quote(key.Value)), "keep one of them")
			continue
		}
		seen[key.Value] = true
		field(key, value)
	}
}

// unknown reports a field that is none of those known.
func (r *configReader) unknown(section string, key *yaml.Node, known []string) {
	hint := "known are " + strings.Join(known, ", ")
	if near := nearest(key.Value, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	r.fault(key.Line, key.Column, "E106", section+"unknown field "+quote(key.Value), hint)
}

func (r *configReader) field(key, value *yaml.Node) {
	switch {
	case !slices.Contains(configFields, key.Value):
		r.unknown("", key, configFields)
		return
	case key.Value == "outboundTrafficPolicy":
		r.outbound(value)
		return
	case key.Value == "egress":
		r.egress(value)
		return
	case key.Value == "bind":
		r.bind(value)
		return
	case key.Value == "addressPool":
		r.pool(value)
		return
	case key.Value == "certificateDirs":
		r.certificateDirs(value)
		return
	case key.Value == "token":
		r.token(value)
		return
	}
	text, ok := r.scalar(key.Value, value)
	if !ok {
		return
	}
	switch key.Value {
	case "trustDomain":
		if err := identity.CheckTrustDomain(text); err != nil {
			r.fault(value.Line, value.Column, "E103", fmt.Sprintf("trustDomain %s: %v", quote(text), err), "a DNS name in lower case: prod.example")
		}
		r.c.TrustDomain = text
	case "rootNamespace":
		if identity.CheckLabel(text) != nil {
			r.fault(value.Line, value.Column, "E103", fmt.Sprintf("rootNamespace %s is not a namespace", quote(text)), suggestLabel("a-z, 0-9 and -, at most 63 characters", text))
		}
		r.c.RootNamespace = text
	case "svidTTL":
		r.ttl(value, text)
	}
}

// scalar is a value that is one word; null and lists are none.
func (r *configReader) scalar(name string, v *yaml.Node) (string, bool) {
	switch {
	case v.Kind == yaml.AliasNode || v.Anchor != "":
		r.fault(v.Line, v.Column, "E109", name+" is an alias or an anchor", "write the value itself")
	case v.Kind != yaml.ScalarNode:
		r.fault(v.Line, v.Column, "E109", name+" is no single value", "")
	case v.Tag == "!!null":
		r.fault(v.Line, v.Column, "E107", name+" is null", "give it a value, or leave the line out")
	default:
		return v.Value, true
	}
	return "", false
}

func (r *configReader) ttl(v *yaml.Node, text string) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.fault(v.Line, v.Column, "E111", fmt.Sprintf("svidTTL %s is no duration", quote(text)), "write 10s, 15m or 1h")
	case d < minSVIDTTL || d > maxSVIDTTL:
		r.fault(v.Line, v.Column, "E111", fmt.Sprintf("svidTTL %s is outside 10s to 24h", d), "1h is the default")
	default:
		r.c.SVIDTTL = d
	}
}

// outbound reads {mode: REGISTRY_ONLY | ALLOW_ANY}, as in Istio's MeshConfig.
func (r *configReader) outbound(v *yaml.Node) {
	if v.Kind != yaml.MappingNode {
		r.fault(v.Line, v.Column, "E109", "outboundTrafficPolicy is no map", "write {mode: ALLOW_ANY}")
		return
	}
	r.each(v, func(key, value *yaml.Node) {
		if key.Value != "mode" {
			r.unknown("outboundTrafficPolicy: ", key, []string{"mode"})
			return
		}
		text, ok := r.scalar("outboundTrafficPolicy.mode", value)
		switch {
		case !ok:
		case text == "ALLOW_ANY":
			r.c.AllowAny = true
		case text != "REGISTRY_ONLY":
			r.fault(value.Line, value.Column, "E110", fmt.Sprintf("outboundTrafficPolicy.mode: %s is not a mode", quote(text)), "ALLOW_ANY or REGISTRY_ONLY")
		}
	})
}
