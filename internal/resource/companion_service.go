package resource

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"countersign.dev/internal/route"
)

// Limits of Kubernetes for an EndpointSlice.
const (
	maxEndpoints = 1000
	maxPerPoint  = 100 // addresses of an endpoint, and ports of a slice
)

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
	spec := withFree(fieldsIn(named{"ports", ports},
		named{"type", oneOf("type", "ClusterIP", "NodePort", "LoadBalancer").orLater("ExternalName")}), "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs",
		"externalName", "externalTrafficPolicy", "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy",
		"loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges", "publishNotReadyAddresses", "selector",
		"sessionAffinity", "sessionAffinityConfig", "trafficDistribution")
	return fieldsIn(named{"spec", spec})
})

// settleService holds what no single field of a Service can tell.
func settleService(o *object) {
	o.edgeOptions()
	o.checkLabelName()
	if p := root.field("metadata").field("annotations"); word(at(o.value["metadata"], "annotations"), optionPrefix+"plaintext") == "allow" {
		o.warn("W-plaintext", p.field(optionPrefix+"plaintext"), atKey, "Gateways call it in clear text, and nothing but their policy protects it", "run it in the mesh to give it an identity: countersign run "+o.out.Name)
	}
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
		if p := p.item(i).field("appProtocol"); !route.KnownAppProtocol(word(v, "appProtocol")) {
			o.warn("W-appProtocol", p, atValue, quote(word(v, "appProtocol"))+" says nothing here: HTTP/1.1 is spoken", "kubernetes.io/h2c for HTTP/2, kubernetes.io/ws for WebSocket")
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

// Service is the value of an accepted Service. Its targetPorts say nothing that its EndpointSlices do not.
func Service(o Object) (route.Service, error) {
	top, err := bareOf[struct {
		Spec struct {
			Ports []struct {
				Name, Protocol, AppProtocol string
				Port                        uint16
			}
		}
	}](o, "Service")
	if err != nil {
		return route.Service{}, err
	}
	out := route.Service{Name: route.Name{Namespace: o.Namespace, Name: o.Name}, Plaintext: o.Annotations[optionPrefix+"plaintext"] == "allow"}
	for _, p := range top.Spec.Ports {
		if cmp.Or(p.Protocol, "TCP") == "TCP" {
			out.Ports = append(out.Ports, route.ServicePort{Name: p.Name, Port: p.Port, AppProtocol: p.AppProtocol})
		}
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
	endpoints.null, ports.null = true, true // kubectl prints a list without items so
	return fieldsIn(named{"addressType", oneOf("address type", "IPv4", "IPv6").orLater("FQDN")}, named{"endpoints", endpoints}, named{"ports", ports})
})

// settleSlice holds what no single field of an EndpointSlice can tell.
func settleSlice(o *object) {
	o.edgeOptions()
	if o.out.Labels[serviceLabel] == "" {
		o.warn("W-service", root.field("metadata"), atKey, "it belongs to no Service: without effect", "labels: {"+serviceLabel+": NAME}")
	}
	family := textOf(o.value["addressType"])
	if family == "" {
		o.fault("E103", root, atKey, "addressType is missing", "IPv4 or IPv6")
	}
	port := uint16(80)
	if ports := itemsOf(o.value["ports"]); len(ports) > 0 {
		if n, _, ok := targetOf(at(ports[0], "port")); ok {
			port = n
		}
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
				o.warn("W-loopback", p.field("addresses").item(j), atValue, "every machine takes this for itself, and a Gateway calls it only if the file of --config says so", fmt.Sprintf("there: egress: {allow: [\"%s\"]}", netip.AddrPortFrom(ip, port)))
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
func EndpointSlice(o Object) (route.Endpoints, error) {
	top, err := bareOf[struct {
		Endpoints []struct {
			Addresses  []netip.Addr
			Conditions struct{ Ready, Serving, Terminating *bool }
		}
		Ports []struct {
			Name, Protocol string
			Port           uint16
		}
	}](o, "EndpointSlice")
	if err != nil {
		return route.Endpoints{}, err
	}
	out := route.Endpoints{Name: route.Name{Namespace: o.Namespace, Name: o.Name}, Service: o.Labels[serviceLabel]}
	for _, e := range top.Endpoints {
		c := e.Conditions
		ready := c.Ready == nil || *c.Ready // unknown counts as ready, as in Kubernetes
		switch {
		case ready:
			out.Addresses = append(out.Addresses, e.Addresses...)
		case c.Terminating != nil && *c.Terminating && c.Serving != nil && *c.Serving:
			out.Leaving = append(out.Leaving, e.Addresses...)
		}
	}
	for _, p := range top.Ports {
		if cmp.Or(p.Protocol, "TCP") == "TCP" {
			out.Ports = append(out.Ports, route.EndpointPort{Name: p.Name, Port: p.Port})
		}
	}
	return out, nil
}

// serviceLabel names the Service of an EndpointSlice.
const serviceLabel = "kubernetes.io/service-name"
