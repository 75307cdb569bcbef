package resource

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The examples of the Gateway API's own module are taken, or refused for a reason that is named:
// what is not built (E301, E302), and what its examples leave to the reader.
func TestExamplesOfTheAPI(t *testing.T) {
	dir, ok := gatewayModule(t)
	if !ok {
		return
	}
	taken, refused := 0, make(map[string]int)
	err := filepath.WalkDir(filepath.Join(dir, "examples", "standard"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		objects, faults := Decode([]File{{name, text}}, Options{Gateway: true, IgnoreUnknownKinds: true})
		taken += len(objects)
		for _, f := range faults {
			if f.Severity != Error {
				continue
			}
			refused[f.Code]++
			if f.Code != "E302" && f.Code != "E301" && !strings.Contains(f.String(), "PLACEHOLDER") {
				t.Errorf("%s", f)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d taken, refused %v", taken, refused)
	if taken < 50 {
		t.Errorf("%d documents are taken", taken)
	}
}

// What the API's module lists as invalid is refused, each document, by the rules of the API: not
// for being unbuilt, but where the fault lies in what is not.
func TestInvalidExamplesOfTheAPI(t *testing.T) {
	dir, ok := gatewayModule(t)
	if !ok {
		return
	}
	n := 0
	for _, pattern := range []string{"standard/gateway/*", "standard/gatewayclass/*", "standard/httproute/*", "standard/referencegrant/*", "experimental/httproute/*"} {
		files, err := filepath.Glob(filepath.Join(dir, "hack", "invalid-examples", pattern+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range split(text) {
				if c.empty() {
					continue
				}
				n++
				objects, faults := Decode([]File{{filepath.Base(path), c.data}}, Options{Gateway: true})
				unbuilt := strings.Contains(filepath.Base(path), "externalauth")
				byRule := slices.ContainsFunc(faults, func(f Fault) bool {
					return f.Severity == Error && f.Code != "E105" && f.Code != "E301" && f.Code != "E302"
				})
				if len(objects) > 0 || !Stops(faults) || !byRule && !unbuilt {
					t.Errorf("%s: %v\n%s", filepath.Base(path), faults, c.data)
				}
			}
		}
	}
	if t.Logf("%d documents", n); n < 34 {
		t.Errorf("only %d documents", n)
	}
}
