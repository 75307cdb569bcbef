package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
		summary: "Judge any JWT by a key set, offline.",
		examples: []string{
			"countersign jwt verify --jwks keys.json --issuer https://id.example < tokens",
			"countersign jwt verify --jwks keys.json --typ at+jwt --json < tokens",
			"countersign jwt verify --jwks keys.json --signature-only < jws",
		},
		usage: "--jwks FILE [flags] < TOKENS",
		about: `One token a line, one verdict a line, with the rule that a refused one failed.
A check whose flag is absent is left out; exp and the form of the token never
are. Lines "Authorization: Bearer TOKEN" are taken too. Exit 1 if any line is
refused.`,
		flags: func(f *flags) {
			f.text(&o.jwks, "jwks", "FILE", "the keys, a JWK Set")
			f.text(&o.issuer, "issuer", "I", "iss must be I")
			f.text(&o.audience, "audience", "A", "aud must be A, or hold it")
			f.text(&o.typ, "typ", "T", "typ must be T; at+jwt and others have rules of their own")
			f.text(&o.at, "at", "TIME", "judge as of TIME: RFC 3339, or 2h for 2 hours ago  [now]")
			f.yes(&o.signatureOnly, "signature-only", "do not read the payload, which need be no JSON")
		},
		see: "countersign jwt inspect, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.jwtVerify(ctx, o)
		},
	}
}

// verdict is what became of one line (cli.md 11.3). Of a refused one only why is said.
type verdict struct {
	Line     int      `json:"line"`
	OK       bool     `json:"ok"`
	Reason   string   `json:"reason,omitempty"` // tokens.md 12.1
	Text     string   `json:"text,omitempty"`
	KeyID    string   `json:"kid,omitempty"`
	Typ      string   `json:"typ,omitempty"`
	Alg      string   `json:"alg,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	Audience []string `json:"audience,omitempty"`
	Expires  string   `json:"expires,omitempty"`
	Binding  string   `json:"binding,omitempty"`
	Actors   []string `json:"actors,omitempty"` // outermost first
	Scopes   []string `json:"scopes,omitempty"`

	ends time.Time
}

func (e *env) jwtVerify(ctx context.Context, o jwtOptions) error {
	check, err := e.jwtCheck(o)
	if err != nil {
		return err
	}
	clock := time.Now
	if o.at != "" {
		at, ok := instant(o.at, time.Now())
		if !ok {
			return usage(fmt.Sprintf("--at %q is no time", o.at), "countersign jwt verify --jwks keys.json --at 2026-11-21T20:14:07Z")
		}
		clock = func() time.Time { return at }
	}
	text, err := readLimited(o.jwks)
	if err != nil {
		return err
	}
	var noKeys error
	if check.Keys, noKeys = jose.ReadSet(text); noKeys != nil {
		e.say("warning: the key set in %s is refused, and so is every token: %s", escape(o.jwks), stranger(noKeys.Error()))
	}
	bad := false
	err = e.eachToken(ctx, e.in, "stdin", func(l tokenLine) error {
		now := clock()
		v := judge(check, now, l.token, o.signatureOnly)
		v.Line = l.number
		bad = bad || !v.OK
		return e.printVerdict(v, now)
	})
	if err == nil && bad {
		return exit(exitFailed)
	}
	return err
}

// jwtCheck is what the flags ask of a token.
func (e *env) jwtCheck(o jwtOptions) (*jose.Check, error) {
	const way = "countersign jwt verify --jwks keys.json"
	switch {
	case o.jwks == "":
		return nil, &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "jwt verify needs --jwks FILE", Hints: []string{way + " < tokens"}}
	case o.jwks == "-":
		return nil, usage("--jwks - and the tokens cannot both be stdin", way+" < tokens")
	case o.signatureOnly && (o.issuer != "" || o.audience != "" || o.typ != ""):
		return nil, usage("--signature-only reads no claim: --issuer, --audience and --typ go without it", way+" --signature-only < jws")
	}
	if err := e.notEmpty(map[string]string{"issuer": o.issuer, "audience": o.audience, "typ": o.typ, "at": o.at}); err != nil {
		return nil, err
	}
	c := &jose.Check{Profile: jose.External, Issuer: o.issuer}
	if o.audience != "" {
		c.Audiences = []string{o.audience}
	}
	if o.typ != "" {
		if c.Profile, c.Typ = jose.ProfileFor(o.typ), o.typ; c.Profile == nil {
			return nil, usage(fmt.Sprintf("--typ %q is no type that is read", o.typ), way+" --typ at+jwt")
		}
	}
	return c, nil
}

func judge(c *jose.Check, now time.Time, raw string, signatureOnly bool) verdict {
	var t *jose.Token
	var err error
	if signatureOnly {
		err = jose.VerifySignature(c.Keys, raw)
	} else {
		t, err = c.Verify(now, raw)
	}
	switch why, ok := errors.AsType[*jose.Error](err); {
	case ok && why.Reason == jose.Charset && strings.HasSuffix(raw, "\r"):
		return verdict{Reason: string(why.Reason), Text: "the line ends with a carriage return"}
	case ok:
		return verdict{Reason: string(why.Reason), Text: why.Text}
	case err != nil:
		return verdict{Reason: string(jose.Format)}
	case t == nil:
		return verdict{OK: true}
	}
	v := verdict{OK: true, KeyID: t.KeyID(), Typ: t.Typ(), Alg: string(t.Alg()), Subject: t.Subject(), Issuer: t.Issuer(), Audience: t.Audience()}
	v.until(time.Unix(t.Expires(), 0))
	return v
}

// until sets the end; RFC 3339 knows no year after 9999.
func (v *verdict) until(end time.Time) {
	if v.ends = end.UTC(); v.ends.Year() < 10000 {
		v.Expires = v.ends.Format(time.RFC3339)
	}
}

// maxSetFile is the longest file of keys that is read, and one byte more: it is refused for it.
const maxSetFile = 1<<20 + 1

// readLimited reads a key set: at most 1 MiB counts as one (tokens.md 10.3).
func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, notRead(name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSetFile))
	if err != nil {
		return nil, notRead(name, err)
	}
	return text, nil
}

// printVerdict is one line of stdout.
func (e *env) printVerdict(v verdict, now time.Time) error {
	if e.json {
		return e.printLine(v)
	}
	if !v.OK {
		line := "invalid  " + v.Reason
		if text := strings.TrimPrefix(v.Text, v.Reason+" "); text != "" {
			line += ": " + stranger(text)
		}
		_, err := fmt.Fprintln(e.out, line)
		return err
	}
	line := "valid"
	if v.Subject != "" {
		line += "    " + stranger(v.Subject)
	}
	if v.Alg != "" {
		line += "   " + strings.TrimSpace(stranger(v.Typ)+" "+v.Alg) + "   ends in " + age(v.ends.Sub(now))
	}
	_, err := fmt.Fprintln(e.out, line)
	return err
}

// printLine is one object of a stream: compact, also on a terminal (cli.md 11.2). What could
// move a cursor is written as \u escapes.
func (e *env) printLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.out, visible(string(b)))
	return err
}

// visible is JSON text in which controls and bidi marks are escaped: beyond ASCII they stand in
// strings alone.
func visible(text string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\ufffd") {
		if r > 0x7e && escape(string(r)) != string(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
