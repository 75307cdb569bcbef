package admin

import (
	"time"

	"countersign.dev/internal/resource"
)

// File is one file of an apply, as its writer names it ("-" for stdin).
type File struct {
	Name string `json:"name"`
	Data string `json:"data"`
}

// ApplyRequest is POST /v1/apply: all documents or none.
type ApplyRequest struct {
	Files              []File `json:"files"`
	Namespace          string `json:"namespace,omitempty"` // of objects that name none
	DryRun             bool   `json:"dry_run,omitempty"`
	IgnoreUnknownKinds bool   `json:"ignore_unknown_kinds,omitempty"`
	Confirmed          bool   `json:"confirmed,omitempty"` // the person was asked, or said --yes
}

// Ref names one object.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// DeleteRequest is POST /v1/delete: by name, or what the files name.
type DeleteRequest struct {
	Refs           []Ref  `json:"refs,omitempty"`
	Files          []File `json:"files,omitempty"`
	Namespace      string `json:"namespace,omitempty"`
	IgnoreNotFound bool   `json:"ignore_not_found,omitempty"`
	DryRun         bool   `json:"dry_run,omitempty"`
	Confirmed      bool   `json:"confirmed,omitempty"`
}

// Result is what became of one object: created, changed, unchanged, deleted.
type Result struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Result    string `json:"result"`
}

// ApplyReply answers every writing call.
type ApplyReply struct {
	Objects  []Result         `json:"objects"`
	Revision int64            `json:"revision"`
	Enforced *Enforcement     `json:"enforced,omitempty"`
	DryRun   bool             `json:"dry_run,omitempty"`
	Notes    []string         `json:"notes,omitempty"`
	Warnings []resource.Fault `json:"warnings,omitempty"`
	Sentence string           `json:"sentence,omitempty"` // allow: what FROM may now do at TO; expose: who may enter
	YAML     string           `json:"yaml,omitempty"`     // allow, expose --dry-run: the objects
	Next     []string         `json:"next,omitempty"`     // expose: the commands that follow
	Door     *Door            `json:"door,omitempty"`     // expose: where it is
	Undo     string           `json:"undo,omitempty"`
}

// AllowRequest is POST /v1/allow. From and To are NAMEs as typed.
type AllowRequest struct {
	From      string   `json:"from"`
	To        string   `json:"to"`
	Requests  []string `json:"requests,omitempty"`
	Ports     []string `json:"ports,omitempty"`
	Hosts     []string `json:"hosts,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	DryRun    bool     `json:"dry_run,omitempty"`
}

// Door is where strangers call: a host, of a wildcard one below it, and whether its certificate is of our own authority.
type Door struct {
	Host string `json:"host"`
	Port uint16 `json:"port"`
	Own  bool   `json:"own"`
}

// ExposeRequest is POST /v1/expose. Service is a NAME as typed.
type ExposeRequest struct {
	Host        string   `json:"host"`
	Service     string   `json:"service"`
	Requests    []string `json:"requests,omitempty"`
	JWT         []string `json:"jwt,omitempty"` // issuers, or own
	Audience    string   `json:"audience,omitempty"`
	Key         bool     `json:"key,omitempty"`
	Public      bool     `json:"public,omitempty"`
	Port        uint16   `json:"port,omitempty"`
	ServicePort uint16   `json:"service_port,omitempty"`
	Certificate string   `json:"certificate,omitempty"` // CHAIN,KEY on the gateway's host
	Remove      bool     `json:"remove,omitempty"`
	Namespace   string   `json:"namespace,omitempty"`
	DryRun      bool     `json:"dry_run,omitempty"`
}

// Query is POST /v1/objects; an empty field selects all.
type Query struct {
	Kind      string   `json:"kind,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Names     []string `json:"names,omitempty"`
	Form      string   `json:"form,omitempty"` // json, yaml, none: what is filled in of each object; empty: both
}

// Object is one applied object as it is shown.
type Object struct {
	Kind       string    `json:"kind"`
	APIVersion string    `json:"api_version"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Revision   int64     `json:"revision"`
	Columns    []string  `json:"columns"` // of the table of its kind, between NAME and AGE
	YAML       string    `json:"yaml"`
	JSON       string    `json:"json"`
}

// Objects answers POST /v1/objects.
type Objects struct {
	Objects   []Object `json:"objects"`
	Elsewhere []Ref    `json:"elsewhere,omitempty"` // same kind and name in other namespaces, when a name was not found
}

// Enforcement answers POST /v1/enforced.
type Enforcement struct {
	Nodes    int       `json:"nodes"`
	Of       int       `json:"of"`
	MS       int64     `json:"ms"`
	Laggards []Laggard `json:"laggards"`
}

// Laggard is a node that does not enforce a revision yet.
type Laggard struct {
	Node     string    `json:"node"`
	Revision int64     `json:"revision"`
	LastSeen time.Time `json:"last_seen,omitzero"`
	Refused  string    `json:"refused,omitempty"`
}

// Authority is one row of `ca status`.
type Authority struct {
	Kind         string    `json:"kind"` // root, issuing
	KeyID        string    `json:"key_id"`
	State        string    `json:"state"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	Server       string    `json:"server,omitempty"`
	Next         *Next     `json:"next,omitempty"`
	Acknowledged int       `json:"acknowledged"`
	Of           int       `json:"of"`
}

// Next is the state an authority goes to, and when.
type Next struct {
	State string    `json:"state"`
	At    time.Time `json:"at"`
}

// ServerStatus answers POST /v1/status of admin.sock.
type ServerStatus struct {
	TrustDomain string       `json:"trust_domain"`
	Version     string       `json:"version"`
	Started     time.Time    `json:"started"`
	Revision    int64        `json:"revision"`
	Nodes       []NodeStatus `json:"nodes"`
	Authorities []Authority  `json:"authorities"`
	Store       StoreStatus  `json:"store"`
	Workloads   []Workload   `json:"workloads"`
	Plaintext   []string     `json:"plaintext,omitempty"` // services, ns/name, that Gateways may call in clear text
	LastMinute  *LastMinute  `json:"last_minute,omitempty"`
	Watch       *WatchStatus `json:"watch,omitempty"`

	Gateways []GatewayStatus `json:"gateways,omitempty"`
}

// WatchStatus is how the watched directory fares. With an error what was good before is in force.
type WatchStatus struct {
	Directory string           `json:"directory"`
	Objects   int              `json:"objects"`
	Revision  int64            `json:"revision"` // at which it was last applied
	Error     string           `json:"error,omitempty"`
	Faults    []resource.Fault `json:"faults,omitempty"`
}

// NodeStatus is one node as the server knows it.
type NodeStatus struct {
	Name             string    `json:"name"`
	InTouch          bool      `json:"in_touch"`
	EnforcedRevision int64     `json:"enforced_revision"`
	Inbound          string    `json:"inbound"`
	Engine           string    `json:"engine"`
	LastSeen         time.Time `json:"last_seen,omitzero"`
	Refused          string    `json:"refused,omitempty"`
}

// StoreStatus is the state of the store.
type StoreStatus struct {
	Kind       string `json:"kind"`
	Members    int    `json:"members"`
	SizeBytes  int64  `json:"size_bytes"`
	LastBackup string `json:"last_backup,omitempty"`
}

// Workload is one registration entry and how it fares.
type Workload struct {
	Namespace    string    `json:"namespace"`
	Name         string    `json:"name"`
	SPIFFEID     string    `json:"spiffe_id"`
	State        string    `json:"state,omitempty"`
	Instances    int       `json:"instances"`
	SVIDNotAfter time.Time `json:"svid_not_after,omitzero"`
}

// LastMinute counts decisions.
type LastMinute struct {
	Allowed uint64 `json:"allowed"`
	Refused uint64 `json:"refused"`
	Limited uint64 `json:"limited"`
}

// LocalStatus answers POST /v1/status of node.sock.
type LocalStatus struct {
	Node        string     `json:"node"`
	TrustDomain string     `json:"trust_domain"`
	Version     string     `json:"version"`
	PID         int        `json:"pid"`
	Started     time.Time  `json:"started"`
	Revision    int64      `json:"revision"`
	InTouch     bool       `json:"in_touch"`
	Inbound     string     `json:"inbound"`
	Engine      string     `json:"engine"`
	LastMinute  LastMinute `json:"last_minute"`
	Workloads   []Workload `json:"workloads"` // that run here
	Since       time.Time  `json:"since"`     // refusals are known from here on

	Certificates []ShownCertificate `json:"certificates,omitempty"` // of Gateways
}

// WhyRequest is POST /v1/why: on node.sock about a refusal (ID, or the last between From and
// To), on admin.sock about what would happen.
type WhyRequest struct {
	ID        string `json:"id,omitempty"`
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Request   string `json:"request,omitempty"` // 'METHOD PATH'; the path is a real one
	Port      string `json:"port,omitempty"`
	Host      string `json:"host,omitempty"`
}

// Place is where a rule was written.
type Place struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// Call is who called whom for what.
type Call struct {
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Host   string `json:"host,omitempty"`
	Port   uint16 `json:"port,omitempty"`
}

// PeerFacts is what was proven of the caller.
type PeerFacts struct {
	SPIFFEID  string `json:"spiffe_id,omitempty"`
	ClaimedID string `json:"claimed_id,omitempty"`
	Serial    string `json:"serial,omitempty"`
}

// FieldMiss is one field of a rule that did not match.
type FieldMiss struct {
	Field  string   `json:"field"`
	Allows []string `json:"allows"`
	More   int      `json:"more,omitempty"`
	Got    string   `json:"got"`
}

// Miss is a rule that nearly matched.
type Miss struct {
	Policy    string      `json:"policy"`
	Rule      int         `json:"rule"`
	Place     *Place      `json:"place,omitempty"`
	WrittenBy string      `json:"written_by,omitempty"`
	Cost      int         `json:"cost"`
	Misses    []FieldMiss `json:"misses"`
}

// Why answers POST /v1/why. Lines are further facts as sentences, in order.
type Why struct {
	ID                string     `json:"id,omitempty"`
	Time              time.Time  `json:"time,omitzero"`
	Decision          string     `json:"decision"`
	Layer             string     `json:"layer,omitempty"`
	Reason            string     `json:"reason,omitempty"`
	Call              Call       `json:"call"`
	Peer              *PeerFacts `json:"peer,omitempty"`
	For               string     `json:"for,omitempty"` // the subject of its token, as records tell it
	KeyID             string     `json:"api_key_id,omitempty"`
	Policy            string     `json:"policy,omitempty"`
	Rule              *int       `json:"rule,omitempty"`
	Place             *Place     `json:"place,omitempty"`
	Gateway           string     `json:"gateway,omitempty"` // of a call to its door, as its record has it
	Listener          string     `json:"listener,omitempty"`
	RouteRule         string     `json:"route_rule,omitempty"`
	StatusBy          string     `json:"status_by,omitempty"`
	WouldAllowWithout string     `json:"would_allow_without,omitempty"`
	Nearest           []Miss     `json:"nearest"`
	PolicyRevision    string     `json:"policy_revision,omitempty"`
	Revision          int64      `json:"revision,omitempty"`
	Hint              string     `json:"hint,omitempty"`
	Lines             []string   `json:"lines,omitempty"`
	Nothing           bool       `json:"-"`
}

// RunRequest opens POST /v1/run: a program is to run as a workload.
type RunRequest struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	ServiceAccount string            `json:"service_account,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Ports          []RunPort         `json:"ports,omitempty"`
	Command        []string          `json:"command"`
	Secret         string            `json:"secret"` // of its proxy listener, made by run, 128 bits in hex
	Listen         []string          `json:"listen,omitempty"`
	PID            int               `json:"pid,omitempty"` // of the program, when it runs already (the node was started anew)
}

// RunPort is one --port.
type RunPort struct {
	Number   uint16 `json:"number"`
	Protocol string `json:"protocol"`
}

// RunMessage is one line of a run's session, in both directions.
type RunMessage struct {
	// from run
	Listeners int  `json:"listeners,omitempty"` // how many descriptors come with this line: the proxy's, then one a --listen
	Started   int  `json:"started,omitempty"`   // pid of the program
	Ended     *int `json:"ended,omitempty"`     // its exit status
	// from the node
	Granted  *RunGranted `json:"granted,omitempty"`
	Ready    bool        `json:"ready,omitempty"`
	Refused  *Problem    `json:"refused,omitempty"`
	Note     *RunNote    `json:"note,omitempty"`
	Draining bool        `json:"draining,omitempty"` // the node stops
	Called   *bool       `json:"called,omitempty"`   // in answer to ended: whether a call came through the proxy listener
}

// RunGranted is the identity of a run.
type RunGranted struct {
	SPIFFEID    string `json:"spiffe_id"`
	WorkloadAPI string `json:"workload_api"` // path of workload.sock
	Explain     bool   `json:"explain"`      // the caller may see reasons
}

// RunNote is something a person should know of a running program (cli.md 9.4).
type RunNote struct {
	Code   string   `json:"code"`
	Text   string   `json:"text"`
	Hints  []string `json:"hints,omitempty"`
	Key    string   `json:"key"` // notes of one key are counted, not repeated
	Warn   bool     `json:"warn,omitempty"`
	Always bool     `json:"always,omitempty"` // at once, also for a program without a port
}
