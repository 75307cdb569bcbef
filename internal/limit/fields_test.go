package limit

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestFields(t *testing.T) {
	s := New(DefaultKeys)
	burst := rule(t, Spec{ID: "shop/api/burst", Rate: Rate{100, time.Minute, 20}, Expose: true})
	daily := rule(t, Spec{ID: "shop/api/daily", Rate: Rate{2, 24 * time.Hour, 0}, Expose: true, Cost: 2})
	hidden := rule(t, Spec{ID: "shop/api/hidden", Rate: Rate{5, 1500 * time.Millisecond, 2}})
	parallel := rule(t, Spec{ID: "shop/api/parallel", Concurrent: 2, Expose: true})
	asks := func() []Ask { return []Ask{ask(burst), ask(hidden), ask(parallel)} }
	for _, tt := range []struct {
		asks          []Ask
		policy, limit string
		retry         int64
		violated      string
	}{
		{asks(), `"burst";q=100;w=60, "parallel";q=2;qu="concurrent-requests"`, `"burst";r=19;t=1, "parallel";r=1`, 0, ""},
		{asks(), `"burst";q=100;w=60, "parallel";q=2;qu="concurrent-requests"`, `"burst";r=18;t=1, "parallel";r=0`, 0, ""},
		{asks(), `"burst";q=100;w=60, "parallel";q=2;qu="concurrent-requests"`, `"burst";r=18;t=1, "parallel";r=0`, 1, "parallel"},
		{[]Ask{ask(hidden)}, `"hidden";q=5;w=2`, `"hidden";r=0;t=1`, 1, "hidden"},
		{[]Ask{ask(daily)}, `"daily";q=2;w=86400`, `"daily";r=0;t=43200`, 0, ""},
		{[]Ask{ask(daily)}, `"daily";q=2;w=86400`, `"daily";r=0;t=43200`, 3600, "daily"},
		{[]Ask{ask(rule(t, Spec{ID: "shop/api/never", Rate: Rate{1, time.Second, 1}, Cost: 2}))}, `"never";q=1;w=1`, `"never";r=1`, 0, "never"},
		{[]Ask{ask(rule(t, Spec{ID: "shop/api/quiet", Rate: Rate{1, time.Second, 1}}))}, "", "", 0, ""},
		{nil, "", "", 0, ""},
	} {
		d := s.Take(time.Hour, tt.asks)
		violated := ""
		if !d.Admitted() {
			violated = d.Violated.Name()
		}
		policy, limit := string(d.AppendPolicy([]byte("x: "), tt.asks)), string(d.AppendLimit([]byte("x: "), tt.asks))
		if policy != "x: "+tt.policy || limit != "x: "+tt.limit || d.RetryAfter() != tt.retry || violated != tt.violated {
			t.Errorf("got  %s | %s | %d | %s\nwant %s | %s | %d | %s", policy, limit, d.RetryAfter(), violated, tt.policy, tt.limit, tt.retry, tt.violated)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	r := rate(t, 1, time.Second, 1)
	for wait, want := range map[time.Duration]int64{
		1: 1, time.Second: 1, time.Second + 1: 2, 59*time.Second + 1: 60, time.Hour: 3600, time.Hour + 1: 3600, Never - 1: 3600, Never: 0,
	} {
		if got := (Decision{Violated: r, Wait: wait}).RetryAfter(); got != want {
			t.Errorf("%v: %d, want %d", wait, got, want)
		}
	}
	if got := (Decision{}).RetryAfter(); got != 0 {
		t.Errorf("admitted: %d", got)
	}
}

// member is one of a list of strings with parameters (RFC 9651, 3.1, 3.1.2, 3.3.1, 3.3.3).
type member struct {
	name   string
	params []string
}

// parseList reads what the fields are made of, by the letter of RFC 9651 and no more.
func parseList(t *testing.T, s string) (list []member) {
	str := func() string {
		if !strings.HasPrefix(s, `"`) {
			t.Fatalf("no string at %q", s)
		}
		for i := 1; i < len(s); i++ {
			switch c := s[i]; {
			case c == '"':
				out := s[1:i]
				s = s[i+1:]
				return out
			case c == '\\' || c < 0x20 || c > 0x7e: // an escape would be right, and is never needed
				t.Fatalf("byte %q in a string", c)
			}
		}
		t.Fatalf("string %q does not end", s)
		return ""
	}
	for {
		m := member{name: str()}
		for strings.HasPrefix(s, ";") {
			name, rest, ok := strings.Cut(s[1:], "=")
			if !ok || name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz") != "" {
				t.Fatalf("no parameter at %q", s)
			}
			if s = rest; strings.HasPrefix(s, `"`) {
				m.params = append(m.params, name+"="+str())
				continue
			}
			digits := s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
			if n, err := strconv.ParseInt(digits, 10, 64); err != nil || len(digits) > 15 || strconv.FormatInt(n, 10) != digits {
				t.Fatalf("no integer at %q: %v", s, err)
			}
			m.params = append(m.params, name+"="+digits)
			s = s[len(digits):]
		}
		if list = append(list, m); s == "" {
			return list
		}
		rest, ok := strings.CutPrefix(s, ", ")
		if !ok {
			t.Fatalf("no comma at %q", s)
		}
		s = rest
	}
}

// FuzzFields: whatever a rule may be called and count, its fields and its body can be read, and
// say what it is.
func FuzzFields(f *testing.F) {
	f.Add("burst", int64(100), int64(time.Minute), int64(20), int64(1), int64(0), uint8(3))
	f.Add("parallel", int64(0), int64(0), int64(0), int64(0), int64(10), uint8(12))
	f.Add("a\"b\r\nX: y", int64(1), int64(time.Second), int64(1), int64(1), int64(0), uint8(2))
	f.Add("d", int64(1), int64(24*time.Hour), int64(26_687), int64(26_687), int64(0), uint8(2))
	f.Add("n", int64(1), int64(time.Second), int64(1), int64(5), int64(0), uint8(1))
	f.Fuzz(func(t *testing.T, name string, requests, per, burst, cost, concurrent int64, takes uint8) {
		r, err := NewRule(Spec{ID: "shop/api/" + name, Rate: Rate{requests, time.Duration(per), burst}, Concurrent: concurrent, Cost: cost, Expose: true})
		if err != nil {
			return
		}
		s, asks := New(DefaultKeys), []Ask{ask(r), ask(rule(t, Spec{ID: "shop/api/second", Concurrent: 300, Expose: true}))}
		for range int(takes) + 1 {
			d := s.Take(time.Hour, asks)
			policy, limit := parseList(t, string(d.AppendPolicy(nil, asks))), parseList(t, string(d.AppendLimit(nil, asks)))
			if len(policy) != 2 || len(limit) != 2 || policy[0].name != name || limit[0].name != name {
				t.Fatalf("policy %v, limit %v", policy, limit)
			}
			left := asks[0].Left()
			if got, want := limit[0].params[0], fmt.Sprint("r=", left.Remaining); got != want {
				t.Errorf("limit %v, want %s", limit, want)
			}
			if left.Next < 0 || left.Remaining < 0 || (len(limit[0].params) == 2) != (left.Next > 0) || left.Next > left.Full {
				t.Errorf("limit %v of %+v", limit, left)
			}
			if d.Admitted() {
				continue
			}
			var body struct {
				Violated []string `json:"violated-policies"`
			}
			if err := json.Unmarshal(d.Problem(), &body); err != nil || len(body.Violated) != 1 || body.Violated[0] != d.Violated.Name() {
				t.Fatalf("body %s: %v", d.Problem(), err)
			}
			retry := d.RetryAfter()
			if (retry == 0) != (d.Wait == Never) || retry > maxRetry || retry < maxRetry && retry != 0 && retry < seconds(left.Next) {
				t.Errorf("Retry-After %d, wait %v, t %v", retry, d.Wait, left.Next)
			}
		}
	})
}
