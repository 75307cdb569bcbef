package conformance

import (
	"os"
	"testing"
)

// Authlib of PyPI, in a virtual environment of its own.
func TestAuthlib(t *testing.T) {
	need(t, "python3")
	const python = "python/.venv/bin/python"
	prepare(t, ".", "python3 with venv", "python3", "-m", "venv", "python/.venv")
	prepare(t, ".", "the packages of python/requirements.txt", python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "python/requirements.txt")
	ecPrivate, ecPublic := ecKey(t)
	rsaPrivate, rsaPublic := rsaKey(t)
	m := startMesh(t, resources+secretClient+keyClient("batch", ecPublic, "")+
		keyClient("old", rsaPublic, "  assertionAudience: tokenEndpoint\n  assertionAlgs: [RS256]\n"))
	env := append(m.environment(),
		"REQUESTS_CA_BUNDLE="+m.path("root.pem"), // where set, it wins over what a session is told
		"ISSUER="+m.issuer,
		"SECRET="+m.secret(t, "ci"),
		"EC_KEY="+m.write(t, "ec.key", ecPrivate),
		"RSA_KEY="+m.write(t, "rsa.key", rsaPrivate),
	)
	out := finish(t, env, python, "python/authlib_client.py", "-v")
	if testing.Verbose() {
		os.Stdout.WriteString(out)
	}
}
