package main

// commands is the whole command line, in the order in which people meet it.
func commands() []*command {
	return []*command{
		upCommand(), downCommand(), demoCommand(), runCommand(),
		allowCommand(), exposeCommand(), whyCommand(), tapCommand(), statusCommand(),
		applyCommand(), getCommand(), deleteCommand(),
		routeListCommand(), routeShowCommand(), routeTestCommand(),
		tokenIssueCommand(), tokenExchangeCommand(), tokenVerifyCommand(), tokenRevokeCommand(), tokenRotateCommand(),
		clientCreateCommand(), clientListCommand(), clientShowCommand(), clientRotateCommand(), clientDeleteCommand(),
		keyCreateCommand(), keyListCommand(), keyShowCommand(), keyRotateCommand(), keyRevokeCommand(), keyScanCommand(),
		jwtVerifyCommand(), jwtInspectCommand(),
		caRootCommand(), caStatusCommand(),
		versionCommand(), shopCommand(),
	}
}
