package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

// joinCertificates puts when certificates end, which only the node knows, into the server's answer.
func (e *env) joinCertificates(list []admin.GatewayStatus, shown []admin.ShownCertificate) []admin.GatewayStatus {
	ends := map[[3]string]time.Time{}
	for _, c := range shown {
		ends[[3]string{c.Namespace, c.Name, c.Listener}] = c.NotAfter
	}
	var out []admin.GatewayStatus
	for _, g := range list {
		if e.named && g.Namespace != e.namespace {
			continue
		}
		for i := range g.Listeners {
			g.Listeners[i].CertificateNotAfter = ends[[3]string{g.Namespace, g.Name, g.Listeners[i].Name}]
		}
		out = append(out, g)
	}
	return out
}

func (e *env) printGateways(list []admin.GatewayStatus) error {
	if len(list) == 0 {
		return nil
	}
	t := newTable("GATEWAY", "ADDRESS", "LISTENER", ">PORT", "SERVES", ">CERTIFICATE ENDS")
	for _, g := range list {
		for _, w := range g.Warnings {
			e.say("warning: Gateway/%s/%s: %s", g.Namespace, g.Name, w)
		}
		for _, l := range g.Listeners {
			serves, ends := "no", "-"
			if l.Programmed {
				serves = "yes"
			}
			if l.Fault != "" {
				serves += "; " + l.Fault
			}
			switch left := time.Until(l.CertificateNotAfter); {
			case l.CertificateNotAfter.IsZero():
			case left <= 0:
				ends = "ended"
			default:
				ends = age(left)
			}
			t.add(admin.Bare(g.Namespace, g.Name, e.inForce()), cmp.Or(strings.Join(g.Addresses, " "), "-"), l.Protocol+" "+l.Name, strconv.Itoa(int(l.Port)), serves, ends)
		}
	}
	if _, err := fmt.Fprintln(e.out); err != nil {
		return err
	}
	return e.printTable(t)
}
