package route

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// CertificateDir is where certificate files of Gateways lie unless the
// configuration of the process says otherwise.
const CertificateDir = "/etc/countersign/certs"

// Files are the paths of a chain and its key.
type Files struct{ Chain, Key string }

// usable: a listener can show the certificate, or the one before it.
func (c Certificate) usable() bool { return c.Fault == "" || c.Kept }

// CertificatePlace splits the path of a certificate file, in its shortest form:
// it lies below a namespace's directory in one of dirs (gateway.md 12.1).
func CertificatePlace(dirs []string, file string) (dir, below string, ok bool) {
	for _, dir := range dirs {
		below, in := strings.CutPrefix(file, strings.TrimSuffix(dir, "/")+"/")
		if namespace, name, deeper := strings.Cut(below, "/"); in && deeper && namespace != "" && name != "" {
			return dir, below, true
		}
	}
	return "", "", false
}

// SecretsOf are the Secrets that the HTTPS listeners of a Gateway refer to and
// that may be shown to it, each once.
func (o *Objects) SecretsOf(g *Gateway) []Name {
	out := map[Name]bool{}
	for i := range g.Listeners {
		if g.Listeners[i].Protocol != HTTPS {
			continue
		}
		for _, ref := range g.Listeners[i].Certificates {
			if ref.Kind == secretKind && permitted(o.Grants, gatewayKind, g.Namespace, ref) {
				out[ref.Name] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(out), compareNames)
}

// Fit says how exactly a certificate with these names is that of a server name:
// 2 by name, 1 by a wildcard, 0 not at all.
func Fit(names []string, server string) int {
	fit := 0
	for _, name := range names {
		switch {
		case name == server && server != "":
			return 2
		case certifies(name, server):
			fit = 1
		}
	}
	return fit
}

// ByFit orders certificates, given by their names, for a server name: the one
// that fits most exactly, then the first (gateway.md 12.1).
func ByFit(names [][]string, server string) []int {
	out := make([]int, len(names))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(Fit(names[b], server), Fit(names[a], server)) })
	return out
}
