package jose

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// payload is the claims set before anyone believes it: the seven claims whose type counts
// (step 7), and all members as they came.
type payload struct {
	text                           string // the JSON, decoded from base64
	whole                          bool   // times are integers, aud is one text: own tokens
	iss, sub, jti                  string
	aud                            []string
	exp, nbf, iat                  int64
	hasIss, hasSub, hasJTI         bool
	hasAud, hasExp, hasNbf, hasIat bool
	members                        []member
	problem                        *Error
}

// member is one claim: its name, and its value as JSON.
type member struct{ name, value string }

var errRefused = errors.New("refused")

// readPayload is step 7. What it gives is well-formed and no more.
func readPayload(data []byte, whole bool) (*payload, *Error) {
	p := &payload{text: string(data), whole: whole, members: make([]member, 0, 20)}
	if len(data) == 0 || data[0] != '{' {
		return nil, refuse(JSON, "the payload is not an object")
	}
	if tooDeep(data) {
		return nil, refuse(Depth, "")
	}
	if err := json.Unmarshal(data, p); err != nil {
		if p.problem != nil {
			return nil, p.problem
		}
		return nil, refuse(fault(data, err), "")
	}
	for _, s := range append([]string{p.iss, p.sub, p.jti}, p.aud...) {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, refuse(Claims, holdsNUL)
		}
	}
	return p, nil
}

const holdsNUL = "a claim holds U+0000"

// UnmarshalJSONFrom reads the members; names and values stay parts of the one text.
func (p *payload) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	part := func() (string, error) {
		v, err := dec.ReadValue()
		end := int(dec.InputOffset())
		if err != nil {
			return "", err
		}
		return p.text[end-len(v) : end], nil
	}
	for dec.PeekKind() != '}' {
		quoted, err := part()
		if err != nil {
			return err
		}
		value, err := part()
		if err != nil {
			return err
		}
		m := member{plain(quoted), value}
		if len(p.members) == maxMembers {
			p.problem = refuse(JSON, "too many claims")
		} else if !p.take(m) {
			p.problem = refuse(JSON, m.name+" is of a wrong type")
		}
		if p.problem != nil {
			return errRefused
		}
		p.members = append(p.members, m)
	}
	_, err := dec.ReadToken()
	return err
}

// value is a claim as JSON, "" if it is absent.
func (p *payload) value(name string) string {
	for _, m := range p.members {
		if m.name == name {
			return m.value
		}
	}
	return ""
}

// take reads one of the seven, null among them a wrong type; other claims wait until the
// signature was verified.
func (p *payload) take(m member) bool {
	switch m.name {
	case "iss":
		return text(m.value, &p.iss, &p.hasIss)
	case "sub":
		return text(m.value, &p.sub, &p.hasSub)
	case "jti":
		return text(m.value, &p.jti, &p.hasJTI)
	case "aud":
		return p.audience(m.value)
	case "exp":
		return p.time(m.value, &p.exp, &p.hasExp)
	case "nbf":
		return p.time(m.value, &p.nbf, &p.hasNbf)
	case "iat":
		return p.time(m.value, &p.iat, &p.hasIat)
	}
	return true
}

func text(value string, to *string, has *bool) bool {
	if value[0] != '"' {
		return false
	}
	*to, *has = plain(value), true
	return true
}

func (p *payload) audience(value string) bool {
	p.hasAud = true
	if value[0] == '"' {
		p.aud = []string{plain(value)}
		return true
	}
	if p.whole || value[0] != '[' {
		return false
	}
	c := parse(value, false)
	p.aud = c.texts
	return len(c.texts) == c.items
}

// beyond is the first time that is none (step 7): past it a number of JSON is no longer exact.
const beyond = 1 << 53

func (p *payload) time(value string, to *int64, has *bool) bool {
	*has = true
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil && !p.whole && (value[0] == '-' || value[0] >= '0' && value[0] <= '9') {
		var f float64
		if f, err = strconv.ParseFloat(value, 64); err != nil || f < 0 || f >= beyond {
			return false
		}
		n = int64(math.Floor(f))
	}
	*to = n
	return err == nil && 0 <= n && n < beyond && (!p.whole || value[0] != '-')
}

// plain is the text of a JSON string, a part of it if it holds no escape.
func plain(quoted string) string {
	if strings.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	b, _ := jsontext.AppendUnquote(nil, quoted)
	return string(b)
}

// claim is one claim as policy reads it.
type claim struct {
	name  string
	kind  byte     // the first of its JSON: " { [ t f n - or a digit
	nul   bool     // there is a U+0000 in it somewhere
	texts []string // the text, or the texts of a list
	items int      // of a list: how many, texts or not
	inner []claim  // of an object
}

// blank splits at 0x20 alone: a tab or a line feed stays inside (istio-semantics.md 6.4).
func blank(s string) []string {
	return slices.DeleteFunc(strings.Split(s, " "), func(s string) bool { return s == "" })
}

// parse reads a value that the decoder has passed.
func parse(value string, split bool) claim {
	r := reader{value}
	c := r.value()
	if split && c.kind == '"' {
		c.texts = blank(c.texts[0])
	}
	return c
}

// reader goes through JSON that the decoder has passed: there is no fault in it to look for.
type reader struct{ rest string }

func (r *reader) space() { r.rest = strings.TrimLeft(r.rest, " \t\r\n") }

func (r *reader) text() string {
	i := 1
	for ; r.rest[i] != '"'; i++ {
		if r.rest[i] == '\\' {
			i++
		}
	}
	quoted := r.rest[:i+1]
	r.rest = r.rest[i+1:]
	return plain(quoted)
}

func (r *reader) value() claim {
	c := claim{kind: r.rest[0]}
	switch c.kind {
	case '"':
		c.add(r.text())
	case '{', '[':
		r.rest = r.rest[1:]
		for r.space(); r.rest[0] != '}' && r.rest[0] != ']'; r.space() {
			r.item(&c)
			if r.space(); r.rest[0] == ',' {
				r.rest = r.rest[1:]
			}
		}
		r.rest = r.rest[1:]
	default:
		if end := strings.IndexAny(r.rest, ",]} \t\r\n"); end >= 0 {
			r.rest = r.rest[end:]
		}
	}
	return c
}

// item reads what comes next in an object or list.
func (r *reader) item(of *claim) {
	if of.kind == '[' {
		of.items++
		if r.rest[0] == '"' {
			of.add(r.text())
		} else if r.value().nul {
			of.nul = true
		}
		return
	}
	name := r.text()
	r.space()
	r.rest = r.rest[1:] // the colon
	r.space()
	in := r.value()
	in.name = name
	of.nul = of.nul || in.nul || strings.IndexByte(name, 0) >= 0
	of.inner = append(of.inner, in)
}

func (c *claim) add(text string) {
	c.nul = c.nul || strings.IndexByte(text, 0) >= 0
	c.texts = append(c.texts, text)
}
