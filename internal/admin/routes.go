package admin

// RouteQuery is POST /v1/routes; an empty field selects all.
type RouteQuery struct {
	Namespace string `json:"namespace,omitempty"` // of routes
	Host      string `json:"host,omitempty"`      // what takes its requests
}

// Routes answers it. Rows are in order of precedence for each listener.
type Routes struct {
	Routes    []RouteRow      `json:"routes"`
	Listeners []RouteListener `json:"listeners"`
}

// RouteListener is one listener of a Gateway of ours.
type RouteListener struct {
	Gateway       string `json:"gateway"` // ns/name
	Listener      string `json:"listener"`
	Port          uint16 `json:"port"`
	Protocol      string `json:"protocol"`
	Hostname      string `json:"hostname,omitempty"`       // empty: any
	Certificate   string `json:"certificate,omitempty"`    // of HTTPS
	Fault         string `json:"fault,omitempty"`          // why it cannot serve
	StrictBecause string `json:"strict_because,omitempty"` // of one host: what looks at paths there

	Options []string `json:"options"` // of the Gateway, for this listener
}

// RouteRow is one match of a rule on one listener.
type RouteRow struct {
	Gateway  string         `json:"gateway"` // ns/name
	Listener string         `json:"listener"`
	Port     uint16         `json:"port"`
	Host     string         `json:"host"` // the effective hostname; empty: any
	Match    string         `json:"match"`
	Order    int            `json:"order"` // on its listener, 1 first
	Route    string         `json:"route"` // ns/name
	Rule     int            `json:"rule"`
	RuleName string         `json:"rule_name,omitempty"`
	Place    *Place         `json:"place,omitempty"`
	Backends []RouteBackend `json:"backends"`
	Filters  []string       `json:"filters"`
	Options  []string       `json:"options"`            // of the route, for this rule
	Needs    string         `json:"needs,omitempty"`    // what policy asks of a caller who shows nothing
	Limits   []string       `json:"limits,omitempty"`   // the rules of RateLimits that hold, in words
	Redirect string         `json:"redirect,omitempty"` // where it leads, of a redirect
	Fault    string         `json:"fault,omitempty"`    // why the rule answers 500
}

// RouteBackend is one backend of a rule.
type RouteBackend struct {
	Service string   `json:"service"` // ns/name
	Port    uint16   `json:"port,omitempty"`
	Weight  int      `json:"weight"`
	State   string   `json:"state"`             // of the best instance; none, or refused
	Status  int      `json:"status,omitempty"`  // of what answers its share instead
	Reason  string   `json:"reason,omitempty"`  // why its share is refused, as in the status of the route
	Fault   string   `json:"fault,omitempty"`   // the same for people
	Filters []string `json:"filters,omitempty"` // its own
	Path    string   `json:"path,omitempty"`    // of a request: what the backend sees
	Host    string   `json:"host,omitempty"`    // of a request: what the backend sees

	Plaintext bool `json:"plaintext,omitempty"` // outside the mesh: called in clear text
}

// RouteTest is POST /v1/route/test: a request from outside the mesh, which is not sent.
type RouteTest struct {
	Method string   `json:"method"`
	URL    string   `json:"url"`
	Header []string `json:"header,omitempty"` // "Name: value"
	SNI    string   `json:"sni,omitempty"`    // empty: the host of the URL

	SourceIP string `json:"source_ip,omitempty"` // of the direct peer; empty: lists of addresses are not asked
	As       string `json:"as,omitempty"`        // SPIFFE ID, or ISSUER/SUBJECT; empty: policy says what it needs
}

// RouteVerdict answers it.
type RouteVerdict struct {
	Taken     bool   `json:"taken"`
	Status    int    `json:"status,omitempty"` // of an answer of the Gateway's own
	Reason    string `json:"reason,omitempty"` // why a Gateway refuses it, as in records
	Text      string `json:"text,omitempty"`   // the same for people
	Gateway   string `json:"gateway,omitempty"`
	Listener  string `json:"listener,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	Route     string `json:"route,omitempty"`
	Rule      *int   `json:"rule,omitempty"`
	RuleName  string `json:"rule_name,omitempty"`
	Place     *Place `json:"place,omitempty"`
	Host      string `json:"host,omitempty"` // the effective hostname that takes it
	Match     string `json:"match,omitempty"`
	Preflight bool   `json:"preflight,omitempty"` // the Gateway answers by itself what the rule shares

	Backends      []RouteBackend `json:"backends"`
	Filters       []string       `json:"filters"`
	RewrittenPath string         `json:"rewritten_path,omitempty"`
	Location      string         `json:"location,omitempty"` // of a redirect
	Limits        []string       `json:"limits,omitempty"`   // the rules of RateLimits that hold, in words
	Decides       string         `json:"decides,omitempty"`  // the rule of policy at the Gateway that decides
	Needs         string         `json:"needs,omitempty"`    // what policy asks of the caller beyond what it shows

	Nearest []RouteMiss `json:"nearest"`        // taken: the better placed, those for other paths last; else the nearest
	More    int         `json:"more,omitempty"` // beyond those
	Notes   []string    `json:"notes,omitempty"`
}

// RouteMiss is a match that does not take a request.
type RouteMiss struct {
	Route    string `json:"route"`
	Rule     int    `json:"rule"`
	RuleName string `json:"rule_name,omitempty"`
	Place    *Place `json:"place,omitempty"`
	Host     string `json:"host"`
	Match    string `json:"match"`
	Field    string `json:"field"` // path, method, header, query
	Why      string `json:"why"`
}
