package jose

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/matrix.json anew")

// vector is a row of the strictness matrix (tokens.md 22): a token, all that it is checked by,
// and the verdict.
type vector struct {
	ID        string          `json:"id"`
	What      string          `json:"what"`
	Profile   string          `json:"profile"`
	Keys      json.RawMessage `json:"keys"`
	Issuer    string          `json:"issuer"`
	Audiences []string        `json:"audiences"`
	Single    bool            `json:"singleAudience,omitempty"`
	Skew      int64           `json:"clockSkew,omitempty"`
	MaxLife   int64           `json:"maxLifetime,omitempty"`
	Now       int64           `json:"now"`
	Token     string          `json:"token"`
	Pad       string          `json:"pad,omitempty"` // behind the token, so many times
	Times     int             `json:"times,omitempty"`
	Accept    bool            `json:"accept"`
	Reason    Reason          `json:"reason,omitempty"`
	BadSet    bool            `json:"setRefused,omitempty"`
	Sub       string          `json:"sub,omitempty"` // of what is accepted
	Jti       string          `json:"jti,omitempty"`
}

var profiles = map[string]*Profile{"own": Own, "own-jwt": OwnJWT, "external": External}

func (v vector) check(t *testing.T) *Check {
	t.Helper()
	keys, err := ReadSet(v.Keys)
	if (err != nil) != v.BadSet {
		t.Fatalf("the key set: %v, refused is %v", err, v.BadSet)
	}
	return &Check{
		Profile: profiles[v.Profile], Issuer: v.Issuer, Keys: keys, Audiences: v.Audiences, SingleAudience: v.Single,
		ExpSkew: time.Duration(v.Skew) * time.Second, Skew: time.Duration(v.Skew) * time.Second, MaxLife: time.Duration(v.MaxLife) * time.Second,
	}
}

func readMatrix(tb testing.TB) []vector {
	tb.Helper()
	data, err := os.ReadFile("testdata/matrix.json")
	if err != nil {
		tb.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(data, &out); err != nil {
		tb.Fatal(err)
	}
	return out
}

// Every row of the matrix has its verdict, and its reason.
func TestStrictnessMatrix(t *testing.T) {
	if *update {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetIndent("", " ")
		if err := e.Encode(buildMatrix(t)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/matrix.json", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range readMatrix(t) {
		t.Run(v.ID+" "+v.Profile+" "+v.What, func(t *testing.T) {
			check := v.check(t)
			start := time.Now()
			tok, err := check.Verify(time.Unix(v.Now, 0), v.Token+strings.Repeat(v.Pad, v.Times))
			if took := time.Since(start); v.Times > 0 && took > 100*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if v.Accept {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				if tok.Subject() != v.Sub || tok.ID() != v.Jti {
					t.Errorf("sub %q, jti %q, want %q, %q", tok.Subject(), tok.ID(), v.Sub, v.Jti)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if r := err.(*Error).Reason; r != v.Reason {
				t.Errorf("refused as %v, want %s", err, v.Reason)
			}
		})
	}
}

// No row is missing, and each is there for both profiles where the matrix asks both.
func TestMatrixIsWhole(t *testing.T) {
	have := map[string]bool{}
	for _, v := range readMatrix(t) {
		have[v.ID+strings.TrimSuffix(v.Profile, "-jwt")] = true
	}
	for n := 1; n <= 63; n++ {
		for _, p := range []string{"own", "external"} {
			id := "T" + string([]byte{byte('0' + n/10), byte('0' + n%10)})
			if id == "T51" && p == "own" { // PSS is no algorithm of own tokens
				continue
			}
			if !have[id+p] {
				t.Errorf("no vector of %s %s", id, p)
			}
		}
	}
	if !have["T29aown"] || !have["T29aexternal"] {
		t.Error("no vector of T29a")
	}
}

// object is a JSON object in writing order, each value as JSON.
type object []Member

func (o object) set(name, value string) object {
	o = slices.Clone(o)
	for i := range o {
		if o[i].Name == name {
			o[i].Value = value
			return o
		}
	}
	return append(o, Member{name, value})
}

func (o object) drop(name string) object {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool { return m.Name == name })
}

// before puts a member in front, whether or not there is one of that name.
func (o object) before(name, value string) object { return append(object{{name, value}}, o...) }

func (o object) after(name, value string) object {
	return append(slices.Clone(o), Member{name, value})
}

// String writes the object. Names are written as they are, so that they may hold escapes.
func (o object) String() string {
	var b strings.Builder
	sep := "{"
	for _, m := range o {
		b.WriteString(sep + `"` + m.Name + `":` + m.Value)
		sep = ","
	}
	if len(o) == 0 {
		b.WriteString("{")
	}
	return b.String() + "}"
}
