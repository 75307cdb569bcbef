// Package h1 is the strict grammar of HTTP/1 messages, and the rules every HTTP message has to meet before it is believed.
//
// Its words: a head is the bytes from the method to the empty line; a fault is the reason why a message is refused;
// the normal form of a path is the one spelling that policy, log and application see; the wide form is the widest
// reading an application could give that spelling.
//
// Its promise: a message that two correct parsers could read differently is refused, never repaired. The checks
// allocate nothing for a message that passes. There are two profiles: Base, that of the mesh, is the zero value; Edge
// adds what a gateway refuses.
package h1

// Reasons of the audit layer "http".
const (
	AmbiguousFraming  = "ambiguous_framing"
	BadRequestLine    = "bad_request_line"
	BadHeader         = "bad_header"
	BadPath           = "bad_path"
	AuthorityMismatch = "authority_mismatch"
	TooLarge          = "too_large"
	Slow              = "slow"
	UpgradeRefused    = "upgrade_refused"
	H2Abuse           = "h2_abuse"
)

// Fault says why a message is refused: the status of the answer, the audit reason, and a line of text.
// The text is ours alone; nothing of the message is ever in it, so it may be sent to whoever asked.
// Faults are shared values: do not change one.
type Fault struct {
	Status int
	Reason string
	Text   string
}

func (f *Fault) Error() string { return f.Text }

// All faults are made here, once: refusing a flood of bad messages allocates nothing.
var (
	faultBareLF      = &Fault{400, BadHeader, "line ends in LF without CR"}
	faultBareCR      = &Fault{400, BadHeader, "CR without LF"}
	faultControl     = &Fault{400, BadHeader, "control byte in head"}
	faultEmptyFirst  = &Fault{400, BadRequestLine, "empty line before the request line"}
	faultRequestLine = &Fault{400, BadRequestLine, "malformed request line"}
	faultVersion     = &Fault{400, BadRequestLine, "HTTP version is neither 1.0 nor 1.1"}
	faultMajor       = &Fault{505, BadRequestLine, "HTTP version is not supported"}
	faultMethod      = &Fault{400, BadRequestLine, "method is not a token of 1 to 32 bytes"}
	faultMethodCase  = &Fault{501, BadRequestLine, "method is not known"}
	faultTrace       = &Fault{405, BadRequestLine, "TRACE is not allowed"}
	faultConnect     = &Fault{405, BadRequestLine, "CONNECT is not allowed here"}
	faultTarget      = &Fault{400, BadRequestLine, "malformed request target"}
	faultProxyForm   = &Fault{400, BadRequestLine, "a proxy takes CONNECT and targets with scheme and authority only"}
	faultTargetLong  = &Fault{414, TooLarge, "request target is over 8192 bytes"}
	faultPath        = &Fault{400, BadPath, "Bad path"}
	faultAuthority   = &Fault{400, AuthorityMismatch, "authority of the target is not that of Host"}

	faultHeadLong   = &Fault{431, TooLarge, "head is over 32768 bytes"}
	faultFields     = &Fault{431, TooLarge, "more than 96 fields"}
	faultListLong   = &Fault{431, TooLarge, "field list is over 36864 bytes"}
	faultFolded     = &Fault{400, BadHeader, "folded field line"}
	faultName       = &Fault{400, BadHeader, "field name is not a token followed by a colon"}
	faultValue      = &Fault{400, BadHeader, "field value has a control byte"}
	faultBlankEdge  = &Fault{400, BadHeader, "field value starts or ends with a blank"}
	faultHostAbsent = &Fault{400, BadHeader, "no Host"}
	faultHostTwice  = &Fault{400, BadHeader, "more than one Host"}
	faultHost       = &Fault{400, BadHeader, "malformed Host"}
	faultConnection = &Fault{400, BadHeader, "Connection names a field that must not be removed, or is malformed"}
	faultTrailer    = &Fault{400, BadHeader, "Trailer names a framing field"}
	faultExpect     = &Fault{417, BadHeader, "Expect is not 100-continue"}
	faultH2Field    = &Fault{400, BadHeader, "connection field in an HTTP/2 message"}

	faultLength     = &Fault{400, AmbiguousFraming, "Content-Length is not 1 to 18 digits"}
	faultLengths    = &Fault{400, AmbiguousFraming, "more than one Content-Length"}
	faultLengthBody = &Fault{400, AmbiguousFraming, "Content-Length without a body"}
	faultCodings    = &Fault{400, AmbiguousFraming, "more than one Transfer-Encoding"}
	faultCoding     = &Fault{400, AmbiguousFraming, "Transfer-Encoding is not chunked"}
	faultCodingList = &Fault{501, AmbiguousFraming, "transfer coding is not supported"}
	faultBoth       = &Fault{400, AmbiguousFraming, "Transfer-Encoding with Content-Length"}
	faultCoding10   = &Fault{400, AmbiguousFraming, "Transfer-Encoding in HTTP/1.0"}

	faultChunkSize    = &Fault{400, AmbiguousFraming, "malformed chunk size"}
	faultChunkExt     = &Fault{400, AmbiguousFraming, "malformed or too long chunk extension"}
	faultChunkEnd     = &Fault{400, AmbiguousFraming, "chunk is not followed by CRLF"}
	faultTrailerLine  = &Fault{400, BadHeader, "malformed trailer"}
	faultTrailerLimit = &Fault{400, BadHeader, "trailers are over 32 fields or 4000 bytes"}

	faultUpgrade = &Fault{400, UpgradeRefused, "incomplete websocket handshake"}
)

// FaultBodyLong is the fault of a request body over the listener's limit, which is known to the listener alone.
var FaultBodyLong = &Fault{413, TooLarge, "request body is too large"}

// FaultAbuse is the fault of an HTTP/2 connection that resets too many of its streams. It is never answered.
var FaultAbuse = &Fault{0, H2Abuse, "too many streams were reset"}

// FaultSlow is the fault of a head that took too long to arrive. Only who owns the connection's clock can find it.
var FaultSlow = &Fault{408, Slow, "request head took too long"}
