package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// later names the kinds that are valid in Istio, the Gateway API or here and are not built
// in this release (E302), by API group.
var later = map[string][]string{
	"networking.istio.io": {"ServiceEntry", "WorkloadEntry", "WorkloadGroup", "DestinationRule", "VirtualService",
		"Gateway", "Sidecar", "EnvoyFilter", "ProxyConfig"},
	"extensions.istio.io":         {"WasmPlugin", "TrafficExtension"},
	"telemetry.istio.io":          {"Telemetry"},
	"gateway.networking.k8s.io":   {"GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet"},
	"gateway.networking.x-k8s.io": {"XBackend", "XBackendTrafficPolicy", "XMesh"},
	ownGroup:                      {"TrustDomain", "Login", "PolicyTest"},
}

// removed names the kinds that Istio took out, and what took their place.
var removed = map[string]map[string]string{
	"authentication.istio.io": {
		"Policy":     "write a PeerAuthentication and a RequestAuthentication",
		"MeshPolicy": "write a PeerAuthentication in the root namespace",
	},
	"rbac.istio.io": {
		"ServiceRole": "write an AuthorizationPolicy", "ServiceRoleBinding": "write an AuthorizationPolicy",
		"RbacConfig": "write an AuthorizationPolicy", "ClusterRbacConfig": "write an AuthorizationPolicy",
	},
}

// whichKind finds the kind that decodes the document, or reports why there is none:
// istio-semantics.md 2.2.
func (o *object) whichKind() (kind, bool) {
	version, hasVersion := o.value["apiVersion"]
	_, hasKind := o.value["kind"]
	switch {
	case !hasKind:
		o.fault("E103", root, atKey, "kind is missing", "add a line such as\n\tkind: AuthorizationPolicy")
		return kind{}, false
	case o.kind == "":
		o.fault("E103", root.field("kind"), atValue, "kind is no text", "")
		return kind{}, false
	case !hasVersion:
		hint := ""
		if k, ok := builtKind(o.kind); ok {
			hint = "add the line\n\tapiVersion: " + k.APIVersion
		}
		o.fault("E103", root, atKey, "apiVersion is missing", hint)
		return kind{}, false
	case textOf(version) == "":
		o.fault("E103", root.field("apiVersion"), atValue, "apiVersion is no text", "")
		return kind{}, false
	}
	group, v := groupOf(o.out.APIVersion)
	k, ok := builtKind(o.kind)
	if g, is := gatewayKindOf(group, o.kind); is && (servedKind(g.Name) || o.batch.options.Gateway) {
		k, ok = g.kind, true
		o.asGateway(g)
	}
	switch {
	case !ok:
		o.notBuilt(group)
		return kind{}, false
	case group != k.group || !slices.Contains(k.versions, v):
		o.faultOf("E104", "", root.field("apiVersion"), atValue,
			fmt.Sprintf("apiVersion %s is not known for %s", quote(o.out.APIVersion), o.kind), "write "+k.APIVersion)
		return kind{}, false
	}
	return k, true
}

// notBuilt reports a kind that nothing here decodes.
func (o *object) notBuilt(group string) {
	at := root.field("kind")
	if slices.Contains(later[group], o.kind) {
		hint := "refused, not weakened: leave the object out or wait for a later release"
		if group == "networking.istio.io" && o.kind == "Gateway" {
			hint = "the Gateway of gateway.networking.k8s.io takes its place"
		}
		o.faultOf("E302", "", at, atValue, fmt.Sprintf("kind %s is not supported yet", quote(o.kind)), hint)
		return
	}
	if hint := removed[group][o.kind]; hint != "" {
		o.resource = ""
		o.faultOf("E105", "", at, atValue, fmt.Sprintf("kind %s was removed from Istio", quote(o.kind)), hint)
		return
	}
	near := nearest(o.kind, knownKinds())
	switch {
	case ours(group), near != "":
		o.resource = ""
		hint := ""
		if near != "" {
			hint = "did you mean " + near + "?"
		}
		o.faultOf("E105", "", at, atValue, fmt.Sprintf("kind %s is not known", quote(o.kind)), hint)
	case o.batch.options.IgnoreUnknownKinds:
		o.report(Notice, "E105", "", at, atValue, fmt.Sprintf("kind %s is not known: left out", quote(o.kind)), "")
	default:
		o.resource = ""
		hint := "countersign apply -f " + o.name + " --ignore-unknown-kinds"
		o.faultOf("E105", "", at, atValue, fmt.Sprintf("kind %s is not known", quote(o.kind)), hint)
	}
}

// ours reports whether a group holds kinds that decide: they are never skipped.
func ours(group string) bool {
	return group == "istio.io" || strings.HasSuffix(group, ".istio.io") ||
		group == gatewayGroup || group == "gateway.networking.x-k8s.io" || group == ownGroup || strings.HasSuffix(group, ".countersign.dev")
}

// knownKinds are the words an unknown kind may have meant. Gateway API and traffic kinds
// are left out: a Deployment is not to be taken for one of them.
var knownKinds = sync.OnceValue(func() []string {
	var out []string
	for _, k := range built() {
		out = append(out, k.Name)
	}
	return out
})

// metadataShape is metadata as istio-semantics.md 2.1 has it. What a Kubernetes server adds
// is taken and dropped, so that the output of kubectl get -o yaml can be applied.
var metadataShape = sync.OnceValue(func() *shape {
	s := &shape{
		form: record,
		fields: map[string]*shape{
			"name":        {form: str, check: checkName},
			"namespace":   {form: str, check: checkNamespace},
			"labels":      {form: mapping, empty: true, key: checkLabelKey, elem: &shape{form: str, check: checkLabelValue}},
			"annotations": {form: mapping, empty: true, key: checkLabelKey, elem: &shape{form: str, check: anyText, long: true}},
		},
		order: []string{"name", "namespace", "labels", "annotations"},
	}
	for _, name := range serverSide {
		s.fields[name] = &shape{form: anything}
	}
	return s
})

var serverSide = []string{
	"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"managedFields", "ownerReferences", "finalizers", "selfLink", "generateName",
}

var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelName    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	notLabel     = regexp.MustCompile(`[^a-z0-9]+`)
)

func checkName(s string) *complaint {
	if len(s) > 253 || !dnsSubdomain.MatchString(s) {
		return complain("E103", quote(s)+" is not a name", suggestLabel("a-z, 0-9, - and ., at most 253 characters", s))
	}
	return nil
}

func checkNamespace(s string) *complaint {
	if !dnsLabel.MatchString(s) {
		return complain("E103", quote(s)+" is not a namespace", suggestLabel("a-z, 0-9 and -, at most 63 characters", s))
	}
	return nil
}

// suggestLabel ends a hint with the nearest name that is allowed.
func suggestLabel(rule, s string) string {
	near := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if len(near) > 63 || !dnsLabel.MatchString(near) {
		return rule
	}
	return rule + ": " + near
}

// checkLabelKey is the key of a label or annotation, as Kubernetes has it.
func checkLabelKey(s string) *complaint {
	name := s
	if prefix, rest, ok := strings.Cut(s, "/"); ok {
		name = rest
		if len(prefix) > 253 || !dnsSubdomain.MatchString(prefix) {
			return complain("E103", quote(s)+" is not a label key", "before the / stands a DNS name: example.com/"+clip(rest))
		}
	}
	if len(name) > 63 || !labelName.MatchString(name) {
		return complain("E103", quote(s)+" is not a label key", "letters, digits, -, _ and ., at most 63 characters")
	}
	return nil
}

func checkLabelValue(s string) *complaint {
	if len(s) > 63 {
		return complain("E102", fmt.Sprintf("a label value of %d characters, at most 63 are taken", len(s)), "")
	}
	if s != "" && !labelName.MatchString(s) {
		return complain("E103", quote(s)+" is not a label value", "letters, digits, -, _ and .")
	}
	return nil
}
