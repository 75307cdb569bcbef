package audit

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var cmpAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// The example of audit.md 4.5, byte for byte.
const example = `{"id":"f9tw985kaw5x4hbzcvp3yx2rbr","kind":"request","seq":7,"time":"2026-11-21T20:00:00.000000000Z","node":"spiffe://td/ns/a/sa/x","boot":"00000000000000000000000000000001","side":"server","peer_id":"spiffe://td/ns/shop/sa/web","dst_id":"spiffe://td/ns/shop/sa/api","proto":"http/1.1","method":"GET","path":"/a","status":403,"dur":210000,"decision":"deny","layer":"authz","reason":"no_allow_rule"}`

func exampleRecord() Record {
	return Record{
		ID: "f9tw985kaw5x4hbzcvp3yx2rbr", Kind: KindRequest, Seq: 7,
		Time: time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC),
		Node: "spiffe://td/ns/a/sa/x", Boot: [16]byte{15: 1},
		Side: SideServer, PeerID: "spiffe://td/ns/shop/sa/web",
		DstID: "spiffe://td/ns/shop/sa/api", Proto: ProtoHTTP1, Method: "GET", Path: "/a",
		Status: 403, Dur: 210 * time.Microsecond,
		Decision: Deny, Layer: LayerAuthz, Reason: "no_allow_rule",
	}
}

func TestRecordExample(t *testing.T) {
	want := exampleRecord()
	if got := string(want.AppendJSON(nil)); got != example {
		t.Errorf("AppendJSON:\n got %s\nwant %s", got, example)
	}
	if b, err := json.Marshal(want); err != nil || string(b) != example {
		t.Errorf("json.Marshal = %s, %v", b, err)
	}
	var got Record
	if err := json.Unmarshal([]byte(example), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpAddr); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}
}

func TestDecisionIDVector(t *testing.T) {
	key, _ := hex.DecodeString("6853605ccaee8a24346732bec3080fe5")
	if got, want := DecisionID(key, "spiffe://td/ns/a/sa/x", [16]byte{15: 1}, 7), "f9tw985kaw5x4hbzcvp3yx2rbr"; got != want {
		t.Errorf("DecisionID = %q, want %q", got, want)
	}
	for _, key := range [][]byte{nil, key[:15], append(key, 0)} {
		if got := DecisionID(key, "n", [16]byte{}, 1); got != "" {
			t.Errorf("DecisionID with %d bytes of key = %q, want none", len(key), got)
		}
	}
	for in, want := range map[string]string{
		"F9TW985KAW5X4HBZCVP3YX2RBR": "f9tw985kaw5x4hbzcvp3yx2rbr", "oOiIlL": "001111", "": "",
		"u": "!", "abc-def": "!", "a\"b": "!", strings.Repeat("a", 27): "!",
	} {
		got, ok := normalID(in)
		if ok != (want != "!") || ok && got != want {
			t.Errorf("normalID(%q) = %q, %t, want %q", in, got, ok, want)
		}
	}
}

// fields are the names of audit.md 2.2 that Record has, in ascending id.
const fields = `id kind seq time node boot trace span parent request_id repeat phase
side peer_id claimed_id peer_serial peer_fp peer_issuer tls_version tls_group tls_suite alpn sni conn src_ip src_port api_key_id
iss sub act jti client_id scopes token_type auth binding token_iat token_exp rti sid
dst_id dst_instance service proto method host route path query_keys status grpc_status req_bytes resp_bytes dur upstream_dur retries port close_reason error gateway listener route_rule status_by
decision layer reason policy rule rev detail stale
issued_kind issued_for serial cert_fp spki_fp not_before not_after ca_key attestor selectors entry replaces clone grant audience parent_jti kid
actor action object old new why result summary
after_seq lost_allow lost_deny lost_other cause from_time to_time`

// Every field is written, under its name, in the order of the ids, and read back; none alone
// is mistaken for another.
func TestRecordEveryField(t *testing.T) {
	full := fullRecord(t)
	b := full.AppendJSON(nil)

	var got []string
	dec := json.NewDecoder(strings.NewReader(string(b)))
	depth := 0
	for key := true; ; {
		tok, err := dec.Token()
		if err != nil {
			break
		}
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '{' || tok == '[' {
				depth++
			} else {
				depth--
			}
			key = true
		default:
			if depth == 1 {
				if key {
					got = append(got, tok.(string))
				}
				key = !key
			}
		}
	}
	if d := cmp.Diff(strings.Fields(fields), got); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	// Subject is no field of its own but all of its own.
	if n := reflect.TypeFor[Record]().NumField() - 1 + reflect.TypeFor[Subject]().NumField(); n != len(got) {
		t.Errorf("Record has %d fields, %d were written", n, len(got))
	}

	var back Record
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(full, back, cmpAddr); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}

	for i := range reflect.TypeFor[Record]().NumField() {
		var one, back Record
		reflect.ValueOf(&one).Elem().Field(i).Set(reflect.ValueOf(full).Field(i))
		b := one.AppendJSON(nil)
		if err := json.Unmarshal(b, &back); err != nil || !cmp.Equal(one, back, cmpAddr) {
			t.Errorf("field %s alone: %s reads back as %+v, %v", reflect.TypeFor[Record]().Field(i).Name, b, back, err)
		}
	}
	if got := string((&Record{}).AppendJSON([]byte("x"))); got != "x{}" {
		t.Errorf("the zero record = %s", got)
	}
}

// fullRecord has a value in every field.
func fullRecord(t *testing.T) Record {
	t.Helper()
	rec := Record{Subject: &Subject{}}
	fill(t, reflect.ValueOf(&rec).Elem())
	rec.TLSVersion, rec.TLSGroup, rec.TLSSuite = 0x0304, 0x11EC, 0x1301
	return rec
}

func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		f := v.Field(i)
		switch f.Interface().(type) {
		case *Subject:
			fill(t, f.Elem())
			continue
		case time.Time:
			f.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, i+1, time.UTC)))
			continue
		case netip.Addr:
			f.Set(reflect.ValueOf(netip.MustParseAddr("fe80::1%eth0")))
			continue
		case []byte:
			f.SetBytes([]byte{0, byte(i)})
			continue
		case []string:
			f.Set(reflect.ValueOf([]string{"unix:uid:1", `a"b`}))
			continue
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString("v" + v.Type().Field(i).Name)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Array:
			f.Index(f.Len() - 1).SetUint(uint64(i))
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(i + 1))
		case reflect.Uint16, reflect.Uint64:
			f.SetUint(uint64(i + 1))
		default:
			t.Fatalf("field %s has a kind this test does not know", v.Type().Field(i).Name)
		}
	}
}

func TestRecordValues(t *testing.T) {
	for _, tt := range []struct {
		rec  Record
		want string
	}{
		{Record{Rule: 1}, `{"rule":0}`},
		{Record{GRPCStatus: 1}, `{"grpc_status":0}`},
		{Record{Dur: -1, Status: -1}, `{}`},
		{Record{TLSVersion: 0x0304, TLSGroup: 0x11EC, TLSSuite: 0x1301}, `{"tls_version":"TLS 1.3","tls_group":"X25519MLKEM768","tls_suite":"TLS_AES_128_GCM_SHA256"}`},
		{Record{TLSVersion: 0x0399}, `{"tls_version":"0x0399"}`},
		{Record{SrcIP: netip.MustParseAddr("192.0.2.1"), SrcPort: 9}, `{"src_ip":"192.0.2.1","src_port":9}`},
		{Record{PeerSerial: []byte{0x0a, 0xbc}}, `{"peer_serial":"0abc"}`},
		{Record{Time: time.Date(2026, 1, 1, 1, 0, 0, 5, time.FixedZone("", 3600))}, `{"time":"2026-01-01T00:00:00.000000005Z"}`},
		{Record{Path: "/a\x1b[2J\n\x00\x7f"}, `{"path":"/a\u001b[2J\u000a\u0000\u007f"}`},
		{Record{Path: "/\xff\xc3(é€"}, `{"path":"/\ufffd\ufffd(é€"}`},
		{Record{Path: "\"\\\u009b\u202e\u2028\ufeff<&>"}, `{"path":"\"\\\u009b\u202e\u2028\ufeff<&>"}`},
		{Record{Path: "\U0001F600\ufffd"}, `{"path":"` + "\U0001F600" + `\ufffd"}`},
	} {
		if got := string(tt.rec.AppendJSON(nil)); got != tt.want {
			t.Errorf("%+q:\n got %s\nwant %s", tt.rec.Path, got, tt.want)
		}
	}
}

// A log of a newer program is read, a broken line is an error and leaves the record alone.
func TestUnmarshalTolerant(t *testing.T) {
	var rec Record
	in := `{"kind":"request","mono":17,"claims":["a=b"],"tls_group":"X448MLKEM4096","tls_version":"TLS 1.4","rule":2}`
	if err := json.Unmarshal([]byte(in), &rec); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(rec, Record{Kind: KindRequest, Rule: 3}, cmpAddr) {
		t.Errorf("got %+v", rec)
	}
	for _, in := range []string{``, `[]`, `{"boot":"00"}`, `{"serial":"0g"}`, `{"seq":-1}`, `{"rule":"x"}`, `{"time":"yesterday"}`, example[:100]} {
		if err := rec.UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%s: no error", in)
		}
	}
	if rec.Rule != 3 {
		t.Error("a broken line changed the record")
	}
}

// FuzzRecord: no bytes of a stranger in a record break its line, and no line breaks the reader.
func FuzzRecord(f *testing.F) {
	f.Add("/a", example)
	f.Add("\xff\x1b\"\\\n", `{"boot":"zz"}`)
	f.Fuzz(func(t *testing.T, path, line string) {
		rec := Record{Kind: KindRequest, Path: path, Selectors: []string{path}}
		b := rec.AppendJSON(nil)
		for _, c := range b {
			if c < 0x20 || c == 0x7f {
				t.Fatalf("control byte in %q", b)
			}
		}
		var back Record
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := strings.ToValidUTF8(path, ""); strings.ReplaceAll(back.Path, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("path %q read back as %q", path, back.Path)
		}
		_ = back.UnmarshalJSON([]byte(line))
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	rec := exampleRecord()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = rec.AppendJSON(buf[:0])
	}
}
