package node

import (
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/route"
)

// callers is how a port of a Gateway asks for SVIDs (gateway.md 12.3); nil: it does not.
func (g *gateways) callers(name route.Name, port uint16) *proxy.Callers {
	for _, gw := range g.n.snap.Load().Edge.Ours() {
		if gw.Name != name {
			continue
		}
		if v := gw.Validation(port); v != nil {
			return &proxy.Callers{Optional: v.Insecure, TrustDomains: v.TrustDomains()}
		}
		return nil
	}
	return &proxy.Callers{} // it is gone, and takes nobody any more
}

// knows reports whether there is a bundle of a trust domain.
func (h *held) knows(trustDomain string) bool { return len(h.Bundles[trustDomain]) > 0 }
