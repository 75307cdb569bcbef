package resource

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
)

// Limits of Kubernetes for an EndpointSlice.
const (
	maxEndpoints = 1000
	maxPerPoint  = 100 // addresses of an endpoint, and ports of a slice
)

// ForeignService is a service whose endpoints have no identity of the mesh.
type ForeignService struct {
	Namespace, Name string
	Ports           []ForeignPort
	Plaintext       bool // annotation plaintext: allow
}

// ForeignPort is one TCP port. Target is what it leads to, or TargetName is its name there.
type ForeignPort struct {
	Name         string
	Port, Target uint16
	TargetName   string
	AppProtocol  string
}

// ForeignEndpoints are the ready addresses of one EndpointSlice.
type ForeignEndpoints struct {
	Namespace, Name string
	Service         string // empty: of no service
	Addresses       []netip.Addr
	Ports           []EndpointPort
}

// EndpointPort is one TCP port of all addresses; its name is that of the service's port.
type EndpointPort struct {
	Name        string
	Port        uint16
	AppProtocol string
}

func portShape() *shape {
	return &shape{form: integer, check: func(s string) *complaint {
		if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
			return complain("E109", clip(s)+" is not a port", "a number from 1 to 65535")
		}
		return nil
	}}
}

func freeText() *shape { return textWith(anyText) }

var serviceShape = sync.OnceValue(func() *shape {
	port := withFree(fieldsIn(named{"appProtocol", freeText()}, named{"name", freeText()}, named{"port", portShape()},
		named{"protocol", oneOf("protocol", "TCP", "UDP", "SCTP")}), "nodePort", "targetPort")
	ports := listOf(maxPerPoint, port)
	ports.empty = true
	spec := withFree(fieldsIn(named{"ports", ports}), "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs",
		"externalName", "externalTrafficPolicy", "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy",
		"loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges", "publishNotReadyAddresses", "selector",
		"sessionAffinity", "sessionAffinityConfig", "trafficDistribution", "type")
	return fieldsIn(named{"spec", spec})
})

// settleService holds what no single field of a Service can tell.
func settleService(o *object) {
	o.edgeOptions()
	o.checkLabelName()
	p := root.field("spec").field("ports")
	ports := itemsOf(at(o.value["spec"], "ports"))
	for i, v := range ports {
		if !has(v, "port") {
			o.fault("E103", p.item(i), atValue, "port is missing", "")
		}
		if has(v, "targetPort") {
			if _, _, ok := targetOf(at(v, "targetPort")); !ok {
				o.fault("E109", p.item(i).field("targetPort"), atKey, "neither a port nor the name of one", "a number from 1 to 65535, or a name in quotes")
			}
		}
		if len(ports) > 1 && word(v, "name") == "" {
			o.fault("E103", p.item(i), atValue, "name is missing", "each of several ports has one")
		}
	}
	o.checkNamedOnce(ports, p)
}

func (o *object) checkNamedOnce(ports []any, p *path) {
	seen := make(map[string]bool)
	for i, v := range ports {
		name := word(v, "name")
		if name != "" && seen[name] {
			o.fault("E109", p.item(i).field("name"), atValue, quote(name)+" stands twice", "")
		}
		seen[name] = true
	}
}

// targetOf reads what Kubernetes calls IntOrString.
func targetOf(v any) (port uint16, name string, ok bool) {
	switch v := v.(type) {
	case json.Number:
		n, err := strconv.ParseUint(v.String(), 10, 16)
		return uint16(n), "", err == nil && n > 0
	case string:
		return 0, v, len(v) <= 63 && dnsLabel.MatchString(v)
	}
	return 0, "", false
}

// Service is the value of an accepted Service.
func Service(o Object) (ForeignService, error) {
	top, err := bareOf[struct {
		Spec struct {
			Ports []struct {
				Name, Protocol, AppProtocol string
				Port                        uint16
				TargetPort                  json.RawMessage
			}
		}
	}](o, "Service")
	if err != nil {
		return ForeignService{}, err
	}
	out := ForeignService{Namespace: o.Namespace, Name: o.Name, Plaintext: o.Annotations[optionPrefix+"plaintext"] == "allow"}
	for _, p := range top.Spec.Ports {
		if cmp.Or(p.Protocol, "TCP") != "TCP" {
			continue
		}
		port := ForeignPort{Name: p.Name, Port: p.Port, Target: p.Port, AppProtocol: p.AppProtocol}
		if p.TargetPort != nil {
			v, err := parseOrdered(p.TargetPort)
			if err != nil {
				return ForeignService{}, fmt.Errorf("decoding %s: targetPort: %w", o.ID(), err)
			}
			var ok bool
			if port.Target, port.TargetName, ok = targetOf(v); !ok {
				return ForeignService{}, fmt.Errorf("decoding %s: targetPort is no port", o.ID())
			}
		}
		out.Ports = append(out.Ports, port)
	}
	return out, nil
}

var sliceShape = sync.OnceValue(func() *shape {
	flag := func() *shape { return &shape{form: boolean} }
	addresses := listOf(maxPerPoint, freeText())
	addresses.empty = true
	endpoint := withFree(fieldsIn(named{"addresses", addresses},
		named{"conditions", fieldsIn(named{"ready", flag()}, named{"serving", flag()}, named{"terminating", flag()})}),
		"deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone")
	endpoints := listOf(maxEndpoints, endpoint)
	ports := listOf(maxPerPoint, fieldsIn(named{"appProtocol", freeText()}, named{"name", freeText()}, named{"port", portShape()},
		named{"protocol", oneOf("protocol", "TCP", "UDP", "SCTP")}))
	endpoints.empty, ports.empty = true, true
	return fieldsIn(named{"addressType", oneOf("address type", "IPv4", "IPv6").orLater("FQDN")}, named{"endpoints", endpoints}, named{"ports", ports})
})

// settleSlice holds what no single field of an EndpointSlice can tell.
func settleSlice(o *object) {
	o.edgeOptions()
	family := textOf(o.value["addressType"])
	if family == "" {
		o.fault("E103", root, atKey, "addressType is missing", "IPv4 or IPv6")
	}
	if !has(o.value, "endpoints") {
		o.fault("E103", root, atKey, "endpoints is missing", "write endpoints: [] for none")
	}
	for i, v := range itemsOf(o.value["endpoints"]) {
		p := root.field("endpoints").item(i)
		if len(itemsOf(at(v, "addresses"))) == 0 {
			o.fault("E103", p, atValue, "addresses are missing", "")
		}
		for j, a := range itemsOf(at(v, "addresses")) {
			if c := checkEndpoint(family, textOf(a)); c != nil {
				o.fault(c.code, p.field("addresses").item(j), atValue, c.text, c.hint)
			} else if ip, _ := netip.ParseAddr(textOf(a)); ip.IsLoopback() {
				o.warn("W-loopback", p.field("addresses").item(j), atValue, "each gateway takes this for itself", "a cluster refuses it; name an address that is the same everywhere")
			}
		}
	}
	for i, v := range itemsOf(o.value["ports"]) {
		if !has(v, "port") {
			o.fault("E103", root.field("ports").item(i), atValue, "port is missing", "")
		}
	}
	o.checkNamedOnce(itemsOf(o.value["ports"]), root.field("ports"))
}

// checkEndpoint judges an address as Kubernetes does: none that means something else on each
// machine, such as the one at which clouds hand out credentials.
func checkEndpoint(family, s string) *complaint {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6() || a.Is4() != (family == "IPv4"):
		return complain("E208", quote(s)+" is not an address of "+family, "such as 192.0.2.1, or 2001:db8::1 under addressType: IPv6")
	case a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return complain("E208", s+" is not the address of an endpoint", "neither unspecified, link-local nor multicast")
	}
	return nil
}

// EndpointSlice is the value of an accepted EndpointSlice.
func EndpointSlice(o Object) (ForeignEndpoints, error) {
	top, err := bareOf[struct {
		Endpoints []struct {
			Addresses  []netip.Addr
			Conditions struct{ Ready *bool }
		}
		Ports []struct {
			Name, Protocol, AppProtocol string
			Port                        uint16
		}
	}](o, "EndpointSlice")
	if err != nil {
		return ForeignEndpoints{}, err
	}
	out := ForeignEndpoints{Namespace: o.Namespace, Name: o.Name, Service: o.Labels["kubernetes.io/service-name"]}
	for _, e := range top.Endpoints {
		if e.Conditions.Ready == nil || *e.Conditions.Ready { // unknown counts as ready, as in Kubernetes
			out.Addresses = append(out.Addresses, e.Addresses...)
		}
	}
	for _, p := range top.Ports {
		if cmp.Or(p.Protocol, "TCP") == "TCP" {
			out.Ports = append(out.Ports, EndpointPort{Name: p.Name, Port: p.Port, AppProtocol: p.AppProtocol})
		}
	}
	return out, nil
}
