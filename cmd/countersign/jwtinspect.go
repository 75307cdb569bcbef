package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/jose"
)

func jwtInspectCommand() *command {
	return &command{
		name:     "jwt inspect",
		summary:  "Show what a JWT says, without judging it.",
		examples: []string{"countersign jwt inspect < token", "countersign jwt inspect --json < token"},
		usage:    "[flags] < TOKEN",
		about: `Nothing of it is checked: anybody can write a token that says anything. Several
tokens, one a line, are shown one after the other. Exit 1 if a line is no token.`,
		see: "countersign jwt verify, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.jwtInspect(ctx)
		},
	}
}

// jwtInspect shows what can be read, and says at the end what could not.
func (e *env) jwtInspect(ctx context.Context) error {
	const most = 10
	var bad admin.Details
	lines, garbage := 0, 0
	err := e.eachToken(ctx, e.in, "stdin", func(l tokenLine) error {
		lines++
		u, err := jose.Inspect(l.token)
		if err != nil {
			if garbage++; garbage <= most {
				bad = append(bad, admin.Detail{Label: fmt.Sprintf("line %d", l.number), Value: err.Error()})
			}
			return nil
		}
		return e.inspected(l.number, u)
	})
	if err != nil || garbage == 0 {
		return err
	}
	p := &admin.Problem{Code: "token_invalid", Message: fmt.Sprintf("reading tokens: %d of %d are none", garbage, lines), Details: bad}
	if lines == 1 {
		p.Message, p.Details = "reading a token: "+fmt.Sprint(bad[0].Value), nil
	}
	return p
}

func (e *env) inspected(line int, u *jose.Unchecked) error {
	if e.json {
		return e.printLine(struct {
			Line    int             `json:"line"`
			Checked bool            `json:"checked"`
			Header  json.RawMessage `json:"header"`
			Claims  json.RawMessage `json:"claims"`
		}{line, false, object(u.Header), object(u.Claims)})
	}
	head := strings.TrimSpace(stranger(u.Typ) + " " + stranger(u.Alg))
	if u.KeyID != "" {
		head += ", key " + shortID(stranger(u.KeyID))
	}
	if u.Signature == 0 {
		head += ", no signature"
	}
	rows := [][2]string{}
	for _, m := range u.Header {
		if m.Name != "typ" && m.Name != "alg" && m.Name != "kid" {
			rows = append(rows, [2]string{"header " + stranger(m.Name), claimText(m, time.Now())})
		}
	}
	for _, m := range u.Claims {
		rows = append(rows, [2]string{stranger(m.Name), claimText(m, time.Now())})
	}
	const widest = 16
	width := 0
	for _, r := range rows {
		width = max(width, min(utf8.RuneCountInString(r[0]), widest))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, not checked\n", strings.TrimPrefix(head, ", "))
	for _, r := range rows {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, r[0], r[1])
	}
	_, err := io.WriteString(e.out, b.String())
	return err
}

// object keeps the order and the doubles of what a token says.
func object(list []jose.Member) json.RawMessage {
	var b strings.Builder
	sep := "{"
	for _, m := range list {
		name, err := json.Marshal(m.Name)
		if err != nil {
			name = []byte(`""`)
		}
		b.WriteString(sep + string(name) + ":" + m.Value)
		sep = ","
	}
	if len(list) == 0 {
		b.WriteString(sep)
	}
	return json.RawMessage(b.String() + "}")
}

// claimText is a claim for people: times as times, text without quotes, the binding in words.
func claimText(m jose.Member, now time.Time) string {
	var text string
	if json.Unmarshal([]byte(m.Value), &text) == nil && m.Value[0] == '"' {
		return stranger(text)
	}
	var list []string
	if json.Unmarshal([]byte(m.Value), &list) == nil && len(list) > 0 {
		return stranger(strings.Join(list, ", "))
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
