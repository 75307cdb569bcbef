package main

import (
	"context"
)

// commands is the whole command line, in the order in which people meet it.
func commands() []*command {
	return []*command{
		upCommand(), downCommand(), demoCommand(), runCommand(),
		allowCommand(), whyCommand(), tapCommand(), statusCommand(),
		applyCommand(), getCommand(), deleteCommand(),
		tokenIssueCommand(), tokenExchangeCommand(), tokenVerifyCommand(), tokenRevokeCommand(), tokenRotateCommand(),
		clientCreateCommand(), clientListCommand(), clientShowCommand(), clientRotateCommand(), clientDeleteCommand(),
		jwtVerifyCommand(), jwtInspectCommand(),
		caRootCommand(), caStatusCommand(),
		versionCommand(), shopCommand(),
	}
}

// shopCommand is a program of demo's shop: it is started by demo, not by people.
func shopCommand() *command {
	var listen string
	return &command{
		name: "shop", hidden: true,
		summary:  "Be one of the programs of the demo's shop.",
		examples: []string{"countersign shop payments --listen 127.0.0.1:8081"},
		usage:    "web|orders|payments|inventory|intruder [flags]",
		about:    `An ordinary HTTP program that knows nothing of identities, policies or TLS.`,
		flags: func(f *flags) {
			f.text(&listen, "listen", "ADDR:PORT", "where it serves, for orders, payments and inventory")
		},
		see: "countersign demo",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 {
				return usage("shop needs one role", "countersign demo")
			}
			var rest []string
			if listen != "" {
				rest = []string{"--listen", listen}
			}
			if status := shop(ctx, args[0], rest, e.out, e.err); status != 0 {
				return exit(status)
			}
			return nil
		},
	}
}
