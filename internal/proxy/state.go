package proxy

import (
	"strconv"
	"strings"
	"sync/atomic"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/telemetry"
)

// State is what the data plane knows of the mesh at one revision. It never changes after
// Update was given it.
type State struct {
	Revision       int64
	PolicyRevision [32]byte
	Compiled       *policy.Compiled // nil: nothing is allowed yet
	Trust          *identity.Trust
	Services       map[ServiceKey]*Service
	Namespaces     map[string]bool // those that exist: `a.b` of one of them is a mesh name
	AllowAny       bool            // hosts outside the mesh may be called (outboundTrafficPolicy ALLOW_ANY)
	TrustDomain    string
	Node           string
	Tokens         *bearer.Book         // nil: tokens mean nothing here
	Attach         map[AttachKey]Attach // tokens that calls carry
	Routes         *route.Table         // nil: no Gateway is served here
	Limits         *Limits              // of Routes; nil: none
	Keys           Keys
	// Refused are the backends that get 500, and why; any other that is no place here gets it too.
	Refused map[*route.Backend]route.Refusal
	// Foreign are the Services whose endpoints have no identity of the mesh.
	Foreign map[route.Name]*route.Foreign
	// Resolve is whether a route may lead to a backend at this revision. nil: no Gateway is served here.
	Resolve func(*route.HTTPRoute, *route.Backend) route.Refusal
}

// AttachKey is a call of one workload to one service.
type AttachKey struct {
	ID      string // SPIFFE ID of the caller
	Service ServiceKey
}

// ServiceKey names a service.
type ServiceKey struct{ Namespace, Name string }

func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// Service is a name others call, with the instances that may answer for it.
type Service struct {
	Namespace, Name string
	Ports           []ServicePort // the first is the one that needs no port in a server name
	Owners          []string      // SPIFFE IDs
	Audience        string        // of tokens for it
	Instances       []Instance
}

// ServicePort maps a port of the service to one of its workloads.
type ServicePort struct {
	Number, Target uint16
	Protocol       string // http, http2, grpc
}

// Instance is one running copy of a workload.
type Instance struct {
	ID    string
	Owner string            // SPIFFE ID: who has to answer
	Addr  string            // host:port of its node's inbound listener
	State string            // starting, ready, unready, draining
	Ports map[uint16]uint16 // service port → its own, where that differs from the service's target
}

const instanceReady = "ready"

// target is one instance behind one port of a service: what a call is sent to.
type target struct {
	service    string // "ns/name"
	name       string // of the service, as people say it
	instance   string
	owner      string
	addr       string
	serverName string // dataplane.md 9.1
	port       uint16 // the workload's own
	protocol   string
	foreign    bool // addr is an endpoint outside the mesh, in clear text
}

// place is one port of a service with the instances that may be called now.
type place struct {
	key   ServiceKey
	text  string // the same as "ns/name"
	port  ServicePort
	ready []*target
	next  atomic.Uint32 // round robin
	state string        // why none is ready, for people

	foreign bool // its endpoints have no identity of the mesh
}

// view is a State with what the request path needs of it worked out.
type view struct {
	*State
	suffix string          // ".svc.<trust domain>"
	owners map[string]bool // SPIFFE IDs that run somewhere
	places map[ServiceKey][]*place

	foreign       map[ServiceKey][]*place // for Gateways alone
	limitCounters []*telemetry.LimitCounter
}

func newView(s *State) *view {
	v := &view{State: s, suffix: ".svc." + s.TrustDomain, places: make(map[ServiceKey][]*place, len(s.Services)), owners: map[string]bool{}}
	for key, svc := range s.Services {
		for i := range svc.Instances {
			v.owners[svc.Instances[i].Owner] = true
		}
		text := key.String()
		full := svc.Name + "." + svc.Namespace + v.suffix
		for i, port := range svc.Ports {
			p := &place{key: key, text: text, port: port}
			for _, inst := range svc.Instances {
				if inst.State != instanceReady {
					continue
				}
				t := &target{
					service: text, name: svc.Name, instance: inst.ID, owner: inst.Owner, addr: inst.Addr,
					serverName: inst.ID + "." + full, port: inst.portOf(port), protocol: port.Protocol,
				}
				if i > 0 {
					t.serverName = "_" + strconv.Itoa(int(port.Number)) + "." + t.serverName
				}
				p.ready = append(p.ready, t)
			}
			if len(p.ready) == 0 {
				p.state = countStates(svc.Instances)
			}
			v.places[key] = append(v.places[key], p)
		}
	}
	return v
}

func (i *Instance) portOf(p ServicePort) uint16 {
	if own, ok := i.Ports[p.Number]; ok {
		return own
	}
	return p.Target
}

// countStates says what the instances are if not ready: "1 starting, 2 draining".
func countStates(list []Instance) string {
	if len(list) == 0 {
		return "no instance"
	}
	var b strings.Builder
	for _, state := range []string{"starting", "unready", "draining", "stale"} {
		n := 0
		for _, i := range list {
			if i.State == state {
				n++
			}
		}
		if n == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(n) + " " + state)
	}
	return b.String()
}

// reach says what kind of name a host is.
type reach uint8

const (
	outside reach = iota // no name of the mesh
	unknown              // of the mesh's own forms, but no service has it
	inside
)

// find is the name table (dataplane.md 3.3, 25.3): what host means to a caller of
// namespace ns. host is in lookup form: lower case, no port, no final dot.
func (v *view) find(host, ns string) (ServiceKey, reach) {
	if full, ok := strings.CutSuffix(host, v.suffix); ok {
		return v.byFullName(full)
	}
	if full, ok := strings.CutSuffix(host, ".svc"); ok {
		return v.byFullName(full)
	}
	name, rest, dotted := strings.Cut(host, ".")
	key := ServiceKey{ns, name}
	switch {
	case name == "" || identity.CheckLabel(name) != nil:
		return ServiceKey{}, outside
	case !dotted:
	case v.Namespaces[rest]:
		key.Namespace = rest
	default:
		return ServiceKey{}, outside
	}
	if v.Services[key] == nil {
		return key, unknown
	}
	return key, inside
}

// byFullName takes <svc>.<ns>, and the name of one instance under it: that is its service's.
func (v *view) byFullName(full string) (ServiceKey, reach) {
	labels := strings.Split(full, ".")
	if len(labels) < 2 || len(labels) > 3 {
		return ServiceKey{}, unknown
	}
	key := ServiceKey{labels[len(labels)-1], labels[len(labels)-2]}
	if svc := v.Services[key]; svc != nil && (len(labels) == 2 || svc.instance(labels[0]) != nil) {
		return key, inside
	}
	return key, unknown
}

func (s *Service) instance(id string) *Instance {
	for i := range s.Instances {
		if s.Instances[i].ID == id {
			return &s.Instances[i]
		}
	}
	return nil
}

// place is the port of a service that an authority names; without one it is 80.
func (v *view) place(key ServiceKey, number uint16) *place {
	for _, p := range v.places[key] {
		if p.port.Number == number {
			return p
		}
	}
	return nil
}

// meaning is a server name of section 9.1 taken apart.
type meaning struct {
	key      ServiceKey
	instance string // "": any that is here
	port     uint16 // service port; 0: the first
}

// parseServerName reads [_<port>.][<instance>.]<svc>.<ns>.svc.<td>.
func (v *view) parseServerName(name string) (m meaning, ok bool) {
	full, ok := strings.CutSuffix(strings.ToLower(name), v.suffix)
	if !ok {
		return m, false
	}
	if rest, isPort := strings.CutPrefix(full, "_"); isPort {
		number, rest, _ := strings.Cut(rest, ".")
		if m.port, ok = parsePort(number); !ok {
			return m, false
		}
		full = rest
	}
	labels := strings.Split(full, ".")
	if len(labels) < 2 || len(labels) > 3 {
		return m, false
	}
	if len(labels) == 3 {
		m.instance = labels[0]
	}
	m.key = ServiceKey{labels[len(labels)-1], labels[len(labels)-2]}
	return m, true
}

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// splitAuthority gives host and port of an authority in lookup form.
func splitAuthority(authority string, fallback uint16) (host string, port uint16, ok bool) {
	host, digits := h1.LookupHost(authority)
	if digits == "" {
		return host, fallback, host != ""
	}
	port, ok = parsePort(digits)
	return host, port, ok && host != ""
}
