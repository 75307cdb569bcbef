package audit

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the JSON form of audit.md 4.5: the names of 2.2 in ascending id, id in
// front, absent fields left out. It is the log's inner loop, so no reflection.
func (rec *Record) AppendJSON(dst []byte) []byte {
	o := object{b: append(dst, '{')}
	o.str("id", rec.ID)
	rec.common(&o)
	rec.channel(&o)
	rec.Subject.write(&o)
	rec.operation(&o)
	rec.decision(&o)
	rec.issuance(&o)
	rec.control(&o)
	rec.gap(&o)
	return append(o.b, '}')
}

// MarshalJSON is AppendJSON for encoding/json.
func (rec Record) MarshalJSON() ([]byte, error) { return rec.AppendJSON(nil), nil }

func (rec *Record) common(o *object) {
	o.str("kind", rec.Kind)
	o.num("seq", rec.Seq)
	o.time("time", rec.Time)
	o.str("node", rec.Node)
	o.fixed("boot", rec.Boot[:])
	o.fixed("trace", rec.Trace[:])
	o.fixed("span", rec.Span[:])
	o.fixed("parent", rec.Parent[:])
	o.str("request_id", rec.RequestID)
	o.num("repeat", rec.Repeat)
	o.str("phase", rec.Phase)
}

func (rec *Record) channel(o *object) {
	o.str("side", rec.Side)
	o.str("peer_id", rec.PeerID)
	o.str("claimed_id", rec.ClaimedID)
	o.bytes("peer_serial", rec.PeerSerial)
	o.fixed("peer_fp", rec.PeerFP[:])
	o.str("peer_issuer", rec.PeerIssuer)
	if rec.TLSVersion != 0 {
		o.str("tls_version", tls.VersionName(rec.TLSVersion))
	}
	if rec.TLSGroup != 0 {
		o.str("tls_group", tls.CurveID(rec.TLSGroup).String())
	}
	if rec.TLSSuite != 0 {
		o.str("tls_suite", suiteName(rec.TLSSuite))
	}
	o.str("alpn", rec.ALPN)
	o.str("sni", rec.SNI)
	o.num("conn", rec.Conn)
	o.addr("src_ip", rec.SrcIP)
	o.num("src_port", uint64(rec.SrcPort))
	o.str("api_key_id", rec.APIKeyID)
}

func (s *Subject) write(o *object) {
	if s == nil {
		return
	}
	o.str("iss", s.Iss)
	o.str("sub", s.Sub)
	o.list("act", s.Act)
	o.str("jti", s.JTI)
	o.str("client_id", s.ClientID)
	o.str("scopes", s.Scopes)
	o.str("token_type", s.TokenType)
	o.str("auth", s.Auth)
	o.str("binding", s.Binding)
	o.time("token_iat", s.TokenIat)
	o.time("token_exp", s.TokenExp)
	o.str("rti", s.RTI)
	o.str("sid", s.SID)
}

func (rec *Record) operation(o *object) {
	o.str("dst_id", rec.DstID)
	o.str("dst_instance", rec.DstInstance)
	o.str("service", rec.Service)
	o.str("proto", rec.Proto)
	o.str("method", rec.Method)
	o.str("host", rec.Host)
	o.str("route", rec.Route)
	o.str("path", rec.Path)
	o.str("query_keys", rec.QueryKeys)
	o.num("status", count(rec.Status))
	o.plusOne("grpc_status", rec.GRPCStatus)
	o.num("req_bytes", rec.ReqBytes)
	o.num("resp_bytes", rec.RespBytes)
	o.num("dur", count(rec.Dur))
	o.num("upstream_dur", count(rec.UpstreamDur))
	o.num("retries", count(rec.Retries))
	o.num("port", uint64(rec.Port))
	o.str("close_reason", rec.CloseReason)
	o.str("error", rec.Error)
	o.str("gateway", rec.Gateway)
	o.str("listener", rec.Listener)
	o.str("route_rule", rec.RouteRule)
	o.str("status_by", rec.StatusBy)
}

func (rec *Record) decision(o *object) {
	o.str("decision", rec.Decision)
	o.str("layer", rec.Layer)
	o.str("reason", rec.Reason)
	o.str("policy", rec.Policy)
	o.plusOne("rule", rec.Rule)
	o.fixed("rev", rec.Rev[:])
	o.str("detail", rec.Detail)
	o.flag("stale", rec.Stale)
}

func (rec *Record) issuance(o *object) {
	o.str("issued_kind", rec.IssuedKind)
	o.str("issued_for", rec.IssuedFor)
	o.bytes("serial", rec.Serial)
	o.fixed("cert_fp", rec.CertFP[:])
	o.fixed("spki_fp", rec.SPKIFP[:])
	o.time("not_before", rec.NotBefore)
	o.time("not_after", rec.NotAfter)
	o.str("ca_key", rec.CAKey)
	o.str("attestor", rec.Attestor)
	o.list("selectors", rec.Selectors)
	o.str("entry", rec.Entry)
	o.bytes("replaces", rec.Replaces)
	o.flag("clone", rec.Clone)
	o.str("grant", rec.Grant)
	o.str("audience", rec.Audience)
	o.str("parent_jti", rec.ParentJTI)
	o.str("kid", rec.KID)
}

func (rec *Record) control(o *object) {
	o.str("actor", rec.Actor)
	o.str("action", rec.Action)
	o.str("object", rec.Object)
	o.fixed("old", rec.Old[:])
	o.fixed("new", rec.New[:])
	o.str("why", rec.Why)
	o.str("result", rec.Result)
	o.str("summary", rec.Summary)
}

func (rec *Record) gap(o *object) {
	o.num("after_seq", rec.AfterSeq)
	o.num("lost_allow", rec.LostAllow)
	o.num("lost_deny", rec.LostDeny)
	o.num("lost_other", rec.LostOther)
	o.str("cause", rec.Cause)
	o.time("from_time", rec.FromTime)
	o.time("to_time", rec.ToTime)
}

// count takes a signed number as the unsigned one that 2.2 knows; below zero is absent.
func count[T ~int | ~int64](n T) uint64 { return uint64(max(0, n)) }

// object is a JSON object being written; every method leaves out what is zero or empty.
type object struct{ b []byte }

func (o *object) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) str(name, v string) {
	if v == "" {
		return
	}
	o.key(name)
	o.b = appendString(o.b, v)
}

func (o *object) num(name string, v uint64) {
	if v == 0 {
		return
	}
	o.key(name)
	o.b = strconv.AppendUint(o.b, v, 10)
}

// plusOne writes a value that is kept one higher, so that a real zero shows.
func (o *object) plusOne(name string, v int) {
	if v <= 0 {
		return
	}
	o.key(name)
	o.b = strconv.AppendInt(o.b, int64(v-1), 10)
}

func (o *object) flag(name string, v bool) {
	if !v {
		return
	}
	o.key(name)
	o.b = append(o.b, "true"...)
}

func (o *object) time(name string, v time.Time) {
	if v.IsZero() {
		return
	}
	o.key(name)
	o.b = append(o.b, '"')
	o.b = appendInstant(o.b, v.UTC())
	o.b = append(o.b, '"')
}

// appendInstant writes RFC 3339 with all nine digits, so that instants sort as text. It is half
// of the cost of a record when time.Format does it.
func appendInstant(dst []byte, utc time.Time) []byte {
	year, month, day := utc.Date()
	year = min(max(year, 0), 9999)
	hour, minute, second := utc.Clock()
	for _, part := range [...]struct {
		n, digits int
		after     byte
	}{
		{year, 4, '-'}, {int(month), 2, '-'}, {day, 2, 'T'},
		{hour, 2, ':'}, {minute, 2, ':'}, {second, 2, '.'}, {utc.Nanosecond(), 9, 'Z'},
	} {
		var digits [9]byte
		for i := part.digits - 1; i >= 0; i-- {
			digits[i] = byte('0' + part.n%10)
			part.n /= 10
		}
		dst = append(append(dst, digits[:part.digits]...), part.after)
	}
	return dst
}

func (o *object) bytes(name string, v []byte) {
	if len(v) == 0 {
		return
	}
	o.key(name)
	o.b = append(o.b, '"')
	o.b = hex.AppendEncode(o.b, v)
	o.b = append(o.b, '"')
}

// fixed writes an array whose zero value means absent.
func (o *object) fixed(name string, v []byte) {
	if !bytes.Equal(v, zeros[:len(v)]) {
		o.bytes(name, v)
	}
}

var zeros [32]byte

func (o *object) addr(name string, v netip.Addr) {
	if !v.IsValid() {
		return
	}
	o.key(name)
	o.b = appendString(o.b, v.String()) // a zone may hold anything
}

func (o *object) list(name string, v []string) {
	if len(v) == 0 {
		return
	}
	o.key(name)
	o.b = append(o.b, '[')
	for i, s := range v {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = appendString(o.b, s)
	}
	o.b = append(o.b, ']')
}

// appendString writes a JSON string. Beyond what JSON asks for it escapes all that could move
// a cursor, turn the direction of text or end a line: a stranger chose these bytes, and people
// read the log with cat (cli.md 6). A byte that is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError && c >= utf8.RuneSelf && !unseen(r) {
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		default: // unseen runes are all below U+10000
			dst = append(dst, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
		}
		i += size
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// unseen says whether a rune beyond ASCII acts on a terminal or a reader without being seen.
func unseen(r rune) bool {
	switch {
	case r < 0xa0, r == 0x61c, r == 0xfeff: // C1 controls, Arabic letter mark, byte order mark
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e: // zero width, line ends, bidi
		return true
	case r >= 0x2060 && r <= 0x206f: // invisible operators, bidi isolates
		return true
	}
	return false
}

// suiteName is tls.CipherSuiteName without its list, which is made anew at each call.
func suiteName(id uint16) string {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return "TLS_AES_128_GCM_SHA256"
	case tls.TLS_AES_256_GCM_SHA384:
		return "TLS_AES_256_GCM_SHA384"
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return "TLS_CHACHA20_POLY1305_SHA256"
	}
	return tls.CipherSuiteName(id)
}
