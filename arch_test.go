package countersign_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "countersign.dev"

// floors are those of docs/design/001-floors.md: a package imports from lower floors alone;
// sideways on 0 and 1, without cycles.
var floors = map[string]int{
	"internal/identity": 0, "internal/identity/identitytest": 0, "internal/h1": 0, "internal/h1/h1test": 0,
	"internal/entry": 0, "internal/policy": 0, "internal/resource": 0, "internal/jose": 0, "internal/grant": 0, "internal/route": 0,
	"internal/files": 1, "internal/store": 1, "internal/store/storetest": 1, "internal/audit": 1, "internal/telemetry": 1,
	"internal/memnet": 1, "internal/snapshot": 1, "internal/keyring": 1, "internal/revocation": 1, "internal/jwks": 1, "internal/bearer": 1, "internal/limit": 1, "internal/gate": 1, "internal/watch": 1, "internal/apikey": 1,
	"internal/ca": 2, "internal/token": 2, "internal/attest": 2, "internal/catalog": 2, "internal/registry": 2,
	"internal/control": 3, "internal/workloadapi": 3, "internal/proxy": 3, "internal/admin": 3,
	"internal/server": 4, "internal/node": 4,
	"": 5, "cmd/countersign": 5, "cmd/countersign/systemtest": 5, "bench": 5,
}

// homes are the packages that a third-party library may be imported from, tests left aside.
// A library that is not listed may be imported nowhere.
var homes = map[string][]string{
	"go.etcd.io/etcd/":                        {"internal/store"},
	"go.etcd.io/bbolt":                        {"internal/store"},
	"go.uber.org/zap":                         {"internal/store"},
	"istio.io/api":                            {"internal/resource"},
	"sigs.k8s.io/yaml":                        {"internal/resource"},
	"go.yaml.in/yaml":                         {"internal/resource"},
	"github.com/golang/protobuf/":             {"internal/resource"},
	"google.golang.org/grpc":                  {"internal/control", "internal/workloadapi"},
	"google.golang.org/genproto":              {"internal/control", "internal/workloadapi"},
	"google.golang.org/protobuf":              {"internal/control", "internal/workloadapi", "internal/resource"},
	"github.com/go-jose/go-jose/v4":           {"internal/jose"},
	"github.com/go-json-experiment/json":      {"internal/jose"},
	"github.com/prometheus/":                  {"internal/telemetry"},
	"github.com/spiffe/go-spiffe/v2/proto":    {"internal/workloadapi"},
	"github.com/spiffe/go-spiffe/v2/spiffeid": {"*"},
	"golang.org/x/sys/unix":                   {"internal/store", "internal/attest", "internal/proxy", "internal/admin", "internal/node", "internal/watch", "cmd/countersign", "bench"},
	"golang.org/x/crypto/argon2":              {"internal/store"},
	"golang.org/x/crypto/cryptobyte":          {"internal/identity", "internal/ca"},
	"golang.org/x/net/http2":                  {"internal/proxy", "bench"},
	"golang.org/x/net/http/httpguts":          {"internal/proxy"},
	"golang.org/x/sync/errgroup":              {"internal/server", "internal/node", "cmd/countersign", "internal/proxy"},
	"github.com/google/go-cmp/":               {"internal/store/storetest"},
	"golang.org/x/term":                       {"cmd/countersign"},
}

// pkg is one package of the tree, without its tests.
type pkg struct {
	dir   string
	files map[string]*ast.File
	docs  int
}

func packages(t *testing.T, tests bool) (map[string]*pkg, *token.FileSet) {
	t.Helper()
	out, set := map[string]*pkg{}, token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "tools") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") != tests && !tests {
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if dir == "." {
			dir = ""
		}
		if out[dir] == nil {
			out[dir] = &pkg{dir: dir, files: map[string]*ast.File{}}
		}
		out[dir].files[path] = f
		if f.Doc != nil && !strings.HasSuffix(path, "_test.go") {
			out[dir].docs++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, set
}

func imports(f *ast.File) []string {
	var out []string
	for _, i := range f.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

// A package imports only from lower floors; the request path never learns of the store.
func TestFloors(t *testing.T) {
	all, _ := packages(t, false)
	edges := map[string][]string{}
	for dir, p := range all {
		floor, ok := floors[dir]
		if !ok {
			t.Errorf("package %q stands on no floor: add it to floors and to docs/design/001-floors.md", dir)
		}
		for path, f := range p.files {
			for _, name := range imports(f) {
				to, ours := strings.CutPrefix(name, module+"/")
				if !ours {
					continue
				}
				edges[dir] = append(edges[dir], to)
				below, known := floors[to]
				sideways := below == floor && floor <= 1
				parent := strings.HasPrefix(to, dir+"/") || strings.HasPrefix(dir, to+"/")
				if known && below >= floor && !sideways && !parent {
					t.Errorf("%s (floor %d) imports %s (floor %d)", path, floor, to, below)
				}
			}
		}
	}
	for dir := range edges {
		if reaches(edges, dir, dir, map[string]bool{}) {
			t.Errorf("package %q imports itself in a circle", dir)
		}
	}
	for _, path := range []string{"internal/proxy", "internal/workloadapi"} {
		if reaches(edges, path, "internal/catalog", map[string]bool{}) || slices.Contains(edges[path], "internal/store") {
			t.Errorf("%s reaches the store: the request path must not", path)
		}
	}
	if slices.Contains(edges["internal/node"], "internal/store") || slices.Contains(edges["internal/node"], "internal/server") {
		t.Error("the node imports the store or the server: they are two parties")
	}
}

func reaches(edges map[string][]string, from, to string, seen map[string]bool) bool {
	for _, next := range edges[from] {
		if next == to {
			return true
		}
		if !seen[next] {
			seen[next] = true
			if reaches(edges, next, to, seen) {
				return true
			}
		}
	}
	return false
}

// A third-party library has one home.
func TestLibrariesStayHome(t *testing.T) {
	all, _ := packages(t, false)
	for dir, p := range all {
		for path, f := range p.files {
			for _, name := range imports(f) {
				first, _, _ := strings.Cut(name, "/")
				if !strings.Contains(first, ".") || strings.HasPrefix(name, module) {
					continue
				}
				if !atHome(name, dir) {
					t.Errorf("%s imports %s: %q is not its home", path, name, dir)
				}
			}
		}
	}
}

func atHome(name, dir string) bool {
	best, allowed := "", []string(nil)
	for prefix, dirs := range homes {
		if strings.HasPrefix(name, prefix) && len(prefix) > len(best) {
			best, allowed = prefix, dirs
		}
	}
	return slices.Contains(allowed, "*") || slices.ContainsFunc(allowed, func(a string) bool { return dir == a || strings.HasPrefix(dir, a+"/") })
}

// Every package says what it is for; there is one place that says it.
func TestPackageComments(t *testing.T) {
	all, _ := packages(t, false)
	for dir, p := range all {
		if p.docs != 1 {
			t.Errorf("package %q has %d package comments, want 1", dir, p.docs)
		}
	}
}

// banned are calls that belong to main files and tests alone.
var banned = map[string]string{
	"fmt.Print": "", "fmt.Println": "", "fmt.Printf": "", "os.Exit": "", "time.Sleep": "", "context.Background": "", "http.DefaultClient": "",
}

// What is pure stays pure, and nothing sleeps, prints or ends the process on its own.
func TestBannedCalls(t *testing.T) {
	all, set := packages(t, false)
	for dir, p := range all {
		floor := floors[dir]
		for path, f := range p.files {
			if strings.HasPrefix(dir, "cmd/") || strings.HasSuffix(dir, "test") || dir == "bench" {
				continue
			}
			for _, name := range imports(f) {
				if name == "math/rand" || name == "github.com/pkg/errors" || strings.HasPrefix(name, "github.com/stretchr/testify") {
					t.Errorf("%s imports %s", path, name)
				}
				if floor == 0 && slices.Contains([]string{"os/exec", "log/slog", "log", "net/http", "io/ioutil"}, name) {
					t.Errorf("%s imports %s: floor 0 has no I/O and no logger", path, name)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					x, ok := n.X.(*ast.Ident)
					if !ok {
						return true
					}
					call := x.Name + "." + n.Sel.Name
					if _, bad := banned[call]; bad {
						t.Errorf("%s: %s", set.Position(n.Pos()), call)
					}
					if floor == 0 && (call == "time.Now" || call == "time.After" || call == "time.NewTimer") {
						t.Errorf("%s: %s: on floor 0 time comes in as now", set.Position(n.Pos()), call)
					}
				case *ast.GoStmt:
					if floor == 0 {
						t.Errorf("%s: floor 0 starts no goroutine", set.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

// Names that say nothing.
func TestNames(t *testing.T) {
	words := []string{"Manager", "Helper", "Util", "Utils", "Common", "Base", "Impl", "Factory", "Provider", "Wrapper"}
	all, set := packages(t, false)
	for _, p := range all {
		for path, f := range p.files {
			if strings.HasSuffix(path, ".pb.go") {
				continue
			}
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.TYPE {
					continue
				}
				for _, s := range g.Specs {
					name := s.(*ast.TypeSpec).Name.Name
					for _, w := range words {
						if strings.HasSuffix(name, w) {
							t.Errorf("%s: type %s", set.Position(s.Pos()), name)
						}
					}
				}
			}
		}
	}
}

// Only package identity decides that crypto/tls does not verify: its own checks do.
func TestSecOnePlaceSkipsVerification(t *testing.T) {
	all, set := packages(t, false)
	for dir, p := range all {
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && id.Name == "InsecureSkipVerify" && dir != "internal/identity" {
					t.Errorf("%s: InsecureSkipVerify outside package identity", set.Position(n.Pos()))
				}
				return true
			})
		}
	}
}

// The build tag that widens the alphabet of SPIFFE IDs must never be set (identity.md 27).
func TestSecNoWideSPIFFEIDs(t *testing.T) {
	if strings.Contains(os.Getenv("GOFLAGS"), "spiffeid_charset_backcompat") {
		t.Error("GOFLAGS sets spiffeid_charset_backcompat")
	}
}

// The files stay of a size that a person reads.
func TestFileSizes(t *testing.T) {
	all, set := packages(t, true)
	for _, p := range all {
		for path, f := range p.files {
			if lines := set.Position(f.End()).Line; lines > 1000 && !strings.HasSuffix(path, ".pb.go") {
				t.Errorf("%s has %d lines", path, lines)
			}
		}
	}
}
