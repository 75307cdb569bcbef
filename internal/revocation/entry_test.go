package revocation

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestUntil(t *testing.T) {
	for longest, want := range map[time.Duration]int64{
		0: 3660, 5 * time.Minute: 3660, time.Hour: 3660, 24 * time.Hour: 86460, time.Hour + time.Millisecond: 3661,
	} {
		if got := Until(now, longest); got != at+want {
			t.Errorf("%v: got at + %d, want %d", longest, got-at, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Entry)
		ok     bool
	}{
		"good":              {func(*Entry) {}, true},
		"unknown kind":      {func(e *Entry) { e.Kind = "jkt" }, false},
		"kind in capitals":  {func(e *Entry) { e.Kind = "JTI" }, false},
		"no kind":           {func(e *Entry) { e.Kind = "" }, false},
		"empty value":       {func(e *Entry) { e.Val = "" }, false},
		"longest value":     {func(e *Entry) { e.Val = strings.Repeat("x", MaxVal) }, true},
		"longer value":      {func(e *Entry) { e.Val = strings.Repeat("x", MaxVal+1) }, false},
		"longest reason":    {func(e *Entry) { e.Why = strings.Repeat("x", MaxWhy) }, true},
		"longer reason":     {func(e *Entry) { e.Why = strings.Repeat("x", MaxWhy+1) }, false},
		"not yet stored":    {func(e *Entry) { e.Seq = 0 }, true},
		"negative sequence": {func(e *Entry) { e.Seq = -1 }, false},
		"no time":           {func(e *Entry) { e.At = 0 }, false},
		"ends as it begins": {func(e *Entry) { e.Until = e.At }, false},
		"no end":            {func(e *Entry) { e.Until = 0 }, false},
		"jti with before":   {func(e *Entry) { e.Before = at }, false},
		"sub":               {func(e *Entry) { e.Kind, e.Before = BySub, at }, true},
		"sub in the past":   {func(e *Entry) { e.Kind, e.Before = BySub, 1 }, true},
		"sub of no time":    {func(e *Entry) { e.Kind = BySub }, false},
		"client, no time":   {func(e *Entry) { e.Kind = ByClient }, false},
		"client to come":    {func(e *Entry) { e.Kind, e.Before = ByClient, at+Ahead+1 }, false},
		"before":            {func(e *Entry) { e.Kind, e.Val, e.Before = ByBefore, "", at }, true},
		"before, value":     {func(e *Entry) { e.Kind, e.Before = ByBefore, at }, false},
		"before of no time": {func(e *Entry) { e.Kind, e.Val = ByBefore, "" }, false},
	} {
		e := entry(ByJTI, "some-jti", 0)
		e.Seq = 7
		c.change(&e)
		err := e.Check()
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "some-jti") {
			t.Errorf("%s: the error shows the value: %v", name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	const shortest = `{"kind":"kid","val":"x","until":20,"at":10}`
	for text, ok := range map[string]bool{
		`{"seq":7,"kind":"jti","val":"x","until":20,"at":10,"why":"revoked"}`:    true,
		`{"seq":7,"kind":"sub","val":"x","before":10,"until":20,"at":10}` + "\n": true,
		`{"seq":7,"kind":"jti","val":"x","until":20,"at":10,"aud":"y"}`:          false,
		`{"seq":7,"kind":"jti","val":"x","until":20,"at":10} {}`:                 false,
		`{"seq":7,"kind":"jti","val":"x","until":20,"at":10}]`:                   false,
		`{"seq":7,"kind":"jti","val":"x","until":20.5,"at":10}`:                  false,
		`{"seq":7,"kind":"jti","val":7,"until":20,"at":10}`:                      false,
		`{"seq":7,"kind":"jkt","val":"x","until":20,"at":10}`:                    false,
		`[{"kind":"jti"}]`: false, `null`: false, `{}`: false, ``: false, `"x"`: false,
		strings.Repeat(" ", MaxEntry-len(shortest)) + shortest:   true,
		strings.Repeat(" ", MaxEntry-len(shortest)+1) + shortest: false,
	} {
		if _, err := Decode([]byte(text)); (err == nil) != ok {
			t.Errorf("%.60s: got %v", text, err)
		}
	}
	// The longest entry there can be fits.
	long := Entry{Seq: 1 << 62, Kind: ByClient, Val: strings.Repeat("\x01", MaxVal), Before: 1 << 61, At: 1 << 61, Until: 1 << 62, Why: strings.Repeat("\x01", MaxWhy)}
	data, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(data); err != nil || got != long {
		t.Errorf("%d bytes: %v", len(data), err)
	}
}

// FuzzDecode: what is taken can be honoured: it passes Check, revokes what it names, and comes
// back the same from its own text.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"seq":7,"kind":"jti","val":"x","until":20,"at":10,"why":"revoked"}`, `{"kind":"before","before":10,"until":20,"at":10}`,
		`{"kind":"client","val":"x","before":10,"until":20,"at":10}`, `{"KIND":"jti","val":"\u0000","until":9223372036854775807,"at":1}`,
		`{"kind":"jti","kind":"kid","val":"x","until":20,"at":10}`, `null`, `[]`, `{"kind":"jti","val":"x","until":1e2,"at":10}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(data)
		if err != nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		l := NewLog()
		if err := l.Reset([]Entry{e}, time.Unix(e.At, 0)); err != nil {
			t.Fatal(err)
		}
		s := &token{jti: e.Val, rti: e.Val, sid: e.Val, sub: e.Val, client: e.Val, kid: e.Val, iat: e.Before}
		if _, got := l.Revoked(s); !got {
			t.Fatalf("%+v revokes nothing", e)
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(text); err != nil || back != e {
			t.Fatalf("got %+v, %v, want %+v", back, err, e)
		}
	})
}
