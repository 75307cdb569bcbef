package resource

import (
	"fmt"
	"strconv"
	"sync"

	security "istio.io/api/security/v1beta1"

	"countersign.dev/internal/policy"
)

var peerAuthenticationShape = sync.OnceValue(func() *shape {
	s := fromMessage((&security.PeerAuthentication{}).ProtoReflect().Descriptor())
	selectorShape(s)
	modes := []string{"STRICT", "PERMISSIVE", "DISABLE", "UNSET"}
	s.at("mtls.mode").values = modes
	s.at("portLevelMtls[].mode").values = modes
	s.at("portLevelMtls").key = func(key string) *complaint {
		n, err := strconv.ParseUint(key, 10, 32)
		switch {
		case err != nil || strconv.FormatUint(n, 10) != key:
			return complain("E109", quote(key)+" is not a port number", "the workload's port, such as 8080")
		case n == 0 || n > 65535:
			return complain("E216", "port "+key+" is out of range", "1 to 65535")
		}
		return nil
	}
	return s
})

// checkPeerAuthentication holds what no single field can tell: istio-semantics.md 5 and 11.
func checkPeerAuthentication(o *object) {
	at := root.field("spec")
	spec := fieldsOf(o.value["spec"])
	o.checkSelector(spec, at)
	selects := len(fieldsOf(fieldsOf(spec["selector"])["matchLabels"])) > 0
	if selects && o.out.Namespace == o.batch.options.RootNamespace {
		o.fault("E217", at.field("selector"), atKey, "a selector in the root namespace", "Istio ignores such an object: write it in the workload's namespace, or leave the selector out for the mesh")
	}
	if ports, ok := spec["portLevelMtls"].(map[string]any); ok {
		switch {
		case len(ports) == 0:
			o.fault("E216", at.field("portLevelMtls"), atKey, "empty", "name a port, or leave it out")
		case !selects:
			o.fault("E216", at.field("portLevelMtls"), atKey, "without a selector", "add selector: {matchLabels: {app: NAME}}; ports are those of a workload")
		}
	}
	mode := textOf(fieldsOf(spec["mtls"])["mode"])
	if !selects && (mode == "PERMISSIVE" || mode == "DISABLE") {
		scope := "namespace " + clip(o.out.Namespace)
		if o.out.Namespace == o.batch.options.RootNamespace {
			scope = "the mesh"
		}
		o.warn("L41", at.field("mtls").field("mode"), atValue, mode+" for all of "+scope+": callers need not prove who they are", "give the exception a selector")
	}
}

// PeerAuthentication is that of an accepted object; created is its first-applied order.
func PeerAuthentication(o Object, created int64) (policy.PeerAuthentication, error) {
	if o.Kind != "PeerAuthentication" {
		return policy.PeerAuthentication{}, fmt.Errorf("%s is no PeerAuthentication", o.ID())
	}
	var m security.PeerAuthentication
	if err := decodeSpec(o, &m); err != nil {
		return policy.PeerAuthentication{}, err
	}
	out := policy.PeerAuthentication{
		Namespace: o.Namespace, Name: o.Name,
		Selector: m.GetSelector().GetMatchLabels(),
		Created:  created, Pos: o.Places.Object(),
	}
	var err error
	if out.Mode, err = modeOf(m.GetMtls().GetMode()); err != nil {
		return policy.PeerAuthentication{}, fmt.Errorf("%s: %w", o.ID(), err)
	}
	for port, mtls := range m.GetPortLevelMtls() {
		if port == 0 || port > 65535 {
			return policy.PeerAuthentication{}, fmt.Errorf("%s: port %d is out of range", o.ID(), port)
		}
		if out.Ports == nil {
			out.Ports = make(map[uint16]policy.Mode)
		}
		if out.Ports[uint16(port)], err = modeOf(mtls.GetMode()); err != nil {
			return policy.PeerAuthentication{}, fmt.Errorf("%s: port %d: %w", o.ID(), port, err)
		}
	}
	return out, nil
}

func modeOf(m security.PeerAuthentication_MutualTLS_Mode) (policy.Mode, error) {
	switch m {
	case security.PeerAuthentication_MutualTLS_UNSET:
		return policy.Unset, nil
	case security.PeerAuthentication_MutualTLS_STRICT:
		return policy.Strict, nil
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return policy.Permissive, nil
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return policy.Disable, nil
	}
	return policy.Unset, fmt.Errorf("mode %s is not known", m)
}
