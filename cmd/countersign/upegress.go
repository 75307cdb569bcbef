package main

import (
	"net"

	"countersign.dev/internal/proxy"
)

// egress is what the file lets Gateways call of what they otherwise never call.
func (h *house) egress() []proxy.Egress {
	var out []proxy.Egress
	for _, e := range h.config.Egress {
		out = append(out, proxy.Egress(e))
	}
	return out
}

// ownPorts are the ports that this process listens on by itself: no Gateway calls them for anybody.
func (h *house) ownPorts() []uint16 {
	var out []uint16
	for _, ln := range []net.Listener{h.local.Inbound, h.pages, h.tokens, h.tokensMTLS} {
		if at, ok := ln.Addr().(*net.TCPAddr); ok {
			out = append(out, at.AddrPort().Port())
		}
	}
	return out
}
