package limit

import (
	"strconv"
	"time"
)

// The fields of an answer (draft-ietf-httpapi-ratelimit-headers; structured fields, RFC 9651).
const (
	PolicyField = "RateLimit-Policy"
	LimitField  = "RateLimit"
	RetryField  = "Retry-After"
)

// Status, ProblemType and Problem are the answer to a refused request (gateway.md 17).
const (
	Status      = 429
	ProblemType = "application/problem+json"
)

// maxRetry is the most that Retry-After asks for, in seconds.
const maxRetry = 3600

// Problem is the body of the answer (RFC 9457).
func (d Decision) Problem() []byte {
	b := []byte(`{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request limit reached","status":429,"violated-policies":["`)
	b = append(b, d.Violated.name...) // a DNS label
	return append(b, `"]}`...)
}

// RetryAfter is the field's value in seconds; 0: it is left out.
func (d Decision) RetryAfter() int64 {
	if d.Admitted() || d.Wait == Never {
		return 0
	}
	return min(max(1, seconds(d.Wait)), maxRetry)
}

// seconds rounds up: whoever waits as long as he was told is not early.
func seconds(d time.Duration) int64 {
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return n
}

// shown says whether a client learns of a rule: one that is exposed, and the one that refused
// him. Of a shadow he would learn what is not so.
func (d Decision) shown(r *Rule) bool { return r == d.Violated || r.expose && !r.shadow }

// AppendPolicy appends the value of RateLimit-Policy; nothing: it is left out.
func (d Decision) AppendPolicy(b []byte, asks []Ask) []byte {
	start := len(b)
	for i := range asks {
		r := asks[i].rule
		if !d.shown(r) {
			continue
		}
		b = appendItem(b, start, r.name)
		if r.slots > 0 {
			b = appendParameter(b, ";q=", r.slots)
			b = append(b, `;qu="concurrent-requests"`...)
			continue
		}
		b = appendParameter(b, ";q=", r.rate.Requests)
		b = appendParameter(b, ";w=", seconds(r.rate.Per))
	}
	return b
}

// AppendLimit appends the value of RateLimit; nothing: it is left out.
func (d Decision) AppendLimit(b []byte, asks []Ask) []byte {
	start := len(b)
	for i := range asks {
		a := &asks[i]
		if !d.shown(a.rule) {
			continue
		}
		left := a.Left()
		b = appendItem(b, start, a.rule.name)
		b = appendParameter(b, ";r=", left.Remaining)
		if left.Next > 0 {
			b = appendParameter(b, ";t=", seconds(left.Next))
		}
	}
	return b
}

// appendItem appends a string as the next member of a list that starts at start.
func appendItem(b []byte, start int, name string) []byte {
	if len(b) > start {
		b = append(b, ", "...)
	}
	return append(append(append(b, '"'), name...), '"')
}

func appendParameter(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}
