package main

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"countersign.dev/internal/admin"
)

const version = "0.1.0"

// commit is the first seven digits of the commit this was built from; empty if unknown.
func commit() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range build.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(7, len(s.Value))]
		}
	}
	return commitOf(build.Main.Version)
}

// commitOf is the commit in a pseudo-version, which is what `go install` at a commit knows:
// v0.1.1-0.20261121201402-3f9a12c4d5e6.
func commitOf(version string) string {
	if m := pseudoVersion.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return ""
}

var pseudoVersion = regexp.MustCompile(`[-.][0-9]{14}-([0-9a-f]{7})[0-9a-f]{5}(?:\+|$)`)

func versionLine() string {
	parts := []string{"countersign " + version}
	if c := commit(); c != "" {
		parts = append(parts, c)
	}
	return strings.Join(append(parts, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH), "   ")
}

// running is the version of a role that answers.
type running struct {
	Version string `json:"version"`
}

// versions is the shape of version --json.
type versions struct {
	Version string   `json:"version"`
	Commit  string   `json:"commit,omitempty"`
	Go      string   `json:"go"`
	OS      string   `json:"os"`
	Arch    string   `json:"arch"`
	Server  *running `json:"server,omitempty"`
	Node    *running `json:"node,omitempty"`
}

func versionCommand() *command {
	return &command{
		name:     "version",
		summary:  "Print the version of this program, and of what runs here.",
		examples: []string{"countersign version", "countersign version --json"},
		about:    `The second line tells what answers here. It is left out when nothing does.`,
		see:      "countersign status",
		run:      printVersion,
	}
}

func printVersion(ctx context.Context, e *env, args []string) error {
	if err := noArgs(e.cmd, args); err != nil {
		return err
	}
	v := versions{Version: version, Commit: commit(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	var roles []string
	// Whatever does not answer is not running: never an error (cli.md 10.16).
	if s, err := askServer[admin.ServerStatus](ctx, e, "/v1/status", nil); err == nil {
		v.Server = &running{s.Version}
		roles = append(roles, "server "+s.Version)
	}
	if n, err := askNode[admin.LocalStatus](ctx, e, "/v1/status", nil); err == nil {
		v.Node = &running{n.Version}
		roles = append(roles, "node "+n.Version)
	}
	if e.json {
		return e.printJSON(v)
	}
	fmt.Fprintln(e.out, versionLine())
	if len(roles) > 0 {
		fmt.Fprintln(e.out, strings.Join(roles, ", "))
	}
	return nil
}
