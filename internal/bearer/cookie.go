package bearer

import (
	"slices"
	"strings"
)

// cookie reads one piece of a Cookie line between semicolons. exact is false where parsers
// disagree on the name: a tab before it, a blank behind it, no equals sign.
func cookie(piece string) (name, value string, exact bool) {
	name, value, valued := strings.Cut(piece, "=")
	name = strings.TrimLeft(name, " ")
	trimmed := strings.Trim(name, " \t")
	return trimmed, value, valued && trimmed == name
}

// cutCookies takes every occurrence of the named cookies out of the lines. The other pieces stay
// as they are; a line with none left goes.
func cutCookies(lines, names []string) []string {
	var kept []string
	for _, line := range lines {
		if line, left := cutCookieLine(line, names); left {
			kept = append(kept, line)
		}
	}
	return kept
}

func cutCookieLine(line string, names []string) (rest string, left bool) {
	var kept []string
	cut := false
	for piece := range strings.SplitSeq(line, ";") {
		if name, _, _ := cookie(piece); slices.Contains(names, name) {
			cut = true
			continue
		}
		if cut && kept == nil {
			piece = strings.TrimLeft(piece, " \t") // it is the first now
		}
		kept = append(kept, piece)
	}
	if !cut {
		return line, true
	}
	rest = strings.Join(kept, ";")
	return rest, rest != ""
}
