package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign.dev/internal/jose"
)

// vector is a row of the strictness matrix (tokens.md 22), as far as flags can say it.
type vector struct {
	ID        string          `json:"id"`
	What      string          `json:"what"`
	Profile   string          `json:"profile"`
	Keys      json.RawMessage `json:"keys"`
	Issuer    string          `json:"issuer"`
	Audiences []string        `json:"audiences"`
	Single    bool            `json:"singleAudience"`
	Skew      int64           `json:"clockSkew"`
	MaxLife   int64           `json:"maxLifetime"`
	Now       int64           `json:"now"`
	Token     string          `json:"token"`
	Pad       string          `json:"pad"`
	Times     int             `json:"times"`
	Accept    bool            `json:"accept"`
	Reason    string          `json:"reason"`
}

// jwtVerify runs jwt verify --json on what is typed and gives its verdicts.
func jwtVerify(t *testing.T, stdin string, args ...string) (verdicts []verdict, status int, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), append([]string{"jwt", "verify", "--json"}, args...), strings.NewReader(stdin), &out, &errs)
	for line := range strings.Lines(out.String()) {
		var v verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, status, errs.String()
}

// TestStrictnessMatrixByCommand holds that the command gives every row the verdict and reason
// that the package gives it.
func TestStrictnessMatrixByCommand(t *testing.T) {
	data, err := os.ReadFile("../../internal/jose/testdata/matrix.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []vector
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	ran, beyond := 0, 0
	for _, v := range rows {
		if v.Single || v.Skew != 0 || v.MaxLife != 0 || v.Profile == "own-jwt" {
			beyond++ // what the record of an issuer or an audience says, and no flag
			continue
		}
		ran++
		t.Run(v.ID+" "+v.Profile+" "+v.What, func(t *testing.T) {
			keys := filepath.Join(t.TempDir(), "keys.json")
			if err := os.WriteFile(keys, v.Keys, 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"--jwks", keys, "--issuer", v.Issuer, "--at", fmt.Sprint(v.Now)}
			if len(v.Audiences) == 1 {
				args = append(args, "--audience", v.Audiences[0])
			}
			if v.Profile == "own" {
				args = append(args, "--typ", "at+jwt")
			}
			token := v.Token + strings.Repeat(v.Pad, v.Times)
			got, status, _ := jwtVerify(t, token+"\n", args...)
			want := 1
			if v.Accept {
				want = 0
			}
			if status != want {
				t.Errorf("status %d, want %d: %+v", status, want, got)
			}
			if strings.Contains(token, "\n") { // several lines then, one of which is refused
				return
			}
			if len(got) != 1 || got[0].Line != 1 || got[0].OK != v.Accept || got[0].Reason != v.Reason {
				t.Errorf("%+v, want %v %q", got, v.Accept, v.Reason)
			}
		})
	}
	if ran < 150 || beyond > 20 {
		t.Errorf("%d rows ran, %d say what no flag says", ran, beyond)
	}
}

// goodToken is the first accepted row of the matrix, and the flags that accept it.
func goodToken(t *testing.T) (token string, args []string) {
	t.Helper()
	data, err := os.ReadFile("../../internal/jose/testdata/matrix.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []vector
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	for _, v := range rows {
		if v.Accept && v.Profile == "external" {
			keys := filepath.Join(t.TempDir(), "keys.json")
			if err := os.WriteFile(keys, v.Keys, 0o600); err != nil {
				t.Fatal(err)
			}
			return v.Token, []string{"--jwks", keys, "--at", fmt.Sprint(v.Now)}
		}
	}
	t.Fatal("no row is accepted")
	return "", nil
}

func TestJWTVerifyHostileInput(t *testing.T) {
	good, args := goodToken(t)
	for _, test := range []struct {
		name, stdin string
		want        string // ok, or the reason, of each line
	}{
		{"one line", good + "\n", "ok"},
		{"no line feed at the end", good, "ok"},
		{"a header line", headerLine + good + "\n", "ok"},
		{"half a header line", "Bearer " + good + "\n", "charset"},
		{"an empty line between", good + "\n\n" + good + "\n", "ok size ok"},
		{"an empty line alone", "\n", "size"},
		{"carriage returns", good + "\r\n" + good + "\r\n", "charset charset"},
		{"NUL", "\x00\n" + good + "\x00\n" + good + "\n", "charset charset ok"},
		{"blank before", " " + good + "\n", "charset"},
		{"10 MB in a line", strings.Repeat("a", 10<<20) + "\n" + good + "\n", "size ok"},
		{"10 MB of dots", strings.Repeat(".", 10<<20) + "\n" + good + "\n", "size ok"},
		{"10 MB without end", good + "\n" + strings.Repeat("e", 10<<20), "ok size"},
		{"a token and 64 KiB", good + strings.Repeat("a", maxTokenLine) + "\n" + good, "size ok"},
		{"JSON", `{"payload":"e30"}` + "\n", "charset"},
		{"bytes", "\xff\xfe\n" + good, "charset ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, status, errs := jwtVerify(t, test.stdin, args...)
			var said []string
			for i, v := range got {
				if v.Line != i+1 {
					t.Errorf("line %d is called %d", i+1, v.Line)
				}
				if v.OK {
					said = append(said, "ok")
				} else {
					said = append(said, v.Reason)
				}
			}
			wanted := 0
			if strings.Trim(test.want, "ok ") != "" {
				wanted = 1
			}
			if s := strings.Join(said, " "); s != test.want || status != wanted || errs != "" {
				t.Errorf("%s, status %d, stderr %q; want %s, %d", s, status, errs, test.want, wanted)
			}
		})
	}
}

// TestNoTokensAreNotGood holds that a check of nothing fails: a file that is missing must not
// pass for good tokens.
func TestNoTokensAreNotGood(t *testing.T) {
	_, args := goodToken(t)
	if got, status, errs := jwtVerify(t, "", args...); status != 1 || len(got) != 0 || !strings.Contains(errs, `"code":"no_token"`) {
		t.Errorf("%v, status %d, %s", got, status, errs)
	}
}

// TestEmptyFlagsCheckNothing holds that a variable of a shell that is not set takes no check away.
func TestEmptyFlagsCheckNothing(t *testing.T) {
	good, args := goodToken(t)
	for _, flag := range []string{"--issuer", "--audience", "--typ", "--at"} {
		given := args[:2]
		if got, status, errs := jwtVerify(t, good, append(given[:2:2], flag, "")...); status != 2 || len(got) != 0 || !strings.Contains(errs, flag+" of jwt verify is empty") {
			t.Errorf("%s: %v, status %d, %s", flag, got, status, errs)
		}
	}
}

// TestCoprocess holds that each verdict is told before the next line is asked for (cli.md 11.2).
func TestCoprocess(t *testing.T) {
	good, args := goodToken(t)
	in, type1 := io.Pipe()
	read, out := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), append([]string{"jwt", "verify", "--json"}, args...), in, out, io.Discard)
		out.Close()
	}()
	answers := bufio.NewReader(read)
	for _, line := range []string{good, "x", good} {
		if _, err := io.WriteString(type1, line+"\n"); err != nil {
			t.Fatal(err)
		}
		got, err := answers.ReadString('\n')
		if err != nil || strings.Contains(got, `"ok":true`) != (line == good) {
			t.Fatalf("%q: %v", got, err)
		}
	}
	type1.Close()
	if status := <-done; status != 1 {
		t.Errorf("status %d", status)
	}
}

// TestFarEnd holds that an end beyond the years of RFC 3339 stops nobody's verdict.
func TestFarEnd(t *testing.T) {
	dir := t.TempDir()
	file, keys := filepath.Join(dir, "k"), filepath.Join(dir, "keys.json")
	if err := actAsIssuer("key", file, nil); err != nil {
		t.Fatal(err)
	}
	signer, err := issuerOf(file)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{signer.Key()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys, set, 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign(jose.TypJWT, map[string]any{"sub": "a", "exp": int64(1) << 52})
	if err != nil {
		t.Fatal(err)
	}
	got, status, errs := jwtVerify(t, token, "--jwks", keys)
	if status != 0 || len(got) != 1 || !got[0].OK || got[0].Expires != "" {
		t.Errorf("%+v, status %d, %s", got, status, errs)
	}
}

// TestInspectKeepsTheTerminal holds that what a token says moves no cursor and forges no line,
// in text and in JSON.
func TestInspectKeepsTheTerminal(t *testing.T) {
	token := encode(`{"alg":"none","typ":"a\u001b[2J"}`) + "." + encode("{\"sub\":\"x\\r\\nvalid    root\\u202e\u202e\u009b\",\"sub\":1,\"\\u0007\":[\"\\u001b\"]}") + "."
	for _, args := range [][]string{{"jwt", "inspect"}, {"jwt", "inspect", "--json"}} {
		var out, errs bytes.Buffer
		status := run(t.Context(), args, strings.NewReader(token+"\n"), &out, &errs)
		if status != 0 || errs.Len() > 0 || strings.ContainsAny(strings.ReplaceAll(out.String(), "\n", ""), "\x1b\x07\r\u202e\u009b") {
			t.Errorf("%v: status %d, stdout %q, stderr %q", args, status, out.String(), errs.String())
		}
		if len(args) == 3 && (!json.Valid(out.Bytes()) || strings.Count(out.String(), `"sub":`) != 2) {
			t.Errorf("%q is no JSON that says all", out.String())
		}
	}
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
