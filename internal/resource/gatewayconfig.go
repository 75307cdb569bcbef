package resource

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Limits of what Gateways are given.
const (
	maxBind  = 16
	maxPool  = 1024 // addresses, those of networks counted one by one
	maxCerts = 16
)

// items reads a list of words.
func (r *configReader) items(name, example string, most int, v *yaml.Node, each func(at *yaml.Node, text string)) {
	switch {
	case v.Kind != yaml.SequenceNode || v.Anchor != "":
		r.fault(v.Line, v.Column, "E109", name+" is no list", "write "+example)
		return
	case len(v.Content) > most:
		r.fault(v.Line, v.Column, "E102", fmt.Sprintf("%s has %d items, at most %d are taken", name, len(v.Content), most), "")
		return
	}
	for i, item := range v.Content {
		if text, ok := r.scalar(fmt.Sprintf("%s[%d]", name, i), item); ok {
			each(item, text)
		}
	}
}

// bind reads the addresses of Gateways that name none.
func (r *configReader) bind(v *yaml.Node) {
	r.items("bind", `["0.0.0.0", "::"]`, maxBind, v, func(at *yaml.Node, text string) {
		ip, err := netip.ParseAddr(text)
		ip = ip.Unmap()
		switch {
		case err != nil || ip.Zone() != "":
			r.fault(at.Line, at.Column, "E109", fmt.Sprintf("bind: %s is no address", quote(text)), `an IP address without a port: 192.0.2.1, "::"`)
		case slices.Contains(r.c.Bind, ip):
			r.fault(at.Line, at.Column, "E109", fmt.Sprintf("bind: %s stands twice", quote(text)), "keep one of them")
		default:
			r.c.Bind = append(r.c.Bind, ip)
		}
	})
}

// pool reads addresses, and networks of them: every address of a network, the first and the last too.
func (r *configReader) pool(v *yaml.Node) {
	const hint = "an IP address, or a network: 10.244.8.0/27"
	r.items("addressPool", "[192.0.2.10, 192.0.2.11]", maxPool, v, func(at *yaml.Node, text string) {
		ip, err := netip.ParseAddr(text)
		network := netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
		if err != nil {
			network, err = netip.ParsePrefix(text)
		}
		if err != nil || ip.Zone() != "" || network.Masked() != network || network.Addr().IsUnspecified() || network.Addr().IsMulticast() {
			r.fault(at.Line, at.Column, "E109", fmt.Sprintf("addressPool: %s is no address that can be given", quote(text)), hint)
			return
		}
		for ip := network.Addr(); ip.IsValid() && network.Contains(ip); ip = ip.Next() {
			if len(r.c.AddressPool) == maxPool {
				r.fault(at.Line, at.Column, "E102", fmt.Sprintf("addressPool has more than %d addresses", maxPool), "")
				return
			}
			if !slices.Contains(r.c.AddressPool, ip) {
				r.c.AddressPool = append(r.c.AddressPool, ip)
			}
		}
	})
}

// certificateDirs reads where certificate files may lie.
func (r *configReader) certificateDirs(v *yaml.Node) {
	r.c.CertificateDirs = []string{} // none, where the list is empty
	r.items("certificateDirs", "[/etc/countersign/certs]", maxCerts, v, func(at *yaml.Node, text string) {
		if !filepath.IsAbs(text) || filepath.Clean(text) != text {
			r.fault(at.Line, at.Column, "E109", fmt.Sprintf("certificateDirs: %s is no whole path", quote(text)), "from the root, without dots: /etc/countersign/certs")
			return
		}
		r.c.CertificateDirs = append(r.c.CertificateDirs, text)
	})
}
