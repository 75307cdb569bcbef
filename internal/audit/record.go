// Package audit writes down what was decided and what was signed: one record per request,
// connection, issuance, attestation and administrative call.
//
// Its words: a record is one event, in the form of audit.md 4.5 (one JSON object a line); a
// recorder writes the records of one process role, numbered from 1 within its boot; a segment
// is one file of them; a refusal is a record whose decision is deny, limited or failed; a tap
// is a live, bounded view; a gap is a record that says how many others were lost.
//
// Its promise: Add never makes a request wait, Record returns only after its record is on the
// disk, a refusal has its id before the answer leaves, and nothing is lost in silence.
package audit

import (
	"net/netip"
	"strings"
	"time"
)

// The kinds of records that are written today (audit.md 2.1).
const (
	KindRequest    = "request"
	KindConnection = "connection"
	KindIssue      = "issue"
	KindKey        = "key"
	KindAttest     = "attest"
	KindRegistry   = "registry"
	KindPolicy     = "policy"
	KindAdmin      = "admin"
	KindGap        = "gap"
	KindBoot       = "boot"
	KindStop       = "stop"
)

// The values of Record.Decision.
const (
	Allow   = "allow"
	Deny    = "deny"
	Limited = "limited"
	Failed  = "failed"
)

// The values of Record.Layer: who decided.
const (
	LayerTLS      = "tls"
	LayerHTTP     = "http"
	LayerToken    = "token"
	LayerAuthz    = "authz"
	LayerLimit    = "limit"
	LayerRoute    = "route"
	LayerIssue    = "issue"
	LayerRegistry = "registry"
	LayerAdmin    = "admin"
)

// The values of Record.Phase, Side, Proto, IssuedKind, StatusBy, Result and Cause.
const (
	PhaseOpening = "opening"
	PhaseClosing = "closing"

	SideServer = "server"
	SideClient = "client"

	ProtoHTTP1     = "http/1.1"
	ProtoHTTP2     = "h2"
	ProtoGRPC      = "grpc"
	ProtoWebSocket = "websocket"
	ProtoTCP       = "tcp"

	IssuedX509   = "x509-svid"
	IssuedJWT    = "jwt-svid"
	IssuedCA     = "ca"
	IssuedBundle = "bundle"
	IssuedKey    = "api_key"

	ByClient   = "client"
	ByGateway  = "gateway"
	ByUpstream = "upstream"

	ResultOK      = "ok"
	ResultRefused = "refused"
	ResultFailed  = "failed"

	CauseRingFull    = "ring_full"
	CauseDiskFull    = "disk_full"
	CauseUncleanBoot = "unclean_boot"
	CauseIOError     = "io_error"
)

// Record is one event: the fields of audit.md 2.2 that something fills today, in its order.
// Zero and empty mean absent. Strings and slices are shared, never copied: whoever hands a
// record over changes none of them afterwards. The tags serve reading alone; AppendJSON writes.
type Record struct {
	ID string `json:"id"` // the decision id (4.4), derived from Node, Boot and Seq

	// Common.
	Kind      string    `json:"kind"`
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"` // the end of the event
	Node      string    `json:"node"` // SPIFFE ID of the recorder
	Boot      [16]byte  `json:"-"`
	Trace     [16]byte  `json:"-"`
	Span      [8]byte   `json:"-"`
	Parent    [8]byte   `json:"-"`
	RequestID string    `json:"request_id"`
	Repeat    uint64    `json:"repeat"` // events folded into this one
	Phase     string    `json:"phase"`

	// Channel.
	Side       string     `json:"side"`
	PeerID     string     `json:"peer_id"`    // verified
	ClaimedID  string     `json:"claimed_id"` // claimed and not verified; never mixed with PeerID
	PeerSerial []byte     `json:"-"`
	PeerFP     [16]byte   `json:"-"` // first half of the SHA-256 of the leaf
	PeerIssuer string     `json:"peer_issuer"`
	TLSVersion uint16     `json:"-"`
	TLSGroup   uint16     `json:"-"`
	TLSSuite   uint16     `json:"-"`
	ALPN       string     `json:"alpn"`
	SNI        string     `json:"sni"`
	Conn       uint64     `json:"conn"` // number of the connection within the boot
	SrcIP      netip.Addr `json:"src_ip"`
	SrcPort    uint16     `json:"src_port"`

	APIKeyID string `json:"api_key_id"` // of the secret that was shown, or made; never the key

	// Subject: what the request's token said, or the token that was issued. Nil: there was none.
	*Subject

	// Operation.
	DstID       string        `json:"dst_id"`
	DstInstance string        `json:"dst_instance"`
	Service     string        `json:"service"`
	Proto       string        `json:"proto"`
	Method      string        `json:"method"`
	Host        string        `json:"host"`
	Route       string        `json:"route"`
	Path        string        `json:"path"`       // never with a query
	QueryKeys   string        `json:"query_keys"` // sorted keys, never values
	Status      int           `json:"status"`
	GRPCStatus  int           `json:"-"` // the status + 1
	ReqBytes    uint64        `json:"req_bytes"`
	RespBytes   uint64        `json:"resp_bytes"`
	Dur         time.Duration `json:"dur"`
	UpstreamDur time.Duration `json:"upstream_dur"`
	Retries     int           `json:"retries"`
	Port        uint16        `json:"port"` // the workload's own
	CloseReason string        `json:"close_reason"`
	Error       string        `json:"error"`
	Gateway     string        `json:"gateway"`    // ns/name, of an exchange at its door
	Listener    string        `json:"listener"`   // of that Gateway; empty: none was found
	RouteRule   string        `json:"route_rule"` // ns/name#rule that took the request
	StatusBy    string        `json:"status_by"`  // whose the status is: client, gateway, upstream

	// Decision.
	Decision string   `json:"decision"`
	Layer    string   `json:"layer"`
	Reason   string   `json:"reason"` // a code of 2.3
	Policy   string   `json:"policy"` // namespace/name of the deciding rule
	Rule     int      `json:"-"`      // its index + 1
	Rev      [32]byte `json:"-"`      // policy revision enforced
	Detail   string   `json:"detail"` // fixed words for the operator, nothing a caller sent
	Stale    bool     `json:"stale"`

	// Issuance.
	IssuedKind string    `json:"issued_kind"`
	IssuedFor  string    `json:"issued_for"`
	Serial     []byte    `json:"-"`
	CertFP     [32]byte  `json:"-"`
	SPKIFP     [32]byte  `json:"-"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	CAKey      string    `json:"ca_key"`
	Attestor   string    `json:"attestor"`
	Selectors  []string  `json:"selectors"`
	Entry      string    `json:"entry"`
	Replaces   []byte    `json:"-"`
	Clone      bool      `json:"clone"`
	Grant      string    `json:"grant"`      // client_credentials, token-exchange
	Audience   string    `json:"audience"`   // of the token that was asked for
	ParentJTI  string    `json:"parent_jti"` // of the subject token exchanged
	KID        string    `json:"kid"`        // that signs, or signed

	// Control.
	Actor   string   `json:"actor"`
	Action  string   `json:"action"`
	Object  string   `json:"object"`
	Old     [32]byte `json:"-"`
	New     [32]byte `json:"-"`
	Why     string   `json:"why"`
	Result  string   `json:"result"`
	Summary string   `json:"summary"`

	// Gap.
	AfterSeq  uint64    `json:"after_seq"`
	LostAllow uint64    `json:"lost_allow"`
	LostDeny  uint64    `json:"lost_deny"`
	LostOther uint64    `json:"lost_other"`
	Cause     string    `json:"cause"`
	FromTime  time.Time `json:"from_time"`
	ToTime    time.Time `json:"to_time"`
}

// Subject is a token in its claims (audit.md 2.2, fields 40 to 56), never in its text. Sub and
// Act hold pseudonyms where they are people (Recorder.Pseudonym).
type Subject struct {
	Iss       string    `json:"iss"`
	Sub       string    `json:"sub"`
	Act       []string  `json:"act"` // outermost first
	JTI       string    `json:"jti"`
	ClientID  string    `json:"client_id"`
	Scopes    string    `json:"scopes"`     // sorted, separated by blanks
	TokenType string    `json:"token_type"` // at+jwt, external
	Auth      string    `json:"auth"`       // mtls, private_key_jwt, client_secret, bearer
	Binding   string    `json:"binding"`    // none, x5t, spiffe
	TokenIat  time.Time `json:"token_iat"`
	TokenExp  time.Time `json:"token_exp"`
	RTI       string    `json:"rti"`
	SID       string    `json:"sid"`
}

// Refused says whether the record is a refusal: what `why` explains, and what is kept in memory.
func (rec *Record) Refused() bool {
	return rec.Decision != "" && rec.Decision != Allow
}

// Count is how many events the record stands for.
func (rec *Record) Count() uint64 { return max(1, rec.Repeat) }

// PlaintextTo stands in Detail before the address of a backend that a Gateway called in clear text.
const PlaintextTo = "plaintext to "

// Plaintext reports a request that a Gateway sent on in clear text, to a service outside the mesh.
func (r *Record) Plaintext() bool { return strings.Contains(r.Detail, PlaintextTo) }
