//go:build system

package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSystemScripts runs the paths of cli.md 13 with the programs that people have: curl,
// python3, openssl, jq.
func TestSystemScripts(t *testing.T) {
	holdDefaults(t)
	testscript.Run(t, params("testdata/system"))
}
