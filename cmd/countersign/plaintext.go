package main

import (
	"fmt"
	"strings"
)

// maxPlaintext is how many services in clear text are named.
const maxPlaintext = 5

// plaintextLine lists the services that Gateways may call in clear text; empty without any.
func (e *env) plaintextLine(services []string) string {
	var names []string
	for i, name := range services {
		if i == maxPlaintext {
			names = append(names, fmt.Sprintf("and %d more", len(services)-i))
			break
		}
		names = append(names, e.bare(name))
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("  plaintext  %s: Gateways may call it so, and nothing but their policy protects it\n", strings.Join(names, ", "))
}
