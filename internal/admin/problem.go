package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"countersign.dev/internal/resource"
)

// Problem is an answer of no: what the command line prints (cli.md 9) and what travels as a
// Problem Details object (RFC 9457). Exit is the exit status of the command.
type Problem struct {
	Code    string
	Message string
	Details Details
	Hints   []string
	Faults  []resource.Fault
	More    int // faults beyond those listed
	Exit    int // 0 means 1
	Status  int // HTTP; 0 means 422
}

func (p *Problem) Error() string { return p.Message }

// Detail is one labelled fact below an error.
type Detail struct {
	Label string
	Value any // string or []string
}

// Details keep their order in text and are an object in JSON.
type Details []Detail

// MarshalJSON writes the object, labels in snake_case.
func (d Details) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		k, err := json.Marshal(strings.ReplaceAll(x.Label, " ", "_"))
		if err != nil {
			return nil, err
		}
		v, err := json.Marshal(x.Value)
		if err != nil {
			return nil, err
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads the object in its order.
func (d *Details) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("details are no object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		label, _ := t.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		var list []string
		var one string
		if json.Unmarshal(raw, &list) == nil {
			*d = append(*d, Detail{strings.ReplaceAll(label, "_", " "), list})
		} else if json.Unmarshal(raw, &one) == nil {
			*d = append(*d, Detail{strings.ReplaceAll(label, "_", " "), one})
		}
	}
	return nil
}

// problemJSON is the object of RFC 9457 with our members (cli.md 11.4).
type problemJSON struct {
	Type    string           `json:"type"`
	Title   string           `json:"title"`
	Status  int              `json:"status"`
	Code    string           `json:"code"`
	Details Details          `json:"details,omitempty"`
	Hints   []string         `json:"hints,omitempty"`
	Faults  []resource.Fault `json:"faults,omitempty"`
	More    int              `json:"more,omitempty"`
	Exit    int              `json:"exit,omitempty"`
}

// MarshalJSON writes the Problem Details object.
func (p *Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(problemJSON{
		Type: "https://countersign.dev/errors/" + p.Code, Title: p.Message, Status: p.status(), Code: p.Code,
		Details: p.Details, Hints: p.Hints, Faults: p.Faults, More: p.More, Exit: p.Exit,
	})
}

// UnmarshalJSON reads one.
func (p *Problem) UnmarshalJSON(b []byte) error {
	var j problemJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*p = Problem{Code: j.Code, Message: j.Title, Details: j.Details, Hints: j.Hints, Faults: j.Faults, More: j.More, Exit: j.Exit, Status: j.Status}
	return nil
}

func (p *Problem) status() int {
	if p.Status == 0 {
		return http.StatusUnprocessableEntity
	}
	return p.Status
}
