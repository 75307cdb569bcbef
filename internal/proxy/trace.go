package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
)

// span is this hop's place in a trace (W3C Trace Context).
type span struct {
	trace  [16]byte
	id     [8]byte
	parent [8]byte
	flags  byte
}

// newSpan makes this hop the parent of what follows: a valid traceparent is kept with our
// own span as parent id, anything else starts a new trace (http-strictness.md 7.4).
func newSpan(h http.Header) span {
	var s span
	binary.BigEndian.PutUint64(s.id[:], rand.Uint64()|1) // a span id of zeros is no span id
	if values := h["Traceparent"]; len(values) == 1 && s.parse(values[0]) {
		return s
	}
	binary.BigEndian.PutUint64(s.trace[:8], rand.Uint64()|1)
	binary.BigEndian.PutUint64(s.trace[8:], rand.Uint64())
	s.parent, s.flags = [8]byte{}, 0
	delete(h, "Tracestate") // it means nothing beside another trace
	return s
}

// parse reads version-trace-parent-flags. Versions above 00 may carry more behind the flags.
func (s *span) parse(v string) bool {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" ||
		len(v) > 55 && (v[:2] == "00" || v[55] != '-') {
		return false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], v[:2]) || !lowerHex(s.trace[:], v[3:35]) || !lowerHex(s.parent[:], v[36:52]) || !lowerHex(flags[:], v[53:55]) {
		return false
	}
	s.flags = flags[0]
	return s.trace != [16]byte{} && s.parent != [8]byte{}
}

func lowerHex(dst []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

func (s *span) String() string {
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:], s.trace[:])
	b[35] = '-'
	hex.Encode(b[36:], s.id[:])
	b[52] = '-'
	hex.Encode(b[53:], []byte{s.flags})
	return string(b[:])
}

// write puts the span into the fields of a request that goes on. Members of ours in
// tracestate are taken out on every hop.
func (s *span) write(h http.Header) {
	h["Traceparent"] = []string{s.String()}
	states, ok := h["Tracestate"]
	if !ok || !strings.Contains(strings.Join(states, ","), "countersign") {
		return
	}
	var kept []string
	for member := range strings.SplitSeq(strings.Join(states, ","), ",") {
		member = strings.Trim(member, " \t")
		if key, _, _ := strings.Cut(member, "="); member != "" && strings.Trim(key, " \t") != "countersign" {
			kept = append(kept, member)
		}
	}
	if len(kept) == 0 {
		delete(h, "Tracestate")
		return
	}
	h["Tracestate"] = []string{strings.Join(kept, ",")}
}
