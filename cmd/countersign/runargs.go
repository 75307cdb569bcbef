package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/admin"
)

func labelOf(s string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	if out = strings.Trim(out, "-"); out == "" {
		return "api"
	}
	return out
}

var protocols = []string{"http", "http2", "grpc"}

func parsePorts(in []string) ([]admin.RunPort, error) {
	var out []admin.RunPort
	for _, s := range in {
		number, proto, _ := strings.Cut(s, "/")
		if proto == "" {
			proto = "http"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return nil, usage(fmt.Sprintf("--port %q: a port is 1 to 65535", s), "countersign run api --port 8081 -- ./api")
		}
		if !slices.Contains(protocols, proto) {
			return nil, usage(fmt.Sprintf("--port %q: protocol is one of %s", s, strings.Join(protocols, ", ")), fmt.Sprintf("countersign run api --port %d/http -- ./api", n))
		}
		p := admin.RunPort{Number: uint16(n), Protocol: proto}
		if slices.ContainsFunc(out, func(o admin.RunPort) bool { return o.Number == p.Number }) {
			return nil, usage(fmt.Sprintf("--port %d is given twice", n), fmt.Sprintf("countersign run api --port %d --port %d -- ./api", n, n%65535+1))
		}
		out = append(out, p)
	}
	return out, nil
}

func parseLabels(in []string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, s := range in {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage(fmt.Sprintf("--label %q is not KEY=VALUE", s), "countersign run api --label tier=backend -- ./api")
		}
		if _, twice := out[k]; twice {
			return nil, usage(fmt.Sprintf("--label %s is given twice", k), "countersign run api --label tier=backend --label zone=a -- ./api")
		}
		out[k] = v
	}
	return out, nil
}

// findProgram looks the command up, as a shell would.
func findProgram(name string, command []string) (string, error) {
	path, err := exec.LookPath(command[0])
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err == nil {
		return path, nil
	}
	if st, statErr := os.Stat(command[0]); statErr == nil && strings.Contains(command[0], "/") {
		hint := "chmod +x " + command[0]
		if strings.HasSuffix(command[0], ".py") {
			hint = "countersign run " + name + " -- python3 " + strings.Join(command, " ")
		}
		what := "is not executable"
		if st.IsDir() {
			what, hint = "is a directory", "countersign run "+name+" -- COMMAND"
		}
		return "", &admin.Problem{Code: "program_not_executable", Exit: exitNotExec, Message: fmt.Sprintf("starting %s: %q %s", name, command[0], what), Hints: []string{hint}}
	}
	p := &admin.Problem{Code: "program_not_found", Exit: exitNotFound, Message: fmt.Sprintf("starting %s: %q does not exist", name, command[0])}
	near := similarFile(command[0])
	if _, err := os.Stat(command[0]); err == nil { // here, but not in PATH
		near = "./" + command[0]
	}
	if near != "" {
		p.Hints = []string{"countersign run " + name + " -- " + strings.Join(append([]string{near}, command[1:]...), " ")}
	} else {
		p.Hints = []string{"name a program of PATH, or a file such as ./" + filepath.Base(command[0])}
	}
	return "", p
}

// similarFile finds a file beside path that was probably meant.
func similarFile(path string) string {
	if !strings.Contains(path, "/") {
		return ""
	}
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if n := nearest(base, names); n != "" {
		return dir + n
	}
	return ""
}
