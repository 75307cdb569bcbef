package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/jose"
)

type jwtOptions struct {
	jwks, issuer, audience, typ, at string
	signatureOnly                   bool
}

func jwtVerifyCommand() *command {
	var o jwtOptions
	return &command{
		name:    "jwt verify",
		summary: "Judge any JWT by a key set, offline: one token a line, one verdict a line.",
		examples: []string{
			"countersign jwt verify --jwks keys.json --issuer https://login.example --audience api < tokens",
			"countersign jwt verify --jwks keys.json --typ at+jwt --json < tokens",
			"countersign jwt verify --jwks keys.json --signature-only < jws",
		},
		usage: "--jwks FILE [flags] < TOKENS",
		about: `A check whose flag is absent is left out; exp and the form of the token never
are. The verdict of a refused token names the rule it failed. Exit 1 if any
line is refused. Lines "Authorization: Bearer TOKEN" are taken too.`,
		flags: func(f *flags) {
			f.text(&o.jwks, "jwks", "FILE", "the keys, a JWK Set")
			f.text(&o.issuer, "issuer", "I", "iss must be I")
			f.text(&o.audience, "audience", "A", "aud must be A, or hold it")
			f.text(&o.typ, "typ", "T", "at+jwt and others have rules of their own  [absent, JWT, at+jwt]")
			f.text(&o.at, "at", "TIME", "judge as of TIME, RFC 3339 or Unix seconds  [now]")
			f.yes(&o.signatureOnly, "signature-only", "do not read the payload, which need be no JSON")
		},
		see: "countersign jwt inspect, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.jwtVerify(o)
		},
	}
}

// verdict is what became of one line.
type verdict struct {
	Line    int       `json:"line"`
	OK      bool      `json:"ok"`
	Reason  string    `json:"reason,omitempty"`
	Text    string    `json:"text,omitempty"`
	Issuer  string    `json:"iss,omitempty"`
	Subject string    `json:"sub,omitempty"`
	Typ     string    `json:"typ,omitempty"`
	Alg     string    `json:"alg,omitempty"`
	KeyID   string    `json:"kid,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

func (e *env) jwtVerify(o jwtOptions) error {
	if o.jwks == "" {
		return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "jwt verify needs --jwks FILE", Hints: []string{"countersign jwt verify --jwks keys.json < tokens"}}
	}
	check := jose.Check{Profile: jose.External, Issuer: o.issuer}
	if o.audience != "" {
		check.Audiences = []string{o.audience}
	}
	if o.typ != "" {
		check.Profile, check.Typ = jose.ProfileFor(o.typ), o.typ
		if check.Profile == nil {
			return usage(fmt.Sprintf("--typ %q is no type that is read", o.typ), "countersign jwt verify --jwks keys.json --typ at+jwt")
		}
	}
	at, err := o.now()
	if err != nil {
		return err
	}
	text, err := readLimited(o.jwks)
	if err != nil {
		return err
	}
	var noKeys error
	if check.Keys, noKeys = jose.ReadSet(text); noKeys != nil {
		e.say("note: the key set is refused: %s", escape(noKeys.Error()))
	}
	bad := 0
	err = e.eachToken(func(line int, raw string) error {
		v := judge(&check, at(), raw, o.signatureOnly)
		if v.Line = line; !v.OK {
			bad++
		}
		return e.printVerdict(v, at())
	})
	if err == nil && bad > 0 {
		return exit(exitFailed)
	}
	return err
}

func judge(c *jose.Check, now time.Time, raw string, signatureOnly bool) verdict {
	var t *jose.Token
	var err error
	if signatureOnly {
		err = jose.VerifySignature(c.Keys, raw)
	} else {
		t, err = c.Verify(now, raw)
	}
	if why, ok := errors.AsType[*jose.Error](err); ok {
		return verdict{Reason: string(why.Reason), Text: why.Text}
	}
	if err != nil {
		return verdict{Reason: string(jose.Format)}
	}
	v := verdict{OK: true}
	if t != nil {
		v.Issuer, v.Subject, v.Typ, v.Alg, v.KeyID = t.Issuer(), t.Subject(), t.Typ(), string(t.Alg()), t.KeyID()
		v.Expires = time.Unix(t.Expires(), 0).UTC()
	}
	return v
}

// now is the moment that tokens are judged at.
func (o jwtOptions) now() (func() time.Time, error) {
	if o.at == "" {
		return time.Now, nil
	}
	if n, err := strconv.ParseInt(o.at, 10, 64); err == nil {
		return func() time.Time { return time.Unix(n, 0) }, nil
	}
	t, err := time.Parse(time.RFC3339, o.at)
	if err != nil {
		return nil, usage(fmt.Sprintf("--at %q is no time", o.at), "countersign jwt verify --jwks keys.json --at 2026-11-21T20:14:07Z")
	}
	return func() time.Time { return t }, nil
}

// readLimited reads a key set: at most 1 MiB counts as one (tokens.md 10.3).
func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, &admin.Problem{Code: "file_not_found", Message: "reading " + name + ": " + reason(err)}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20+1))
	if err != nil {
		return nil, &admin.Problem{Code: "failed", Message: "reading " + name + ": " + reason(err)}
	}
	return text, nil
}

// printVerdict is one line of stdout.
func (e *env) printVerdict(v verdict, now time.Time) error {
	if e.json {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(e.out, string(b))
		return err
	}
	if !v.OK {
		line := "invalid  " + v.Reason
		if v.Text != "" {
			line += ": " + stranger(v.Text)
		}
		_, err := fmt.Fprintln(e.out, line)
		return err
	}
	line := "valid"
	if v.Subject != "" {
		line += "    " + stranger(v.Subject)
	}
	if v.Alg != "" {
		line += "   " + strings.TrimSpace(stranger(v.Typ)+" "+v.Alg) + "   ends in " + age(v.Expires.Sub(now))
	}
	_, err := fmt.Fprintln(e.out, line)
	return err
}

// maxTokenLine is how much of a line is kept: a token that long is refused for its size.
const maxTokenLine = 64 << 10

// eachToken reads stdin, a token a line; the prefix of a whole header line is left out. Only
// the line feed ends a line: what else stands there is of the token.
func (e *env) eachToken(use func(line int, raw string) error) error {
	if f, ok := e.in.(*os.File); ok && isTerminal(f) {
		e.say("paste tokens, one a line; Ctrl-D ends")
	}
	r := bufio.NewReaderSize(e.in, maxTokenLine)
	for n := 1; ; n++ {
		text, err := r.ReadSlice('\n')
		line := string(bytes.TrimSuffix(text, []byte("\n")))
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading tokens: %w", err)
		}
		if err == nil || line != "" {
			line = strings.TrimPrefix(line, "Authorization: ")
			if use := use(n, strings.TrimPrefix(line, "Bearer ")); use != nil {
				return use
			}
		}
		if err != nil {
			return nil
		}
	}
}

func jwtInspectCommand() *command {
	return &command{
		name:     "jwt inspect",
		summary:  "Show what a JWT says, without judging it.",
		examples: []string{"countersign jwt inspect < token", "countersign jwt inspect --json < token"},
		usage:    "[flags] < TOKEN",
		about: `Nothing of it is checked: anybody can write a token that says anything. Several
tokens, one a line, are shown one after the other.`,
		see: "countersign jwt verify, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.eachToken(func(_ int, raw string) error { return e.inspect(raw) })
		},
	}
}

func (e *env) inspect(raw string) error {
	u, err := jose.Inspect(raw)
	if err != nil {
		return &admin.Problem{Code: "token_invalid", Message: "reading a token: " + err.Error()}
	}
	if e.json {
		return e.printJSON(map[string]any{"checked": false, "header": members(u.Header), "claims": members(u.Claims)})
	}
	head := strings.TrimSpace(stranger(u.Typ) + " " + stranger(u.Alg))
	if u.KeyID != "" {
		head += ", key " + shortID(stranger(u.KeyID))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, not checked\n", strings.TrimPrefix(head, ", "))
	for _, m := range u.Claims {
		fmt.Fprintf(&b, "  %-4s %s\n", stranger(m.Name), claimText(m, time.Now()))
	}
	_, err = io.WriteString(e.out, b.String())
	return err
}

// members keeps the order and the doubles of what a token says.
func members(list []jose.Member) []any {
	out := []any{}
	for _, m := range list {
		out = append(out, map[string]any{"name": m.Name, "value": json.RawMessage(m.Value)})
	}
	return out
}

// claimText is a claim for people: times as times, text without quotes, the binding in words.
func claimText(m jose.Member, now time.Time) string {
	var text string
	if json.Unmarshal([]byte(m.Value), &text) == nil {
		return stranger(text)
	}
	switch m.Name {
	case "exp", "iat", "nbf", "auth_time":
		var n float64
		if json.Unmarshal([]byte(m.Value), &n) == nil && n >= 0 && n < 1<<40 {
			at := time.Unix(int64(n), 0)
			return at.UTC().Format(time.RFC3339) + ", " + fromNow(at, now)
		}
	case "cnf":
		var cnf map[string]string
		if json.Unmarshal([]byte(m.Value), &cnf) == nil && len(cnf) == 1 {
			for kind, v := range cnf {
				return stranger(kind + " " + shortSPIFFE(v))
			}
		}
	}
	return stranger(m.Value)
}

func fromNow(at, now time.Time) string {
	if d := at.Sub(now); d > 0 {
		return "in " + age(d)
	}
	return age(now.Sub(at)) + " ago"
}

// shortID is the beginning of a long identifier.
func shortID(s string) string {
	if len(s) <= 6 {
		return s
	}
	return s[:4] + "…"
}

// shortSPIFFE is a SPIFFE ID by its end, where its trust domain is beside the point.
func shortSPIFFE(id string) string {
	if i := strings.LastIndex(id, "/sa/"); i >= 0 && strings.HasPrefix(id, "spiffe://") {
		return "…" + id[i:]
	}
	return id
}
