package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestTable(t *testing.T) {
	tab := newTable("NAME", ">COUNT", "SAYS")
	tab.add("api-from-web", "1", "web may GET /orders/{*}")
	tab.add("b", "1,204", "")
	for _, test := range []struct {
		name string
		cut  int
		want string
	}{
		{"whole", 0, `NAME          COUNT  SAYS
api-from-web      1  web may GET /orders/{*}
b             1,204  -
`},
		{"wide enough", 80, `NAME          COUNT  SAYS
api-from-web      1  web may GET /orders/{*}
b             1,204  -
`},
		{"cut, the widest text first", 34, `NAME          COUNT  SAYS
api-from-web      1  web may GET …
b             1,204  -
`},
		{"cut further", 25, `NAME      COUNT  SAYS
api-fro…      1  web may…
b         1,204  -
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b strings.Builder
			tab.cut = test.cut
			tab.write(&b)
			if got := b.String(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			for l := range strings.Lines(b.String()) {
				if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); test.cut > 30 && n > test.cut {
					t.Errorf("%d columns of %d: %s", n, test.cut, l)
				}
			}
		})
	}
}

func TestTableColour(t *testing.T) {
	tab := newTable("A", ">B")
	tab.add("x", "12")
	tab.paint = func(_ []string, at int) string {
		if at == 1 {
			return red
		}
		return ""
	}
	var b strings.Builder
	tab.write(&b)
	if got, want := b.String(), "A   B\nx  \x1b[31m12\x1b[0m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLatency(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "-", 50 * time.Microsecond: "0.05ms", 910 * time.Microsecond: "0.9ms", 12400 * time.Microsecond: "12.4ms",
		123456 * time.Microsecond: "123ms", 1200 * time.Millisecond: "1.2s", 3 * time.Minute: "180s", 99960 * time.Microsecond: "100ms",
		999600 * time.Microsecond: "1.0s",
	} {
		if got := latency(d); got != want {
			t.Errorf("latency(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 45 * time.Second: "45s", 252 * time.Second: "4m12s", 47 * time.Minute: "47m",
		192 * time.Minute: "3h12m", 31 * time.Hour: "31h", 12 * 24 * time.Hour: "12d", 800 * 24 * time.Hour: "2y",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1204: "1,204", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{512: "512 B", 28 << 10: "28.0 KiB", 2202009: "2.1 MiB", 3 << 30: "3.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := counted(1, "node") + ", " + counted(1204, "call"); got != "1 node, 1,204 calls" {
		t.Errorf("counted: %q", got)
	}
}

// TestEscape holds that what strangers wrote stays text (sec-terminal).
func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"/orders/17":         "/orders/17",
		"\x1b]0;x\x07":       `\x1b]0;x\x07`,
		"a\r\nforged":        `a\x0d\x0aforged`,
		"\u202eevil":         `\u202eevil`,
		"\xff":               `\xff`,
		"\u009b2J":           `\x9b2J`,
		"ü→✓":                "ü→✓",
		"\u2066x\u2069":      `\u2066x\u2069`,
		"\ufeff\u200bhidden": `\ufeff\u200bhidden`,
	} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
	if got := stranger(strings.Repeat("x", 1000)); len(got) != 256 {
		t.Errorf("stranger lets %d bytes through", len(got))
	}
}
