package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The formats of a log.
const (
	Text = "text"
	JSON = "json"
)

// maxValue bounds one value of a log line; the rest of it is replaced by "…".
const maxValue = 4096

// ParseLevel reads debug, info, warn or error.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return slog.LevelInfo, fmt.Errorf("%q is not a log level: debug, info, warn or error", s)
}

// NewLog makes a log of lines that stay lines: instants in UTC, every value escaped and bounded.
// A level that ParseLevel does not know is info; a format other than json is text.
func NewLog(w io.Writer, level, format string) *slog.Logger {
	least, _ := ParseLevel(level)
	opt := &slog.HandlerOptions{Level: least, ReplaceAttr: replace}
	if format == JSON {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}

// replace makes one attribute fit to print. The handlers quote; what they leave alone (the JSON
// one escapes neither C1 controls nor bidi marks) is replaced here.
func replace(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value; v.Kind() {
	case slog.KindTime:
		return slog.Time(a.Key, v.Time().UTC())
	case slog.KindString:
		return slog.String(a.Key, clean(v.String()))
	case slog.KindAny:
		switch v := v.Any().(type) {
		case error:
			return slog.String(a.Key, clean(v.Error()))
		case time.Time:
			return slog.Time(a.Key, v.UTC())
		case fmt.Stringer:
			return slog.String(a.Key, clean(v.String()))
		}
	}
	return a
}

// clean writes what cannot be seen as `\x1b`-style escapes (cli.md 6) and cuts what is too long.
func clean(s string) string {
	cut := ""
	if len(s) > maxValue {
		end := maxValue
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s, cut = s[:end], "…"
	}
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s + cut
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !unprintable(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String() + cut
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
