package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// table writes columns as cli.md 6 wants them: capitals in the header, two spaces between
// columns, text left, numbers right, no trailing blanks.
type table struct {
	head  []string
	right []bool
	rows  [][]string
	cut   int                               // columns of the terminal; 0: full values
	paint func(row []string, at int) string // colour of a cell ("" for none); may be nil
}

// newTable names the columns; a head that begins with ">" is a column of numbers.
func newTable(head ...string) *table {
	t := &table{}
	for _, h := range head {
		name, number := strings.CutPrefix(h, ">")
		t.head = append(t.head, name)
		t.right = append(t.right, number)
	}
	return t
}

// add appends a row; an empty cell is shown as "-".
func (t *table) add(cells ...string) {
	for i := range cells {
		if cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// widths are those of the columns, cut to the terminal.
func (t *table) widths() []int {
	w := make([]int, len(t.head))
	for i, h := range t.head {
		w[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i, cell := range row {
			w[i] = max(w[i], utf8.RuneCountInString(cell))
		}
	}
	if t.cut > 0 {
		t.narrow(w)
	}
	return w
}

// narrow takes from the widest text column until the table fits, or nothing is left to take.
func (t *table) narrow(w []int) {
	const least = 4
	total := 2 * (len(w) - 1)
	for _, n := range w {
		total += n
	}
	for ; total > t.cut; total-- {
		widest := -1
		for i := range w {
			if !t.right[i] && w[i] > least && (widest < 0 || w[i] > w[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		w[widest]--
	}
}

// write prints the header and all rows, and gives the count of lines.
func (t *table) write(w io.Writer) (int, error) {
	var b strings.Builder
	widths := t.widths()
	t.line(&b, t.head, widths, nil)
	for _, row := range t.rows {
		t.line(&b, row, widths, t.paint)
	}
	_, err := io.WriteString(w, b.String())
	return 1 + len(t.rows), err
}

func (t *table) line(b *strings.Builder, row []string, widths []int, paint func([]string, int) string) {
	blanks := 0
	for i, cell := range row {
		n := utf8.RuneCountInString(cell)
		if n > widths[i] {
			cell, n = cutAt(cell, widths[i]), widths[i]
		}
		pad := widths[i] - n
		if t.right[i] {
			blanks += pad
			pad = 0
		}
		b.WriteString(strings.Repeat(" ", blanks))
		if colour := colourOf(paint, row, i); colour != "" {
			cell = colour + cell + plain
		}
		b.WriteString(cell)
		blanks = pad + 2
	}
	b.WriteByte('\n')
}

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

func colourOf(paint func([]string, int) string, row []string, at int) string {
	if paint == nil {
		return ""
	}
	return paint(row, at)
}

// cutAt shortens s to n columns, the last of them "…".
func cutAt(s string, n int) string {
	end := mark("…")
	keep := max(0, n-utf8.RuneCountInString(end))
	runes := []rune(s)
	return string(runes[:min(keep, len(runes))]) + end
}

// lines is the height of a terminal; 24 if nobody knows.
func lines(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if _, n, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return n
		}
	}
	return 24
}

// columns is the width of the terminal that w is, or 0.
func columns(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			return n
		}
	}
	return 80
}

// tint is text in a colour, where w may be coloured.
func (e *env) tint(w io.Writer, colour, text string) string {
	if !e.colour(w) {
		return text
	}
	return colour + text + plain
}

// printTable writes t to stdout as wide as it is.
func (e *env) printTable(t *table) error {
	t.cut = columns(e.out)
	if !e.colour(e.out) {
		t.paint = nil
	}
	_, err := t.write(e.out)
	return err
}

// printJSON writes one document: indented on a terminal, compact in a pipe (cli.md 11.2).
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	if isTerminal(e.out) {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// ago is how long ago t was, as the age column shows it.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return age(time.Since(t))
}

// latency is a short duration with three digits at most: 0.05ms 0.9ms 12.4ms 1.2s.
func latency(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case d <= 0:
		return "-"
	case ms < 0.095:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 99.95:
		return fmt.Sprintf("%.1fms", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0fms", ms)
	case ms < 99_950:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%.0fs", d.Seconds())
}

// thousands is a number for people: 1,204.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size is a count of bytes in KiB, MiB or GiB.
func size(n int64) string {
	switch f := float64(n); {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", f/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", f/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", f/(1<<30))
	}
}

// counted is "1 node", "2 nodes".
func counted[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(uint64(n)) + " " + noun + "s"
}
