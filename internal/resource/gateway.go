package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/route"
)

const gatewayGroup = "gateway.networking.k8s.io"

// gatewayKind is a kind of the gateway: the Gateway API and its companions.
type gatewayKind struct {
	kind
	bare   bool          // its fields stand at the top of the document, without a spec
	settle func(*object) // what comes after the shape: gateway.md 3.2, steps 3 to 6
}

// gatewayKinds lists them; those that are not served wait for Options.Gateway.
func gatewayKinds() []gatewayKind {
	api := func(name, plural, short string, spec func() *shape, settle func(*object), read func(Object) error) gatewayKind {
		return gatewayKind{
			kind: kind{Kind{name, plural, strings.ToLower(name), short, gatewayGroup + "/v1"},
				gatewayGroup, []string{"v1", "v1beta1"}, spec, nothing, read},
			settle: settle,
		}
	}
	core := func(name, plural, short, group, version string, shape func() *shape, settle func(*object), read func(Object) error) gatewayKind {
		apiVersion := strings.TrimPrefix(group+"/"+version, "/")
		return gatewayKind{
			kind: kind{Kind{name, plural, strings.ToLower(name), short, apiVersion}, group, []string{version}, shape, nothing, read},
			bare: true, settle: settle,
		}
	}
	class := api("GatewayClass", "gatewayclasses", "gc", classShape, settleCRD(nil),
		reads(func(o Object) (route.Class, error) { return GatewayClass(o, time.Time{}, 0) }))
	namespace := core("Namespace", "namespaces", "ns", "", "v1", namespaceShape, settleNamespace, reads(NamespaceLabels))
	secret := core("Secret", "secrets", "secret", "", "v1", secretShape, settleSecret, reads(secretChain))
	secret.check = checkSecret // before anything shows a value
	return []gatewayKind{
		class,
		api("Gateway", "gateways", "gtw", gatewayShape, settleCRD(checkGateway),
			reads(func(o Object) (route.Gateway, error) { return Gateway(o, time.Time{}, 0) })),
		api("HTTPRoute", "httproutes", "httproute", httpRouteShape, settleCRD(checkHTTPRoute),
			reads(func(o Object) (route.HTTPRoute, error) { return HTTPRoute(o, time.Time{}, 0) })),
		api("ReferenceGrant", "referencegrants", "refgrant", grantShape, settleCRD(nil),
			reads(func(o Object) (route.Grant, error) { return ReferenceGrant(o, time.Time{}, 0) })),
		namespace,
		secret,
		core("ConfigMap", "configmaps", "cm", "", "v1", configMapShape, settleConfigMap, reads(Anchors)),
		core("Service", "services", "svc", "", "v1", serviceShape, settleService, reads(Service)),
		core("EndpointSlice", "endpointslices", "endpointslice", "discovery.k8s.io", "v1", sliceShape, settleSlice, reads(EndpointSlice)),
	}
}

func nothing(*object) {}

// gatewayKindOf finds the kind of the gateway that decodes a document. Other groups have kinds
// of the same names.
func gatewayKindOf(group, name string) (gatewayKind, bool) {
	for _, k := range gatewayKinds() {
		if k.Name == name && k.group == group {
			return k, true
		}
	}
	return gatewayKind{}, false
}

// clusterKind reports whether objects of a kind have no namespace.
func clusterKind(name string) bool { return name == "GatewayClass" || name == "Namespace" }

var coreVersion = regexp.MustCompile(`^v[0-9][a-z0-9]*$`)

// groupOf splits an apiVersion; the core group of Kubernetes is written as a version alone.
func groupOf(apiVersion string) (group, version string) {
	if coreVersion.MatchString(apiVersion) {
		return "", apiVersion
	}
	group, version, _ = strings.Cut(apiVersion, "/")
	return group, version
}

func (o *object) bare() bool { return o.gateway != nil && o.gateway.bare }

// body is what the shape of a kind is about, and where it stands.
func (o *object) body() (any, *path) {
	if !o.bare() {
		return o.value["spec"], root.field("spec")
	}
	out := maps.Clone(o.value)
	for _, key := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(out, key)
	}
	return out, root
}

// asGateway makes the document one of a kind of the gateway.
func (o *object) asGateway(k gatewayKind) {
	o.gateway = &k
	if !clusterKind(k.Name) {
		return
	}
	if given, ok := fieldsOf(o.value["metadata"])["namespace"]; ok {
		o.fault("E103", root.field("metadata").field("namespace"), atKey, fmt.Sprintf("%s has no namespace, %s is given", k.Name, quote(fmt.Sprint(given))), "leave it out")
	}
	o.out.Namespace = ""
	if printable(o.out.Name) {
		o.resource = o.out.ID()
	}
}

// crdShape is the shape of a kind of the Gateway API, with what is not built marked.
func crdShape(kind string, mark func(*shape)) func() *shape {
	return sync.OnceValue(func() *shape {
		s := crds()[kind].shape("spec")
		mark(s)
		return s
	})
}

var classShape = crdShape("GatewayClass", func(*shape) {})

var gatewayShape = crdShape("Gateway", func(s *shape) {
	s.at("tls.backend").later = true // our own certificates towards backends
	s.at("defaultScope").notBuilt("All")
	s.at("allowedListeners.namespaces.from").notBuilt("All", "Selector", "Same")
	s.at("allowedListeners.namespaces.selector").later = true
	// The CRD leaves it open.
	*s.at("listeners[].allowedRoutes.namespaces.selector.matchExpressions[].operator") = *oneOf("operator", "In", "NotIn", "Exists", "DoesNotExist")
})

// notBuilt marks values of an enum.
func (s *shape) notBuilt(values ...string) {
	s.values = slices.DeleteFunc(s.values, func(v string) bool { return slices.Contains(values, v) })
	s.laterValues = values
}

// checkGateway is step 6 for a Gateway.
func checkGateway(o *object, spec map[string]any) {
	at := root.field("spec")
	for i, a := range itemsOf(spec["addresses"]) {
		if c := checkAddress(a); c != nil {
			o.fault(c.code, at.field("addresses").item(i), atValue, c.text, c.hint)
		}
	}
	o.checkFrontend(fieldsOf(fieldsOf(spec["tls"])["frontend"]), at.field("tls").field("frontend"))
	for i, l := range itemsOf(spec["listeners"]) {
		p := at.field("listeners").item(i)
		o.checkTerms(fieldsOf(fieldsOf(fieldsOf(l)["allowedRoutes"])["namespaces"])["selector"], p.field("allowedRoutes").field("namespaces").field("selector"))
		o.checkTLS(fieldsOf(fieldsOf(l)["tls"]), p.field("tls"))
	}
}

// checkTerms refuses the expressions that Kubernetes gives no meaning.
func (o *object) checkTerms(selector any, p *path) {
	for i, term := range itemsOf(fieldsOf(selector)["matchExpressions"]) {
		values := len(itemsOf(at(term, "values")))
		at := p.field("matchExpressions").item(i)
		switch op := word(term, "operator"); {
		case isOneOf(op, "In", "NotIn") && values == 0:
			o.fault("E109", at, atValue, op+" without values", "name the values")
		case isOneOf(op, "Exists", "DoesNotExist") && values > 0:
			o.fault("E109", at.field("values"), atKey, op+" with values", "leave them out, or write In or NotIn")
		}
	}
}

// meta is what the values of route have in common.
func meta(o Object, created time.Time, generation int64) route.Meta {
	return route.Meta{Name: route.Name{Namespace: o.Namespace, Name: o.Name}, Generation: generation, Created: created.Truncate(time.Second)}
}

// GatewayClass is the value of an accepted GatewayClass. Created and generation of this and the
// next functions are those of the store.
func GatewayClass(o Object, created time.Time, generation int64) (route.Class, error) {
	spec, err := specOf[struct {
		ControllerName, Description string
		ParametersRef               json.RawMessage
	}](o, "GatewayClass")
	if err != nil {
		return route.Class{}, err
	}
	return route.Class{Meta: meta(o, created, generation), Controller: spec.ControllerName, HasParametersRef: spec.ParametersRef != nil}, nil
}

// refSpec is a reference as stored; each kind of reference has some of the fields.
type refSpec struct {
	Group, Kind, Namespace, Name, SectionName string
	Port                                      uint16
}

// ref fills in the namespace of the object that refers.
func (r refSpec) ref(namespace string) route.Ref {
	if r.Namespace != "" {
		namespace = r.Namespace
	}
	return route.Ref{Kind: route.Kind{Group: r.Group, Kind: r.Kind}, Name: route.Name{Namespace: namespace, Name: r.Name}}
}

type listenerSpec struct {
	Name, Hostname, Protocol string
	Port                     uint16
	TLS                      struct {
		Mode            string
		CertificateRefs []refSpec
		Options         map[string]string
	}
	AllowedRoutes struct {
		Namespaces struct {
			From     string
			Selector *selectorSpec
		}
		Kinds []route.Kind
	}
}

type selectorSpec struct {
	MatchLabels      map[string]string
	MatchExpressions []route.Term
}

// Gateway is the value of an accepted Gateway.
func Gateway(o Object, created time.Time, generation int64) (route.Gateway, error) {
	spec, err := specOf[struct {
		GatewayClassName string
		Listeners        []listenerSpec
		Addresses        []route.Address
		Infrastructure   struct {
			Labels, Annotations map[string]string
			ParametersRef       json.RawMessage
		}
		DefaultScope     string
		AllowedListeners json.RawMessage
		TLS              struct {
			Backend  json.RawMessage
			Frontend frontendSpec
		}
	}](o, "Gateway")
	if err != nil {
		return route.Gateway{}, err
	}
	out := route.Gateway{
		Meta: meta(o, created, generation), Class: spec.GatewayClassName, Addresses: spec.Addresses,
		HasParametersRef: spec.Infrastructure.ParametersRef != nil,
		Options:          optionsOf(o), KeyHeaders: keyHeaders(o), Frontend: spec.TLS.Frontend.value(o.Namespace),
	}
	for _, l := range spec.Listeners {
		listener := route.Listener{
			Name: l.Name, Hostname: strings.ToLower(l.Hostname), Port: l.Port, Protocol: route.Protocol(l.Protocol),
			From: l.AllowedRoutes.Namespaces.From,
		}
		if len(l.AllowedRoutes.Kinds) > 0 { // an empty list is as if absent
			listener.Kinds = l.AllowedRoutes.Kinds
		}
		if s := l.AllowedRoutes.Namespaces.Selector; s != nil {
			listener.Selector = &route.Selector{Labels: s.MatchLabels, Terms: s.MatchExpressions}
		}
		for _, r := range l.TLS.CertificateRefs {
			listener.Certificates = append(listener.Certificates, r.ref(o.Namespace))
		}
		listenerTLS(&listener, l.TLS.Options)
		out.Listeners = append(out.Listeners, listener)
	}
	return out, nil
}

// WithoutTLS are the HTTPS listeners of a Gateway that say nothing of a certificate.
func WithoutTLS(o Object) []string {
	spec, err := specOf[struct {
		GatewayClassName          string
		Listeners                 []listenerSpec
		Addresses, Infrastructure json.RawMessage
		DefaultScope              string
		AllowedListeners, TLS     json.RawMessage
	}](o, "Gateway")
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range spec.Listeners {
		if l.Protocol == string(route.HTTPS) && len(l.TLS.CertificateRefs)+len(l.TLS.Options) == 0 {
			out = append(out, l.Name)
		}
	}
	return out
}
