package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const examplesDir = "../../examples/gateway"

// cmdExample fetches a file of examples/gateway, with ports that are free and names of this machine.
func cmdExample(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: example FILE")
	}
	text, err := os.ReadFile(filepath.Join(packageDir, examplesDir, args[0]))
	ts.Check(err)
	here := strings.NewReplacer(".test", ".localhost", "8443", ts.Getenv("PORT3"), "8444", ts.Getenv("PORT4"), "8445", ts.Getenv("PORT4"),
		"8480", ts.Getenv("PORT5"), "8080", ts.Getenv("PORT5"), "9000", ts.Getenv("PORT2"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(here.Replace(string(text))), 0o600))
}

// packageDir is where the tests began: scripts run elsewhere.
var packageDir, _ = os.Getwd()

// Each example stands in the README beside them and is applied by examples.txtar; shop.yaml is
// what the demo applies.
func TestExamples(t *testing.T) {
	script, err := os.ReadFile("testdata/examples.txtar")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(examplesDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(examplesDir, "*.yaml"))
	if err != nil || len(names) < 9 {
		t.Fatalf("%d examples, %v", len(names), err)
	}
	for _, name := range names {
		name = filepath.Base(name)
		if !strings.Contains(string(script), "example "+name+"\n") || !strings.Contains(string(script), "-f "+name) {
			t.Errorf("no script applies %s", name)
		}
		if !strings.Contains(string(readme), "| ["+name+"]("+name+") |") {
			t.Errorf("%s is not in the README", name)
		}
	}
	shop, err := os.ReadFile(filepath.Join(examplesDir, "shop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	keyless := regexp.MustCompile(`\{"kty": .*?\}`).ReplaceAllString(string(shop), "PUBLIC-KEY")
	if _, door, _ := strings.Cut(keyless, "stock:read\n"); door != demoDoor {
		t.Error("shop.yaml is not the door of the demo")
	}
}
