package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/resource"
)

// report says what went wrong, once and last, and gives the exit status (cli.md 9).
func (e *env) report(err error) int {
	var code exit
	var p *admin.Problem
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, syscall.EPIPE):
		return 0 // | head
	case errors.As(err, &p):
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitSignal + int(syscall.SIGINT)
	case errors.Is(err, context.DeadlineExceeded):
		p = &admin.Problem{Code: "timeout", Message: "no answer within " + spoken(e.timeout), Hints: []string{"countersign status"}}
	default:
		p = &admin.Problem{Code: "failed", Message: err.Error()}
	}
	status := p.Exit
	if status == 0 {
		status = exitFailed
	}
	if e.json {
		e.reportJSON(p)
		return status
	}
	e.printProblem(e.err, p)
	return status
}

// problemJSON is an error in the shape of cli.md 11.4.
type problemJSON struct {
	Code    string           `json:"code"`
	Message string           `json:"message"`
	Details admin.Details    `json:"details,omitempty"`
	Hints   []string         `json:"hints,omitempty"`
	Faults  []resource.Fault `json:"faults,omitempty"`
}

func (e *env) reportJSON(p *admin.Problem) {
	enc := json.NewEncoder(e.err)
	enc.SetEscapeHTML(false)
	enc.Encode(map[string]problemJSON{"error": {p.Code, p.Message, p.Details, p.Hints, p.Faults}})
}

// printProblem writes faults, the error, its details and its hints. In run every line of
// ours starts with "countersign: ", because the program writes there too.
func (e *env) printProblem(w io.Writer, p *admin.Problem) {
	prefix := ""
	if e.cmd != nil && e.cmd.name == "run" && p.Code != "usage" && p.Code != "unknown_flag" {
		prefix = "countersign: "
	}
	red, plain := "", ""
	if e.colour(w) {
		red, plain = "\x1b[31m", "\x1b[0m"
	}
	for _, f := range p.Faults {
		fmt.Fprintln(w, f.String())
	}
	if p.More > 0 {
		fmt.Fprintf(w, "and %d more\n", p.More)
	}
	fmt.Fprintf(w, "%s%serror:%s %s\n", prefix, red, plain, escape(p.Message))
	for _, d := range p.Details {
		v, ok := d.Value.(string)
		if !ok {
			if list, isList := d.Value.([]string); isList {
				v = strings.Join(list, ", ")
			}
		}
		fmt.Fprintf(w, "%s  %-8s %s\n", prefix, d.Label, escape(v))
	}
	for _, h := range p.Hints {
		fmt.Fprintf(w, "%shint: %s\n", prefix, h)
	}
}

// escape keeps what strangers wrote from moving the cursor, hiding a line or forging one
// (cli.md 6): controls, escapes, bidi marks and invalid bytes become \x1b-style text.
func escape(s string) string {
	const most = 256
	var b strings.Builder
	for i, r := range s {
		if b.Len() >= most*4 {
			b.WriteString("…")
			break
		}
		switch {
		case r == '\uFFFD' && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r < 0x20 && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r == 0x061c, r == 0xfeff, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// stranger is escape with the limit of 256 bytes for what a caller sent.
func stranger(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return escape(s)
}

// nearest is the known word within an edit distance of a third of the word's length: one
// letter of a short word, so that "key" is not taken for "why".
func nearest(word string, known []string) string {
	best, at := "", 1+len(word)/3
	for _, k := range known {
		if d := distance(word, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance counts letters put in, left out, changed, and neighbours swapped.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// unicode reports whether marks may be drawn, or must be ASCII.
func unicodeOK() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToUpper(v)
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return true
}

// mark gives → ✓ ✗ or their ASCII twins.
func mark(s string) string {
	if unicodeOK() {
		return s
	}
	return map[string]string{"→": "->", "✓": "ok", "✗": "x", "…": "..."}[s]
}
