package resource

import "slices"

// servedKind reports whether a kind of the gateway can be applied; the others wait for their wiring, and are refused
// with E302 or as unknown.
func servedKind(name string) bool {
	return slices.Contains([]string{"GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant", "Namespace", "Service", "EndpointSlice", "ConfigMap", "Secret"}, name)
}
