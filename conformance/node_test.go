package conformance

import (
	"os"
	"testing"
)

// The npm clients: each file of node/ is a suite of node's own test runner.
func TestNode(t *testing.T) {
	need(t, "node", "npm")
	prepare(t, "node", "the packages of node/package-lock.json", "npm", "ci", "--no-audit", "--no-fund")
	private, jwk := ecKey(t)
	m := startMesh(t, resources+secretClient+keyClient("batch", jwk, ""))
	env := append(m.environment(),
		"NODE_EXTRA_CA_CERTS="+m.path("root.pem"),
		"COUNTERSIGN="+program,
		"ISSUER="+m.issuer,
		"SECRET="+m.secret(t, "ci"),
		"KEY="+m.write(t, "batch.key", private),
	)
	for _, suite := range []string{"oauth4webapi", "openid-client", "jose"} {
		t.Run(suite, func(t *testing.T) {
			out := finish(t, env, "node", "--test", "--test-reporter=tap", "node/"+suite+".test.mjs")
			if testing.Verbose() {
				os.Stdout.WriteString(out)
			}
		})
	}
}
