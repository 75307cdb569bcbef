package server

import (
	"bytes"
	"cmp"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/control"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// certificate is a Secret as it was parsed, once for each revision of it.
type certificate struct {
	revision int64
	snapshot.Certificate
	notAfter time.Time
}

// certificates finds what the listeners of our Gateways may show. Only the goroutine that follows the store calls it.
func (s *Server) certificates(v *view) {
	now := map[route.Name]certificate{}
	for _, g := range v.Edge.Ours() {
		for _, name := range v.Edge.SecretsOf(g) {
			r, ok := v.records[catalog.Key("Secret", name.Namespace, name.Name)]
			if !ok {
				continue
			}
			c, parsed := s.world.parsed[name]
			if !parsed || c.revision != r.Last {
				c = parseCertificate(r)
			}
			now[name] = c
		}
	}
	s.world.parsed, v.certificates = now, now
	for _, name := range slices.SortedFunc(maps.Keys(now), route.Name.Compare) {
		v.Certificates = append(v.Certificates, now[name].Certificate)
	}
}

// parseCertificate takes the pair of a Secret; where that cannot be used the one of before goes on being shown
// (gateway.md 12.1).
func parseCertificate(r catalog.Record) certificate {
	c := certificate{revision: r.Last, Certificate: snapshot.Certificate{Name: route.Name{Namespace: r.Namespace, Name: r.Name}}}
	pair, err := resource.Pair(r.Object)
	if err != nil {
		c.Fault = fmt.Sprintf("holds no pair that can be shown: %v; apply it anew", err)
		if r.Before == nil {
			return c
		}
		if pair, err = resource.Pair(*r.Before); err != nil {
			return c
		}
		c.Fault += ", the pair of before is shown till then"
		c.Kept = true
	}
	var chain bytes.Buffer
	for _, cert := range pair.Chain {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}) // no comments of the file, which nobody needs
	}
	c.Names, c.notAfter = pair.Names(), pair.Chain[0].NotAfter
	c.Pair = snapshot.KeyPair{Chain: chain.Bytes(), Key: pair.Private.PEM()}
	return c
}

// secret is what is known of a Secret that a listener refers to.
func (v *view) secret(name route.Name) route.Certificate {
	if c, ok := v.certificates[name]; ok {
		return c.Certificate.Certificate
	}
	return noSecret()
}

func noSecret() route.Certificate {
	return route.Certificate{Fault: "does not exist; apply it or correct the name"}
}

// secretOf is secret for objects that are not in force yet.
func secretOf(objects map[string]catalog.Record) func(route.Name) route.Certificate {
	return func(name route.Name) route.Certificate {
		r, ok := objects[catalog.Key("Secret", name.Namespace, name.Name)]
		if !ok {
			return noSecret()
		}
		return parseCertificate(r).Certificate.Certificate
	}
}

// Bounds of what a node says of certificate files.
const (
	maxCertificateNames = 256
	maxNameBytes        = 253
)

func checkFiles(files []*control.GatewayFiles) error {
	if len(files) > maxGatewayPorts {
		return &control.Refused{Code: "bad_report", Text: fmt.Sprintf("certificate files of %d listeners, at most %d", len(files), maxGatewayPorts)}
	}
	for _, f := range files {
		if len(f.Fault) > maxPortText || len(f.Names) > maxCertificateNames || slices.ContainsFunc(f.Names, func(name string) bool { return len(name) > maxNameBytes }) {
			return &control.Refused{Code: "bad_report", Text: fmt.Sprintf("too much about the certificate files of a listener: at most %d bytes of fault, %d names", maxPortText, maxCertificateNames)}
		}
	}
	return nil
}

// takeFiles adds what one node read for the listeners of a Gateway. Of several nodes one with a good pair counts.
// Before the Gateway has its Workload, which it gets with its first port, any node says what is wrong, and no more.
func takeFiles(f *route.GatewayFacts, g *route.Gateway, files []*control.GatewayFiles, admitted, known bool) {
	for _, p := range files {
		if p.Namespace != g.Namespace || p.Name != g.Name.Name || !admitted && (known || p.Fault == "") {
			continue
		}
		if was, told := f.Files[p.Listener]; told && was.Fault == "" {
			continue
		}
		if f.Files == nil {
			f.Files = map[string]route.Certificate{}
		}
		f.Files[p.Listener] = route.Certificate{Fault: p.Fault, Kept: p.Kept, Names: p.Names}
	}
}

// gatewayStates are the Gateways as status tells them; when what they show ends their nodes know.
func (s *Server) gatewayStates() (out []admin.GatewayStatus) {
	e := s.edge()
	for _, g := range e.Edge.Ours() {
		status := e.Gateways[g.Name]
		row := admin.GatewayStatus{Namespace: g.Namespace, Name: g.Name.Name, Addresses: []string{}, Listeners: []admin.ListenerStatus{}}
		for _, a := range status.Addresses {
			row.Addresses = append(row.Addresses, a.Value)
		}
		if g.BelievesAnybody() {
			row.Warnings = append(row.Warnings, "trusted-proxies is set without trusted-proxy-addresses: whoever reaches its ports names his address himself")
		}
		for i, l := range status.Listeners {
			at := admin.ListenerStatus{Name: l.Name, Port: g.Listeners[i].Port, Protocol: string(g.Listeners[i].Protocol)}
			for _, c := range l.Conditions {
				switch {
				case c.Type == "Programmed":
					at.Programmed = c.Status == "True"
				case c.Status == "False" && (c.Type == "ResolvedRefs" || c.Type == "Accepted"):
					at.Fault = cmp.Or(at.Fault, c.Reason)
				}
			}
			row.Listeners = append(row.Listeners, at)
		}
		out = append(out, row)
	}
	return out
}
