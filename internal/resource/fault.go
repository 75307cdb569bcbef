package resource

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How much a fault weighs. Any Error stops an apply.
const (
	Error   = "error"
	Warning = "warning"
	Notice  = "notice"
)

// Fault is one thing wrong with one place of one file. Codes: istio-semantics.md 11 and 14.
type Fault struct {
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Code     string `json:"code,omitempty"`
	Resource string `json:"resource,omitempty"` // Kind/namespace/name, as far as the document says it
	Field    string `json:"field,omitempty"`
	Text     string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	Severity string `json:"severity"`
}

// String has the form of cli.md 9.1, the hint on a second line.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d: ", f.File, f.Line, f.Column)
	}
	if f.Severity != Error && f.Severity != "" {
		b.WriteString(f.Severity + ": ")
	}
	if f.Resource != "" {
		b.WriteString(f.Resource + ": ")
	}
	// "metadata.name is missing" reads better than "metadata.name: is missing".
	if f.Field != "" && !strings.HasPrefix(f.Text, f.Field+" ") {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Text)
	if f.Code != "" {
		b.WriteString(" [" + f.Code + "]")
	}
	if f.Hint != "" {
		b.WriteString("\n\thint: " + strings.ReplaceAll(f.Hint, "\n", "\n\t"))
	}
	return b.String()
}

// Stops reports whether any of the faults is an error.
func Stops(faults []Fault) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool { return f.Severity == Error })
}

// faults collects at most maxFaults of each severity and counts the rest, so that a
// hostile batch cannot grow the answer.
type faults struct {
	list []Fault
	file []int // index of the file, to sort by
	seen map[string]int
}

// full reports whether another fault would only be counted: its place and hint need not be
// looked for, which matters where a document is nothing but faults.
func (fs *faults) full(severity string) bool { return fs.seen[severity] >= maxFaults }

func (fs *faults) add(file int, f Fault) {
	if f.Severity == "" {
		f.Severity = Error
	}
	if fs.seen == nil {
		fs.seen = make(map[string]int)
	}
	fs.seen[f.Severity]++
	if fs.seen[f.Severity] > maxFaults {
		return
	}
	fs.list = append(fs.list, f)
	fs.file = append(fs.file, file)
}

// sorted gives the faults in the order of files and lines, then the counts of what was left out.
func (fs *faults) sorted() []Fault {
	order := make([]int, len(fs.list))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := fs.list[i], fs.list[j]
		return cmp.Or(cmp.Compare(fs.file[i], fs.file[j]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var out []Fault
	for _, i := range order {
		out = append(out, fs.list[i])
	}
	for _, severity := range []string{Error, Warning, Notice} {
		if more := fs.seen[severity] - maxFaults; more > 0 {
			out = append(out, Fault{Text: fmt.Sprintf("and %d more", more), Severity: severity})
		}
	}
	return out
}

// quote shows a value of somebody's file: one line, printable, of bounded length.
func quote(s string) string {
	const most = 80
	s = hideKeys(s)
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.Quote(s[:cut] + "…")
	}
	return strconv.Quote(s)
}

// printable reports whether a name can stand in a fault unquoted.
func printable(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

// nearest is the word of words within edit distance 2, or a third of its length (cli.md 9.1).
func nearest(s string, words []string) string {
	best, bestDistance := "", 1<<30
	if len(s) > 128 {
		return ""
	}
	for _, w := range words {
		limit := max(2, len(w)/3)
		if len(w) <= 3 {
			limit = 1 // of a word of three letters two wrong ones leave nothing
		}
		if abs(len(w)-len(s)) > limit {
			continue
		}
		if d := distance(s, w); d <= limit && d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// distance is Levenshtein's, without case for the price of nothing: "strict" is near STRICT.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// didYouMean is the hint for an unknown word: the nearest, else the list if it is short.
func didYouMean(s string, words []string) string {
	if near := nearest(s, words); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if n := len(words); n > 0 && n <= 8 {
		return "one of " + strings.Join(words, ", ")
	}
	return ""
}
