package apikey

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

var inside, outside = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.9")

// built is a Set in which nothing is wrong.
func built(t testing.TB, records ...Record) *Set {
	t.Helper()
	s, faults := Build(records, "example.com", nil)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return s
}

// K1, K2, K4, the part of a Set: which step refuses, and that its caller learns only which of
// two errors it is. Of several faults the first in the order of 14.3 is the reason.
func TestK2CheckOrder(t *testing.T) {
	k := minted(t, Live)
	wrongSecret := resealed(k.Reveal()[:secretAt] + vectorSecret + strings.Repeat("0", crcLen))
	tests := []struct {
		name      string
		change    func(r *Record)
		presented string
		taken     Env
		source    netip.Addr
		now       time.Time
		reason    Reason
		err       error
		id        string
	}{
		{"taken", nil, k.Reveal(), Live, inside, now, "", nil, k.ID()},
		{"taken: mapped address", nil, k.Reveal(), Live, netip.MustParseAddr("::ffff:203.0.113.9"), now, "", nil, k.ID()},
		{"taken: any address", func(r *Record) { r.CIDRs = nil }, k.Reveal(), Live, outside, now, "", nil, k.ID()},
		{"taken: in the overlap", func(r *Record) { r.Secrets[0].Until = now.Add(1) }, k.Reveal(), Live, inside, now, "", nil, k.ID()},
		{"taken: zone", func(r *Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("fe80::/10")} }, k.Reveal(), Live, netip.MustParseAddr("fe80::1%eth0"), now, "", nil, k.ID()},
		{"empty", nil, "", Live, inside, now, Malformed, ErrKey, ""},
		{"short", nil, k.Reveal()[1:], Live, inside, now, Malformed, ErrKey, ""},
		{"K1 checksum", nil, k.Reveal()[:crcAt] + "zzzzzz", Live, inside, now, BadChecksum, ErrKey, ""},
		{"K2 unknown id", nil, minted(t, Live).Reveal(), Live, inside, now, UnknownID, ErrKey, ""},
		{"K2 wrong secret", nil, wrongSecret, Live, inside, now, WrongSecret, ErrKey, k.ID()},
		{"the other environment in the text", nil, resealed("csk_test" + k.Reveal()[envEnd:]), Test, inside, now, WrongSecret, ErrKey, k.ID()},
		{"K2 disabled", func(r *Record) { r.Disabled = true }, k.Reveal(), Live, inside, now, Disabled, ErrKey, k.ID()},
		{"K2 expired", nil, k.Reveal(), Live, inside, acme().Expires, Expired, ErrKey, k.ID()},
		{"K5 rotated out", func(r *Record) { r.Secrets[0].Until = now }, k.Reveal(), Live, inside, now, RotatedOut, ErrKey, k.ID()},
		{"env", nil, k.Reveal(), Test, inside, now, WrongEnv, ErrForbidden, k.ID()},
		{"no env", nil, k.Reveal(), "", inside, now, WrongEnv, ErrForbidden, k.ID()},
		{"K4 source", nil, k.Reveal(), Live, outside, now, WrongSource, ErrForbidden, k.ID()},
		{"K4 no source", nil, k.Reveal(), Live, netip.Addr{}, now, WrongSource, ErrForbidden, k.ID()},
		{"wrong secret before disabled", func(r *Record) { r.Disabled = true }, wrongSecret, Test, outside, now, WrongSecret, ErrKey, k.ID()},
		{"disabled before env", func(r *Record) { r.Disabled = true }, k.Reveal(), Test, outside, now, Disabled, ErrKey, k.ID()},
		{"env before source", nil, k.Reveal(), Test, outside, now, WrongEnv, ErrForbidden, k.ID()},
	}
	for _, tt := range tests {
		r := acme()
		r.Secrets = []Secret{k.Secret(nil)}
		if tt.change != nil {
			tt.change(&r)
		}
		got, err := built(t, r).Check([]byte(tt.presented), tt.taken, tt.source, tt.now)
		if err != tt.err || got.Reason != tt.reason || got.ID != tt.id || (got.Record != nil) != (err == nil) {
			t.Errorf("%s: got %+v, %v", tt.name, got, err)
		}
		if err == nil && got.Record.Principal() != "key:shop:partner-acme" {
			t.Errorf("%s: principal %s", tt.name, got.Record.Principal())
		}
	}
}

func TestReasonCodes(t *testing.T) {
	for code, reasons := range map[string][]Reason{
		"": {""}, "key_unknown": {Malformed, BadChecksum, UnknownID, WrongSecret},
		"key_expired": {Disabled, Expired, RotatedOut}, "key_scope": {WrongEnv, WrongSource},
	} {
		for _, r := range reasons {
			if r.Code() != code {
				t.Errorf("%s is %s, want %s", r, r.Code(), code)
			}
		}
	}
}

// K3: what ended, or may not be used there, is proven all the same; an id alone is not.
func TestK3Proves(t *testing.T) {
	k := minted(t, Live)
	r := acme()
	r.Secrets, r.Disabled, r.Expires = []Secret{k.Secret(nil)}, true, now.Add(-time.Hour)
	s := built(t, r)
	if rec, id, ok := s.Proves([]byte(k.Reveal())); !ok || id != k.ID() || rec.Name != r.Name {
		t.Errorf("got %v, %s, %v", rec, id, ok)
	}
	for name, text := range map[string]string{
		"wrong secret":       resealed(k.Reveal()[:secretAt] + vectorSecret + "000000"),
		"wrong checksum":     k.Reveal()[:crcAt] + "zzzzzz",
		"unknown":            minted(t, Live).Reveal(),
		"id alone":           k.ID(),
		"environment":        resealed("csk_test" + k.Reveal()[envEnd:]),
		"hash for a secret":  k.Secret(nil).SHA256,
		"nothing":            "",
		"key and a blank":    k.Reveal() + " ",
		"vector, not in set": vector,
	} {
		if rec, id, ok := s.Proves([]byte(text)); ok || rec != nil || id != "" {
			t.Errorf("%s is proven", name)
		}
	}
}

// K1: a wrong checksum is refused before anything is looked up.
func TestK1ChecksumBeforeLookup(t *testing.T) {
	k := minted(t, Live)
	r := acme()
	r.Secrets = []Secret{k.Secret(nil)}
	s := built(t, r)
	s.secrets[[idLen]byte([]byte(k.ID()))] = nil // a lookup would end in a panic
	if got, err := s.Check([]byte(k.Reveal()[:crcAt]+"zzzzzz"), Live, inside, now); err != ErrKey || got.Reason != BadChecksum {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNoSetKnowsNoKey(t *testing.T) {
	for _, s := range []*Set{nil, {}, built(t)} {
		if got, err := s.Check([]byte(vector), Live, inside, now); err != ErrKey || got.Reason != UnknownID || s.Len() != 0 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

// An unknown id takes the way of a wrong secret: it is compared with the dummy, which can never
// let it through.
func TestSecUnknownIDComparesWithDummy(t *testing.T) {
	s := built(t, acme())
	k := minted(t, Live)
	s.dummy = entry{sum: s.pepper.hash([]byte(k.part(secretAt, secretEnd))), env: [4]byte([]byte(Live)), record: new(acme())}
	if got, err := s.Check([]byte(k.Reveal()), Live, inside, now); err != ErrKey || got.Reason != UnknownID {
		t.Errorf("the dummy's secret: got %+v, %v", got, err)
	}
	if _, _, ok := s.Proves([]byte(k.Reveal())); ok {
		t.Error("the dummy's secret is proven")
	}
	// From the look-up to the comparison there is one way: a choice of the entry, no return.
	file, err := parser.ParseFile(token.NewFileSet(), "set.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var way []string
	ast.Inspect(file, func(n ast.Node) bool {
		f, ok := n.(*ast.FuncDecl)
		if !ok || f.Name.Name != "prove" {
			return true
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.IndexExpr:
				if x, ok := n.X.(*ast.SelectorExpr); ok && x.Sel.Name == "secrets" {
					way = []string{"look-up"}
				}
			case *ast.ReturnStmt:
				way = append(way, "return")
			case *ast.IfStmt:
				way = append(way, "if")
			case *ast.SelectorExpr:
				if n.Sel.Name == "ConstantTimeCompare" || n.Sel.Name == "hash" || n.Sel.Name == "dummy" {
					way = append(way, n.Sel.Name)
				}
			}
			return true
		})
		return false
	})
	want := "look-up if dummy hash ConstantTimeCompare ConstantTimeCompare return return return"
	if got := strings.Join(way, " "); got != want {
		t.Errorf("the way of a key is\n%s, want\n%s", got, want)
	}
}

func TestPeppered(t *testing.T) {
	p, err := NewPepper(bytes.Repeat([]byte{1}, PepperLen))
	if err != nil {
		t.Fatal(err)
	}
	plain, peppered := minted(t, Live), minted(t, Live)
	r := acme()
	r.Secrets = []Secret{plain.Secret(nil), peppered.Secret(p)}
	s, faults := Build([]Record{r}, "example.com", p)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if _, err := s.Check([]byte(peppered.Reveal()), Live, inside, now); err != nil {
		t.Errorf("peppered: %v", err)
	}
	if _, err := s.Check([]byte(plain.Reveal()), Live, inside, now); err != ErrKey {
		t.Errorf("a plain hash is taken beside a pepper: %v", err)
	}
	if _, err := built(t, r).Check([]byte(peppered.Reveal()), Live, inside, now); err != ErrKey {
		t.Errorf("a peppered hash is taken without: %v", err)
	}
}

// An id names one secret in the trust domain: the second is reported, without the first one's
// name, and does not count; the first goes on.
func TestBuildReportsSecondID(t *testing.T) {
	k, thief := minted(t, Live), minted(t, Live)
	first, second := acme(), acme()
	first.Secrets, first.Since = []Secret{k.Secret(nil)}, 7
	second.Namespace, second.Name, second.Owner, second.Routes, second.Since = "bank", "a", "corp:a", nil, 8
	second.Secrets = []Secret{thief.Secret(nil), {ID: k.ID(), SHA256: thief.Secret(nil).SHA256}}
	for _, order := range [][]Record{{first, second}, {second, first}} {
		s, faults := Build(order, "example.com", nil)
		want := Fault{"bank", "a", "E308", "spec.secrets[1].id", "id " + k.ID() + " is taken in namespace shop", "an id names one secret: rotate the key for a new one"}
		if len(faults) != 1 || faults[0] != want || s.Len() != 2 {
			t.Errorf("got %+v", faults)
		}
		for _, k := range []Key{k, thief} {
			if _, err := s.Check([]byte(k.Reveal()), Live, inside, now); err != nil {
				t.Errorf("%s: %v", k, err)
			}
		}
	}
	second.Namespace, second.Name, second.Since = "shop", "z", 7
	if _, faults := Build([]Record{second, first}, "example.com", nil); len(faults) != 1 || faults[0].Code != "E113" || faults[0].Name != "z" {
		t.Errorf("in one namespace, at one revision: got %+v", faults)
	}
}

func TestBuildLeavesFaultyOut(t *testing.T) {
	bad, good := acme(), acme()
	bad.Name, bad.Audiences, bad.Routes = "bad", nil, nil
	good.Secrets = []Secret{{ID: "0000000000", SHA256: vectorSHA256}}
	s, faults := Build([]Record{bad, good}, "example.com", nil)
	if len(faults) != 1 || faults[0].Field != "spec" || s.Len() != 1 {
		t.Errorf("got %v, %d secrets", faults, s.Len())
	}
	if _, err := s.Check([]byte(vector), Live, inside, now); !errors.Is(err, ErrKey) {
		t.Errorf("the key of a faulty record: %v", err)
	}
}

// A clock that is behind loses no key: the longest life is a matter of apply.
func TestBuildKnowsNoClock(t *testing.T) {
	r := acme()
	r.Expires = now.Add(MaxLife + time.Hour)
	if _, err := built(t, r).Check([]byte(vector), Live, inside, now); err != nil {
		t.Error(err)
	}
}

// large is a Set of n keys, and one of them.
func large(t testing.TB, n int, pepper *Pepper) (*Set, []Record, Key) {
	t.Helper()
	k := minted(t, Live)
	records := make([]Record, n)
	for i := range records {
		r := acme()
		r.Name = fmt.Sprintf("k%d", i)
		r.Secrets[0].ID = fmt.Sprintf("%010d", i)
		records[i] = r
	}
	records[n/2].Secrets = []Secret{k.Secret(pepper)}
	s, faults := Build(records, "example.com", pepper)
	if len(faults) > 0 {
		t.Fatal(faults[0])
	}
	return s, records, k
}

func TestCheckDoesNotAllocate(t *testing.T) {
	p, _ := NewPepper(make([]byte, PepperLen))
	for _, pepper := range []*Pepper{nil, p} {
		s, _, k := large(t, 1000, pepper)
		header := k.Reveal() // as a header line gives it
		for name, text := range map[string]string{"hit": header, "unknown": minted(t, Live).Reveal(), "checksum": header[:crcAt] + "zzzzzz"} {
			n := testing.AllocsPerRun(200, func() {
				if _, err := s.Check([]byte(text), Live, inside, now); (err == nil) != (name == "hit") {
					t.Error(name, err)
				}
			})
			if n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
}

// cpuTime is that of this process: other users of the machine do not change it much.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkCheck(b *testing.B) {
	p, _ := NewPepper(make([]byte, PepperLen))
	for _, of := range []struct {
		name   string
		pepper *Pepper
	}{{"plain", nil}, {"pepper", p}} {
		s, _, k := large(b, 100_000, of.pepper)
		for _, c := range []struct{ name, text string }{
			{"hit", k.Reveal()}, {"unknown", minted(b, Live).Reveal()}, {"checksum", k.Reveal()[:crcAt] + "zzzzzz"},
		} {
			b.Run(of.name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					s.Check([]byte(c.text), Live, inside, now)
				}
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	_, records, _ := large(b, 100_000, nil)
	for b.Loop() {
		Build(records, "example.com", nil)
	}
}
