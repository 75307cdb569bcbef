package audit

import (
	"regexp"
	"testing"
)

func TestPseudonym(t *testing.T) {
	key := []byte("0123456789abcdef")
	alice := Pseudonym(key, "https://login.example", "alice", true)
	if !regexp.MustCompile(`^p1:[a-z2-7]{26}$`).MatchString(alice) {
		t.Errorf("pseudonym %q", alice)
	}
	for name, other := range map[string]string{
		"another subject": Pseudonym(key, "https://login.example", "bob", true),
		"another issuer":  Pseudonym(key, "https://login.exampleal", "ice", true),
		"another key":     Pseudonym([]byte("0123456789abcdeF"), "https://login.example", "alice", true),
		"no key":          Pseudonym(nil, "https://login.example", "alice", true),
	} {
		if other == alice {
			t.Errorf("%s has the same pseudonym", name)
		}
	}
	if again := Pseudonym(key, "https://login.example", "alice", true); again != alice {
		t.Errorf("the same person is %q and %q", alice, again)
	}
	if got := Pseudonym(key, "https://localhost:7444", "spiffe://a/ns/b/sa/c", false); got != "spiffe://a/ns/b/sa/c" {
		t.Errorf("a workload is %q", got)
	}
}
