package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/proxy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// why explains a refusal of this node: the one with an ID, or the last one.
func (n *Node) why(_ context.Context, r admin.WhyRequest) (admin.Why, error) {
	rec, err := n.refusal(r)
	if err != nil {
		return admin.Why{}, err
	}
	return n.explain(rec, r.Namespace), nil
}

func (n *Node) refusal(r admin.WhyRequest) (*audit.Record, error) {
	if r.ID != "" {
		rec, err := n.recorder.Find(strings.ToLower(r.ID))
		switch {
		case errors.Is(err, audit.ErrNotFound):
			return nil, &admin.Problem{Code: "no_decision", Message: fmt.Sprintf("no decision %q is known here", r.ID), Hints: []string{"countersign tap --refused"}}
		case errors.Is(err, audit.ErrAmbiguous):
			return nil, &admin.Problem{Code: "ambiguous", Message: fmt.Sprintf("several decisions start with %q", r.ID), Hints: []string{"give the whole id"}}
		case err != nil:
			return nil, fmt.Errorf("looking for decision %q: %w", r.ID, err)
		}
		return rec, nil
	}
	var from, to admin.Name
	var err error
	if r.From != "" {
		if from, err = admin.ParseName(r.From, r.Namespace, true); err != nil {
			return nil, err
		}
	}
	if r.To != "" {
		if to, err = admin.ParseName(r.To, r.Namespace, true); err != nil {
			return nil, err
		}
	}
	rec, ok := n.recorder.Refused(func(rec *audit.Record) bool {
		return rec.Kind != audit.KindIssue && (r.From == "" || isName(rec.PeerID, from)) && (r.To == "" || isName(rec.DstID, to))
	})
	if !ok {
		return nil, &admin.Problem{Code: "nothing_refused", Status: http.StatusNotFound, Message: fmt.Sprintf("no call was refused since %s", n.recorder.Started().UTC().Format("15:04:05Z"))}
	}
	return rec, nil
}

func isName(id string, n admin.Name) bool {
	p, err := spiffeid.FromString(id)
	if err != nil {
		return false
	}
	ns, sa, ok := identity.Split(p)
	return ok && (n.Namespace == "" || ns == n.Namespace) && (n.Name == "*" || sa == n.Name) &&
		(n.TrustDomain == "" || p.TrustDomain().Name() == n.TrustDomain)
}

// short is how people know an identity: NAME, or NS/NAME out of the namespace in force.
func (n *Node) short(id, inForce string) string {
	p, err := spiffeid.FromString(id)
	if err != nil {
		return id
	}
	ns, sa, ok := identity.Split(p)
	if !ok || p.TrustDomain() != n.td {
		return id
	}
	return admin.Bare(ns, sa, inForce)
}

// explain turns a record back into why: what was proven, the layer that refused, and for
// policy the very program that refused, so that it cannot disagree with what was enforced.
func (n *Node) explain(rec *audit.Record, inForce string) admin.Why {
	if inForce == "" {
		inForce = "default"
	}
	from, to := n.short(rec.PeerID, inForce), n.short(rec.DstID, inForce)
	if to == "" {
		to = rec.Service
	}
	if to == "" {
		to = rec.Host
	}
	path := rec.Path
	if path == "" {
		path = rec.Route
	}
	w := admin.Why{
		ID: rec.ID, Time: rec.Time, Decision: rec.Decision, Layer: rec.Layer, Reason: rec.Reason, Nearest: []admin.Miss{},
		Call:           admin.Call{From: from, To: to, Method: rec.Method, Path: path, Host: rec.Host, Port: rec.Port},
		PolicyRevision: hexOrEmpty(rec.Rev), Revision: n.snap.Load().Revision,
	}
	if rec.PeerID != "" {
		w.Peer = &admin.PeerFacts{SPIFFEID: rec.PeerID, ClaimedID: rec.ClaimedID, Serial: hex.EncodeToString(rec.PeerSerial)}
	} else if rec.ClaimedID != "" {
		w.Peer = &admin.PeerFacts{ClaimedID: rec.ClaimedID}
	}
	if rec.Subject != nil && rec.Sub != "" && rec.Sub != rec.PeerID {
		w.For = rec.Sub
	}
	if w.KeyID = rec.APIKeyID; rec.PeerID == "" && strings.HasPrefix(w.For, "key:") {
		w.Call.From = w.For
	}
	w.Gateway, w.Listener, w.RouteRule, w.StatusBy = rec.Gateway, rec.Listener, rec.RouteRule, rec.StatusBy
	if rec.Policy != "" {
		rule := rec.Rule - 1
		w.Policy, w.Rule = rec.Policy, &rule
	}
	if rec.Layer == audit.LayerAuthz {
		if explainAddress(&w, rec) {
			return w
		}
		n.explainPolicy(&w, rec, from, to)
		return w
	}
	w.Lines, w.Hint = n.explainOther(rec, from, to)
	return w
}

func hexOrEmpty(b [32]byte) string {
	if b == [32]byte{} {
		return ""
	}
	return hex.EncodeToString(b[:])
}

func (n *Node) explainPolicy(w *admin.Why, rec *audit.Record, from, to string) {
	s := n.snap.Load()
	dest := n.destination(rec.DstID)
	conn := policy.Conn{Port: rec.Port, HTTP: true}
	if rec.PeerID != "" {
		p := policy.ParsePeer(rec.PeerID, n.td.Name())
		conn.Peer = &p
	}
	decision, layer, reason := w.Decision, w.Layer, w.Reason
	request, whole := n.proxy.Asked(rec.ID)
	if !whole {
		request = policy.Request{Method: rec.Method, Host: rec.Host, Path: rec.Path, Wide: h1.Wide(rec.Path), Scheme: "https"}
	}
	admin.Explain(w, admin.Asked{
		Set: s.Set, Compiled: s.compiled, Dest: dest, Conn: conn, From: from, To: to, Request: request,
	})
	if w.Decision != decision {
		now := "refused"
		if w.Decision == audit.Allow {
			now = "allowed"
		}
		since := "policy has changed since"
		if rec.Subject != nil && !whole {
			since = "policy has changed since, or its token decided, whose claims are not kept so long"
		}
		w.Lines = append([]string{fmt.Sprintf("%s: it would be %s now", since, now)}, w.Lines...)
		w.Hint = ""
	}
	w.Decision, w.Layer, w.Reason = decision, layer, reason
	switch {
	case rec.PeerID != "":
	case dest.Gateway: // its callers are from outside the mesh
		w.Hint = "countersign get ap -n " + dest.Namespace
	default:
		w.Hint = n.inMesh(to)
	}
}

// destination is what policy knows of a workload by its identity.
func (n *Node) destination(id string) policy.Destination {
	p, err := spiffeid.FromString(id)
	if err != nil {
		return policy.Destination{}
	}
	ns, sa, _ := identity.Split(p)
	d := policy.Destination{Namespace: ns, ServiceAccount: sa, Labels: map[string]string{"app": sa}}
	for _, e := range n.snap.Load().Entries {
		if e.Namespace == ns && e.ServiceAccount == sa {
			d.Labels, d.Gateway = e.Labels, e.OfGateway()
		}
	}
	return d
}

func (n *Node) inMesh(to string) string {
	if to == "" {
		to = "api" // it cannot be known whom plaintext was meant for
	}
	if ns, name, ok := strings.Cut(to, "/"); ok {
		to = name + "." + ns
	}
	return "countersign run web -- curl -sS http://" + to + "/"
}

// explainOther gives the sentences of the layers before policy (cli.md 10.9).
func (n *Node) explainOther(rec *audit.Record, from, to string) (lines []string, hint string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if rec.Gateway != "" {
		return n.explainDoor(rec, to)
	}
	if rec.Layer == audit.LayerToken {
		return n.explainToken(rec, from, to)
	}
	if rec.Layer == audit.LayerLimit {
		return explainLimit(rec)
	}
	switch rec.Layer + "/" + rec.Reason {
	case "tls/no_client_cert":
		add("no client certificate: the caller is not in the mesh")
		hint = n.inMesh(to)
	case "tls/expired":
		add("its certificate has ended")
	case "tls/wrong_trust_domain":
		add("its trust domain is not known here")
	case "tls/unknown_ca", "tls/bad_chain":
		add("its certificate is not signed by an authority of its trust domain")
	case "tls/plaintext":
		_, source := n.snap.Load().compiled.For(n.destination(rec.DstID)).ModeFrom(rec.Port)
		add("plaintext, but this port takes only mTLS (%s)", source)
		hint = n.inMesh(to)
	case "route/no_route":
		switch _, port, err := net.SplitHostPort(rec.Host); {
		case rec.Service == "":
			add("no service %q in namespace %s", strings.TrimSuffix(rec.Host, "."), n.namespaceOf(rec.PeerID))
		case err != nil:
			add("service %s has no such port", to)
		default:
			add("service %s has no port %s", to, port)
		}
		hint = "countersign status"
	case "route/no_egress":
		add("%s is outside the mesh", rec.Host)
		hint = "call a service of the mesh, or start countersign with outboundTrafficPolicy: ALLOW_ANY in its --config"
	case "route/no_endpoint":
		add("no instance of %s is ready", to)
		hint = "countersign status"
	case "route/unverified_endpoint":
		add("who answered did not prove to be %s", to)
	default:
		add("%s", strings.ReplaceAll(rec.Reason, "_", " "))
	}
	if rec.Detail != "" {
		add("%s", rec.Detail)
	}
	if rec.Error != "" {
		add("%s", strings.ReplaceAll(rec.Error, "_", " "))
	}
	return lines, hint
}

// tokenReasons say in words what a token failed (tokens.md 12.1, 18.1).
var tokenReasons = map[string]string{
	"size": "too long", "charset": "a character that no token holds", "format": "not three parts", "base64": "an encoding with a second spelling",
	"header": "its header", "alg": "its algorithm", "kid": "its key", "typ": "its type", "json": "its claims are no JSON of the right types",
	"dup": "a name twice", "utf8": "text that is no UTF-8", "depth": "nested too deep", "sig": "its signature", "iss": "its issuer",
	"aud": "audience", "exp": "its end", "nbf": "its beginning", "iat": "its issue", "lifetime": "its life", "claims": "its claims",
	"revoked": "revoked", "binding": "binding", "stale": "revocations", "missing": "no token", "multiple": "more than one token",
	"exchange":    "the token service gives no token for it",
	"key_unknown": "no API key of this mesh", "key_expired": "an API key that counts no more", "key_scope": "an API key that may not be used like that",
	"key_in_url": "an API key in the URL, which is kept by everybody on the way: one that counts is revoked",
}

// explainToken says which check a token failed. The token itself is kept nowhere.
func (n *Node) explainToken(rec *audit.Record, from, to string) (lines []string, hint string) {
	if strings.HasPrefix(rec.Reason, "key_") {
		return explainKey(rec), n.keyHint(rec.APIKeyID)
	}
	what := tokenReasons[rec.Reason]
	if what == "" {
		what = strings.ReplaceAll(rec.Reason, "_", " ")
	}
	if rec.Detail != "" {
		what += ": " + rec.Detail
	}
	lines = append(lines, what)
	if rec.Side == audit.SideClient { // none to attach: nobody else is asked for a token on this side
		return lines, n.clientHint(rec)
	}
	name := to
	if ns, service, ok := strings.Cut(to, "/"); ok {
		name = service + "." + ns
	}
	ours := !strings.HasSuffix(rec.Detail, "(TrustedIssuer)") && !strings.HasSuffix(rec.Detail, "(RequestAuthentication)")
	if from != "" && ours {
		hint = fmt.Sprintf("countersign run %s -- countersign token issue --audience %s --header", strings.TrimPrefix(from, "default/"), name)
	}
	return lines, hint
}

// clientHint shows the OAuthClient that a call's token is attached for.
func (n *Node) clientHint(rec *audit.Record) string {
	for _, a := range n.snap.Load().Attach {
		ns, name, ok := strings.Cut(a.Client, "/")
		if ok && a.Service == rec.Service && a.Matches(rec.PeerID) {
			return fmt.Sprintf("countersign client show %s -n %s", name, ns)
		}
	}
	return "countersign client list -A"
}

func (n *Node) namespaceOf(id string) string {
	if p, err := spiffeid.FromString(id); err == nil {
		if ns, _, ok := identity.Split(p); ok {
			return ns
		}
	}
	return "default"
}

// tapRequest narrows a tap.
type tapRequest struct {
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Refused   bool   `json:"refused,omitempty"`
	Method    string `json:"method,omitempty"`
	Path      string `json:"path,omitempty"`
	Layer     string `json:"layer,omitempty"`
}

// tap streams decisions as they are made, one record a line. Lines that a slow reader lost
// are counted in a line {"dropped":n}.
func (n *Node) tap(w http.ResponseWriter, r *http.Request) {
	var req tapRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		admin.WriteError(w, n.o.Log, &admin.Problem{Code: "bad_request", Message: "reading the request: " + err.Error(), Status: http.StatusBadRequest})
		return
	}
	keep, err := req.filter()
	if err != nil {
		admin.WriteError(w, n.o.Log, err)
		return
	}
	records := n.recorder.Tap(r.Context(), keep)
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return
	}
	var buf []byte
	for t := range records {
		buf = buf[:0]
		if t.Dropped > 0 {
			buf = fmt.Appendf(buf, "{\"dropped\":%d}\n", t.Dropped)
		}
		buf = append(t.Record.AppendJSON(buf), '\n')
		if _, err := w.Write(buf); err != nil {
			return
		}
		if len(records) == 0 && out.Flush() != nil {
			return
		}
	}
}

func (t tapRequest) filter() (func(*audit.Record) bool, error) {
	var from, to admin.Name
	var err error
	if t.From != "" {
		if from, err = admin.ParseName(t.From, t.Namespace, true); err != nil {
			return nil, err
		}
	}
	if t.To != "" {
		if to, err = admin.ParseName(t.To, t.Namespace, true); err != nil {
			return nil, err
		}
	}
	return func(r *audit.Record) bool {
		if r.Kind != audit.KindRequest && r.Kind != audit.KindConnection || r.Decision == "" {
			return false
		}
		return (t.From == "" || isName(r.PeerID, from)) && (t.To == "" || isName(r.DstID, to)) &&
			(!t.Refused || r.Refused()) && (t.Method == "" || strings.EqualFold(r.Method, t.Method)) &&
			(t.Path == "" || strings.HasPrefix(r.Path, t.Path) || r.Route == t.Path) && (t.Layer == "" || r.Layer == t.Layer)
	}, nil
}

func (n *Node) status(context.Context, struct{}) (admin.LocalStatus, error) {
	s := n.snap.Load()
	out := admin.LocalStatus{
		Node: n.o.Name, TrustDomain: n.td.Name(), Version: n.o.Version, PID: os.Getpid(), Started: n.started.UTC(),
		Revision: s.Revision, InTouch: n.client.InTouch(), Inbound: n.listen.Inbound.Addr().String(), Engine: "safe",
		Workloads: []admin.Workload{}, Since: n.recorder.Started().UTC(),
	}
	out.LastMinute.Allowed, out.LastMinute.Refused, out.LastMinute.Limited = n.recorder.LastMinute()
	svids := n.svids.all()
	for _, e := range s.Entries {
		w := admin.Workload{Namespace: e.Namespace, Name: e.Name}
		if id, err := identity.ForWorkload(n.td, e.Namespace, e.ServiceAccount); err == nil {
			w.SPIFFEID = id.String()
		}
		if v := svids[e.Namespace+"/"+e.Name]; v != nil && time.Now().Before(v.NotAfter) {
			w.SVIDNotAfter = v.NotAfter
		}
		out.Workloads = append(out.Workloads, w)
	}
	out.Certificates = n.gateways.ends()
	return out, nil
}

// event passes what happened to a call of a run on to the person who started it.
func (x *run) event(e proxy.Event) {
	note := &admin.RunNote{Code: e.Code, Key: e.Code + " " + e.To + " " + e.Text}
	call := strings.TrimSpace(e.Method + " " + e.Path)
	switch e.Code {
	case "call_refused":
		if e.Text == "" {
			e.Text = x.n.whyRefused(e.Decision)
		}
		note.Text = fmt.Sprintf("refused: %s → %s %s: %s", e.From, e.To, call, e.Text)
		note.Hints = []string{"countersign why " + first(e.Decision, 8)}
		x.n.happened("refused", fmt.Sprintf("%s → %s   %s   %s", e.From, e.To, call, e.Text), "countersign why "+first(e.Decision, 8))
	case "no_service":
		note.Text = fmt.Sprintf("refused: %s → %q: no such service in namespace %s", e.From, e.To, x.req.Namespace)
		if e.Text != "" {
			note.Text = fmt.Sprintf("refused: %s → %s: %s", e.From, e.To, e.Text)
		}
		note.Hints = []string{"countersign status"}
	case "no_egress":
		note.Text = fmt.Sprintf("refused: %s → %s: it is outside the mesh", e.From, e.To)
		note.Hints = []string{"countersign why " + first(e.Decision, 8)}
	case "no_instance":
		note.Text = fmt.Sprintf("%s → %s: no instance is ready (%s: %s)", e.From, e.To, e.To, e.Text)
		note.Hints = []string{"countersign status"}
	case "no_token":
		note.Text = strings.TrimSuffix(fmt.Sprintf("%s → %s: no access token to attach: %s", e.From, e.To, e.Text), ": ")
		note.Hints = []string{"countersign why " + first(e.Decision, 8)}
	case "upstream_away":
		note.Text = fmt.Sprintf("%s → %s: allowed, but nothing answers on %s of %s", e.From, e.To, e.Text, e.To)
		note.Hints = []string{"countersign status"}
	case "upstream_bad":
		note.Text = fmt.Sprintf("%s → %s: allowed, but %s", e.From, e.To, e.Text)
		note.Hints = []string{"countersign why " + first(e.Decision, 8)}
	default:
		return
	}
	x.notes.add(note)
}

// whyRefused is the reason of a refusal that another side of this node made, in a few words.
func (n *Node) whyRefused(id string) string {
	rec, ok := n.recorder.Refused(func(r *audit.Record) bool { return r.ID == id })
	if !ok {
		return "the other side refused it"
	}
	switch rec.Reason {
	case policy.ReasonNoRule:
		return "no rule allows it"
	case policy.ReasonDenyRule:
		return "DENY " + rec.Policy + " matched"
	}
	return strings.ReplaceAll(rec.Reason, "_", " ")
}

func first(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
