package node

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
)

// explainDoor says why a Gateway refused what came to its door, but for policy, and what to do about it.
func (n *Node) explainDoor(rec *audit.Record, to string) (lines []string, hint string) {
	namespace, name, _ := strings.Cut(rec.Gateway, "/")
	gateway := "countersign get gateway " + name + " -n " + namespace + " -o yaml"
	rule := gateway
	if route, _, ok := strings.Cut(rec.RouteRule, "#"); ok {
		ns, r, _ := strings.Cut(route, "/")
		rule = "countersign get httproute " + r + " -n " + ns + " -o yaml"
	}
	switch rec.Layer {
	case audit.LayerTLS:
		return explainDoorHandshake(rec), gateway
	case audit.LayerToken:
		return n.explainDoorToken(rec, namespace, to)
	case audit.LayerLimit:
		if rec.Policy != "" {
			return explainLimit(rec)
		}
		return []string{"too many API keys that are not valid came from one address; a right one is taken all the same"}, "countersign keys -A"
	case audit.LayerHTTP:
		lines, hint = explainMessage(rec)
		if hint == "" {
			hint = rule
		}
		return lines, hint
	}
	test := testCommand(rec)
	switch rec.Reason {
	case "no_route":
		switch {
		case rec.Listener == "":
			lines, hint = append(lines, fmt.Sprintf("no listener of Gateway %s on port %d is for host %q", to, rec.Port, rec.Host)), "countersign route list"
		case rec.Path == ownPath || strings.HasPrefix(rec.Path, ownPath+"/"):
			lines, hint = append(lines, "what begins with "+ownPath+" is the Gateway's own: it is never routed"), test
		default:
			lines, hint = append(lines, "no rule of Gateway "+to+" takes it"), test
		}
	case "bad_backend":
		lines, hint = append(lines, "its rule has no backend that may be called"), rule
	case "no_endpoint":
		switch {
		case rec.Service == rec.Gateway:
			lines = append(lines, "the Gateway is being shut down")
		default:
			lines = append(lines, "no instance of service "+rec.Service+" is ready")
		}
		hint = "countersign status"
	case "loop":
		lines, hint = append(lines, "it came by here before"), test
	case "unverified_endpoint":
		lines, hint = append(lines, "who answered did not prove to be service "+rec.Service), "countersign status"
	case "":
		lines, hint = append(lines, "service "+rec.Service+": "+strings.ReplaceAll(rec.Error, "_", " ")), "countersign status"
		if rec.Error == "upstream_timeout" {
			hint = rule // it may say how long
		}
	default:
		lines, hint = append(lines, strings.ReplaceAll(rec.Reason, "_", " ")), test
	}
	if rec.Detail != "" {
		lines = append(lines, rec.Detail)
	}
	return lines, hint
}

// ownPath is what Gateways never route.
const ownPath = "/.well-known/countersign"

// testCommand asks what would become of the same request.
func testCommand(rec *audit.Record) string {
	scheme, host, sni := "http", rec.Host, ""
	if name, _ := h1.LookupHost(rec.Host); name != "" {
		host = net.JoinHostPort(name, strconv.Itoa(int(rec.Port)))
		if sni = rec.SNI; strings.EqualFold(sni, name) {
			sni = ""
		}
	}
	if rec.TLSVersion != 0 {
		scheme = "https"
	}
	command := "countersign route test " + word(rec.Method) + " " + word(scheme+"://"+host+rec.Path)
	if sni != "" {
		command += " --sni " + word(sni)
	}
	return command
}

// word is one word of a command; a stranger said it.
func word(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/:._-", r))
	})
	if plain && s[0] != '-' {
		return s
	}
	return admin.ShellQuote(s)
}

func explainDoorHandshake(rec *audit.Record) []string {
	switch rec.Reason {
	case "unrecognized_name":
		if rec.SNI == "" {
			return []string{"the client named no server, and no listener of the port is for any"}
		}
		return []string{fmt.Sprintf("no listener shows a certificate for server name %q", rec.SNI)}
	case "no_client_cert":
		return []string{"no client certificate, and this port of the Gateway takes nobody without an SVID (spec.tls.frontend)"}
	case "expired":
		return []string{"its certificate has ended"}
	case "wrong_trust_domain":
		return []string{"its trust domain is none that the Gateway takes"}
	case "unknown_ca", "bad_chain":
		return []string{"its certificate is not signed by an authority of its trust domain"}
	}
	return []string{"its certificate: " + strings.ReplaceAll(rec.Reason, "_", " ")}
}

// explainDoorToken adds to what a token failed where it is said which tokens are taken.
func (n *Node) explainDoorToken(rec *audit.Record, namespace, to string) (lines []string, hint string) {
	lines, hint = n.explainToken(rec, "", to)
	switch {
	case hint != "":
	case rec.Reason == "plaintext":
		lines, hint = []string{"a credential over clear text is one that everybody on its way has"}, "call the https listener: countersign route list"
	case rec.Decision == audit.Failed:
		hint = "countersign status"
	case rec.Reason == "exchange":
		hint = "countersign get trustedissuers -A -o yaml"
	default:
		hint = "countersign get ra -n " + namespace
	}
	return lines, hint
}

// explainMessage is what was wrong with a message; without a hint it is for the Gateway or the rule to say otherwise.
func explainMessage(rec *audit.Record) (lines []string, hint string) {
	what := rec.Detail
	switch rec.Reason {
	case h1.AuthorityMismatch:
		if rec.TLSVersion != 0 && rec.Listener == "" && rec.Status == 421 {
			what = fmt.Sprintf("the connection was opened for server name %q, and host %q is another listener's", rec.SNI, rec.Host)
			return []string{what, "a client has to open one of its own for that host"}, testCommand(rec)
		}
		hint = "the client has to name one host"
	case h1.UpgradeRefused:
		if rec.Status == 403 {
			return []string{"WebSocket is kept out by countersign.dev/websocket: deny"}, ""
		}
		hint = "the client has to send a whole handshake (RFC 6455, section 4.1)"
	case h1.TooLarge:
		if rec.Status == 413 {
			return []string{"the body is larger than countersign.dev/request-body, or 10 MiB"}, ""
		}
		hint = "the client has to send less: docs/limits.md"
	case h1.BadPath:
		name, _ := h1.LookupHost(rec.Host)
		return []string{"its path, or what a rewrite would make of it, can be read in two ways"}, "countersign route show " + word(name)
	case h1.AmbiguousFraming:
		hint = "the client has to send one Content-Length, or Transfer-Encoding: chunked (RFC 9112, section 6)"
	case h1.BadRequestLine:
		hint = "the client has to send METHOD /path HTTP/1.1, the method in capitals (RFC 9112, section 3)"
	case h1.BadHeader:
		hint = "the client has to send its header otherwise (RFC 9110, section 5)"
	case h1.Slow:
		hint = "the client has to send faster: docs/limits.md"
	case h1.H2Abuse:
		hint = "the client has to give up fewer requests: docs/limits.md"
	}
	reason := strings.ReplaceAll(rec.Reason, "_", " ")
	if what == "" {
		return []string{reason}, hint
	}
	return []string{reason + ": " + what}, hint
}
