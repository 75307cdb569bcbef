package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
)

// chunk is the bytes of one document and its first line in the file.
type chunk struct {
	data []byte
	line int
}

// split cuts a file at the lines that start with --- or ... . Such a line ends a document
// even within a quoted or block scalar (YAML 1.2, section 9.1), so no parser is needed, and
// one broken document does not hide the faults of the next.
func split(data []byte) []chunk {
	var out []chunk
	start, line, first := 0, 1, 1
	for at := 0; at < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		switch {
		case marker(data[at:end], "---"):
			out = append(out, chunk{data[start:at], first})
			start, first = at, line
		case marker(data[at:end], "..."):
			out = append(out, chunk{data[start:at], first})
			start, first = end, line+1
		}
		at = end
		line++
	}
	return append(out, chunk{data[start:], first})
}

func marker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// empty reports whether nothing but blanks and comments stands in a document.
func (c chunk) empty() bool {
	for line := range bytes.Lines(c.data) {
		if marker(line, "---") {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// document is one parsed document: its JSON, which decides, and its node tree, which only
// says where things stand.
type document struct {
	root  *yaml.Node
	value any
	line  int // lines of the file before the document
}

// flaw is a fault of a whole document, before anything is known of its object.
type flaw struct {
	line, col        int
	code, text, hint string
}

// parse is steps 0 and 1 of istio-semantics.md 2.3: limits before expansion, then
// YAMLToJSONStrict. A nil document without flaws was empty.
func (c chunk) parse(file string) (*document, []flaw) {
	if len(c.data) > MaxDocument {
		return nil, []flaw{{c.line, 1, "E102", fmt.Sprintf("the document has %s, at most 1 MiB a document is read", size(len(c.data))), ""}}
	}
	if i := invalidUTF8(c.data); i >= 0 {
		line, col := c.place(i)
		return nil, []flaw{{line, col, "E101", "not UTF-8", "save the file as UTF-8"}}
	}
	if c.empty() {
		return nil, nil
	}
	if line, ok := c.directive(); ok {
		return nil, []flaw{{line, 1, "E101", "a YAML directive", "leave out the lines that start with %"}}
	}
	root, err := c.tree()
	if err != nil {
		return nil, []flaw{c.syntax(file, err)}
	}
	if root.Kind == yaml.ScalarNode && root.Value == "" && root.Style == 0 {
		return nil, nil
	}
	t := tree{line: c.line - 1, measured: make(map[*yaml.Node]extent), open: make(map[*yaml.Node]bool)}
	if t.check(root); len(t.flaws) > 0 {
		return nil, t.flaws
	}
	value, err := c.json()
	if err != nil {
		return nil, []flaw{c.syntax(file, err)}
	}
	if t.compare(root, value); len(t.flaws) > 0 {
		return nil, t.flaws
	}
	return &document{root, value, c.line - 1}, nil
}

// tree parses without expanding aliases.
func (c chunk) tree() (root *yaml.Node, err error) {
	defer caught(&err)
	dec := yaml.NewDecoder(bytes.NewReader(c.data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	// YAML 1.1 knows line ends that split does not (NEL, LS, PS); what stands behind a
	// document marker after one would be dropped by YAMLToJSONStrict without a word.
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("yaml: a second document without a line of --- before it")
	}
	if len(doc.Content) != 1 {
		return nil, fmt.Errorf("yaml: not a document")
	}
	return doc.Content[0], nil
}

func (c chunk) json() (value any, err error) {
	defer caught(&err)
	text, err := kyaml.YAMLToJSONStrict(c.data)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	return value, nil
}

// caught makes an error of a panic of a YAML parser: both panic on purpose inside, and
// the bytes are a stranger's.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("yaml: %v", r)
	}
}

// directive finds a %YAML or %TAG line before the content; they can change what follows.
func (c chunk) directive() (line int, ok bool) {
	line = c.line
	for l := range bytes.Lines(c.data) {
		if l[0] == '%' {
			return line, true
		}
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' {
			return 0, false
		}
		line++
	}
	return 0, false
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// place is line and column of a byte of the document.
func (c chunk) place(i int) (line, col int) {
	before := c.data[:i]
	return c.line + bytes.Count(before, []byte("\n")), i - bytes.LastIndexByte(before, '\n')
}

var errorLine = regexp.MustCompile(`line (\d+): ([^\n]*)`)

// syntax turns the error of a YAML parser into a flaw. Both parsers give a line at most;
// the column is where that line's text starts.
func (c chunk) syntax(file string, err error) flaw {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := errorLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	lines := bytes.Split(c.data, []byte("\n"))
	line = min(max(line, 1), len(lines))
	if at, col, ok := tab(lines, line, text); ok {
		hint := "put blanks there"
		if file != "-" && file != "" {
			hint = fmt.Sprintf("expand -i -t2 %s > %s", file, fixedName(file))
		}
		return flaw{c.line + at - 1, col, "E101", "a tab where blanks are needed", hint}
	}
	if m := alreadySet.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("key %s stands twice", quote(m[1]))
	}
	col := len(lines[line-1]) - len(bytes.TrimLeft(lines[line-1], " ")) + 1
	return flaw{c.line + line - 1, col, "E101", "not YAML: " + clip(text), hintFor(text)}
}

var alreadySet = regexp.MustCompile(`^key "(.*)" already set in map`)

// tab finds the tab that a parser stumbled over: in the indentation of the line it names,
// or of a neighbour, since the line given is that of the enclosing block at times.
func tab(lines [][]byte, line int, text string) (at, col int, ok bool) {
	near := []int{line, line + 1, line - 1}
	if strings.Contains(text, "cannot start any token") || strings.Contains(text, "tab character") {
		for i := range lines {
			near = append(near, i+1)
		}
	}
	for _, at := range near {
		if at < 1 || at > len(lines) {
			continue
		}
		l := lines[at-1]
		indent := l[:len(l)-len(bytes.TrimLeft(l, " \t"))]
		if i := bytes.IndexByte(indent, '\t'); i >= 0 && len(bytes.TrimSpace(l)) > 0 {
			return at, i + 1, true
		}
	}
	return 0, 0, false
}

func fixedName(file string) string {
	if i := strings.LastIndexByte(file, '.'); i > strings.LastIndexByte(file, '/') {
		return file[:i] + ".fixed" + file[i:]
	}
	return file + ".fixed"
}

func hintFor(text string) string {
	switch {
	case strings.Contains(text, "mapping values are not allowed"):
		return "a value with a colon and a blank in it needs quotes, or the line is indented too far"
	case strings.Contains(text, "did not find expected"):
		return "look at the indentation of this line and the one before, and for a bracket or quote left open"
	case strings.Contains(text, "found unexpected end of stream"):
		return "a quote or a bracket is left open"
	}
	return ""
}

func clip(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

func size(n int) string {
	const mib = 1 << 20
	if n%mib == 0 {
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return strconv.FormatFloat(math.Round(float64(n)/mib*10)/10, 'f', -1, 64) + " MiB"
}
