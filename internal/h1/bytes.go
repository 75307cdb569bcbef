package h1

import "encoding/binary"

// Classes of bytes, RFC 9110 section 5.6.2 and RFC 3986 section 2.
const (
	classToken      = 1 << iota // field names, methods
	classValue                  // HTAB, 0x20-0x7E, 0x80-0xFF: H9
	classTarget                 // 0x21-0x7E, 0x80-0xFF: H6
	classUnreserved             // letters, digits, - . _ ~
	classHost                   // reg-name without escapes: unreserved and sub-delims
	classPath                   // bytes that stay as they are in a normal path, but for % / . ;
	classEncode                 // bytes of a path that the normal form encodes: istio-semantics 7.8.1 step 4
)

var classes = makeClasses()

func makeClasses() (t [256]uint8) {
	for c := range 256 {
		if c == '\t' || c >= 0x20 && c != 0x7F {
			t[c] |= classValue
		}
		if c > 0x20 && c != 0x7F {
			t[c] |= classTarget
		}
		if c >= 0x80 {
			t[c] |= classEncode
		}
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			t[c] |= classToken | classUnreserved | classHost | classPath
		}
	}
	mark := func(s string, class uint8) {
		for i := range len(s) {
			t[s[i]] |= class
		}
	}
	mark("!#$%&'*+-.^_`|~", classToken)
	mark("-._~", classUnreserved|classHost|classPath)
	mark("!$&'()*+,;=", classHost|classPath)
	mark(":@[]", classPath)
	mark("\"<>^`{|}", classEncode)
	return t
}

// is reports whether s is not empty and all of one class.
func is[T string | []byte](s T, class uint8) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return len(s) > 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// equalFold compares with a word that is given in lower case; case is that of ASCII alone.
func equalFold[T string | []byte](s T, word string) bool {
	if len(s) != len(word) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != word[i] {
			return false
		}
	}
	return true
}

// lowerString is strings.ToLower for ASCII alone: other bytes stay what they are.
func lowerString(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				b[j] = lower(b[j])
			}
			return string(b)
		}
	}
	return s
}

// canonical gives a token the spelling of net/http's header keys.
func canonical(s string) string {
	b := []byte(s)
	up := true
	for i, c := range b {
		c = lower(c)
		if up && c >= 'a' && c <= 'z' {
			c &^= 0x20
		}
		b[i] = c
		up = c == '-'
	}
	return string(b)
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// trim removes optional white space (OWS) at both ends.
func trim[T string | []byte](s T) T {
	for len(s) > 0 && blank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && blank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// unhex is the value of a hex digit, or -1.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// element cuts the first element off a comma-separated list.
func element[T string | []byte](list T) (first, rest T, more bool) {
	for i := range len(list) {
		if list[i] == ',' {
			return trim(list[:i]), list[i+1:], true
		}
	}
	return trim(list), list[len(list):], false
}

// valueLength is the number of bytes up to the first that a field value may not hold. Eight bytes at a time: field
// values are most of a head.
func valueLength(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ 0x7F*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&highs == 0 {
			continue
		}
		for j := i; j < i+8; j++ { // a byte below 0x20, or DEL; a tab is neither fault nor end
			if classes[b[j]]&classValue == 0 {
				return j
			}
		}
	}
	for ; i < len(b); i++ {
		if classes[b[i]]&classValue == 0 {
			return i
		}
	}
	return i
}
