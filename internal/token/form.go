package token

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// The limits of a form (tokens.md 3, step 4).
const (
	maxForm       = 64 << 10
	maxParameters = 64
	maxName       = 64
	maxValue      = 8 << 10
)

// form is the parameters of one request: each valid UTF-8, none empty, none repeated but
// audience and resource.
type form struct {
	values   []parameter
	repeated bool
}

type parameter struct{ name, value string }

// One is the value of a parameter, empty if it was not sent.
func (f *form) One(name string) string {
	for i := range f.values {
		if f.values[i].name == name {
			return f.values[i].value
		}
	}
	return ""
}

// All is every value of audience or resource, in the order sent.
func (f *form) All(name string) []string {
	var out []string
	for i := range f.values {
		if f.values[i].name == name && f.values[i].value != "" {
			out = append(out, f.values[i].value)
		}
	}
	return out
}

// Scopes are the values of scope, as sent (RFC 6749, section 3.3); nil if none was asked for.
func (f *form) Scopes() []string {
	if text := f.One("scope"); text != "" {
		return strings.Split(text, " ")
	}
	return nil
}

// readForm is steps 1 and 3 to 7 of tokens.md 3. Step 2 is the caller's: whatever fails here
// costs its source (limits).
func readForm(out *form, w http.ResponseWriter, r *http.Request) *fault {
	if r.Method != http.MethodPost {
		return &fault{code: codeRequest, text: textMalformed, status: http.StatusMethodNotAllowed, allow: http.MethodPost}
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if len(r.Header["Content-Type"]) != 1 || !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return refuse(codeRequest, textMalformed)
	}
	body, f := readBody(w, r)
	if f != nil {
		return f
	}
	switch {
	case !out.parse(body):
		return refuse(codeRequest, textMalformed)
	case r.URL.RawQuery != "": // of ours none takes one: what stands there ends in logs
		return refuse(codeRequest, textQuery)
	case out.repeated:
		return refuse(codeRequest, textRepeated)
	case out.One("authorization_details") != "":
		return refuse(codeDetails, "")
	case out.One("request") != "":
		return refuse(codeRequestObj, "")
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request) (string, *fault) {
	if r.ContentLength > maxForm {
		w.Header().Set("Connection", "close")
		return "", tooLarge()
	}
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return "", refuse(codeRequest, textMalformed)
		}
		return string(body), nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return "", tooLarge()
	}
	if err != nil {
		return "", refuse(codeRequest, textMalformed)
	}
	return string(body), nil
}

func tooLarge() *fault {
	return &fault{code: codeRequest, text: textMalformed, status: http.StatusRequestEntityTooLarge}
}

// parse reads application/x-www-form-urlencoded strictly; false is malformed.
func (f *form) parse(body string) bool {
	n := strings.Count(body, "&") + 1
	if n > maxParameters {
		return false
	}
	f.values = make([]parameter, 0, n)
	for pair := range strings.SplitSeq(body, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, ok := unescape(rawName)
		if !ok || name == "" || len(name) > maxName {
			return false
		}
		value, ok := unescape(rawValue)
		if !ok || len(value) > maxValue {
			return false
		}
		if name != "audience" && name != "resource" {
			for i := range f.values {
				f.repeated = f.repeated || f.values[i].name == name
			}
		}
		f.values = append(f.values, parameter{name, value})
	}
	return true
}

// unescape decodes one name or value: valid percent-encoding, valid UTF-8, no NUL.
func unescape(s string) (string, bool) {
	if strings.ContainsAny(s, "%+") {
		decoded, err := url.QueryUnescape(s)
		if err != nil {
			return "", false
		}
		s = decoded
	}
	return s, utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}
