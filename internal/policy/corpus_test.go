package policy_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
)

// corpusSet and corpusRequest are the two kinds of line of the file.
type corpusSet struct {
	TrustDomain   string            `json:"trust_domain"`
	RootNamespace string            `json:"root_namespace"`
	Namespace     string            `json:"namespace"`
	Labels        map[string]string `json:"labels"`
	Modes         map[string]string `json:"modes"`
	Policies      string            `json:"policies"`
}

type corpusRequest struct {
	Request struct {
		Destination struct {
			Port uint16 `json:"port"`
		} `json:"destination"`
		Peer struct {
			ID string `json:"spiffe_id"`
		} `json:"peer"`
		Method string `json:"method"`
		Path   string `json:"path"`
		Host   string `json:"host"`
	} `json:"request"`
	Envoy struct {
		Decision string `json:"decision"`
	} `json:"envoy"`
}

// document is as much of Istio's YAML as the corpus holds; the product decodes it in package
// resource, strictly.
type document struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Action   policy.Action `json:"action"`
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		Rules []struct {
			From []struct {
				Source policy.Source `json:"source"`
			} `json:"from"`
			To []struct {
				Operation policy.Operation `json:"operation"`
			} `json:"to"`
		} `json:"rules"`
		MTLS struct {
			Mode policy.Mode `json:"mode"`
		} `json:"mtls"`
		PortLevelMTLS map[string]struct {
			Mode policy.Mode `json:"mode"`
		} `json:"portLevelMtls"`
	} `json:"spec"`
}

func (d *document) policy() policy.Policy {
	p := policy.Policy{
		Namespace: d.Metadata.Namespace, Name: d.Metadata.Name,
		Action: d.Spec.Action, Selector: d.Spec.Selector.MatchLabels,
	}
	for _, r := range d.Spec.Rules {
		var rule policy.Rule
		for _, f := range r.From {
			rule.From = append(rule.From, f.Source)
		}
		for _, o := range r.To {
			rule.To = append(rule.To, o.Operation)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

func (d *document) peerAuthentication(t *testing.T) policy.PeerAuthentication {
	p := policy.PeerAuthentication{
		Namespace: d.Metadata.Namespace, Name: d.Metadata.Name,
		Selector: d.Spec.Selector.MatchLabels, Mode: d.Spec.MTLS.Mode,
	}
	for k, v := range d.Spec.PortLevelMTLS {
		n, err := strconv.ParseUint(k, 10, 16)
		if err != nil {
			t.Fatalf("port %q: %v", k, err)
		}
		if p.Ports == nil {
			p.Ports = map[uint16]policy.Mode{}
		}
		p.Ports[uint16(n)] = v.Mode
	}
	return p
}

func (s *corpusSet) compile(t *testing.T) (c *policy.Compiled, odd bool) {
	set := policy.Set{TrustDomain: s.TrustDomain, RootNamespace: s.RootNamespace, DefaultMode: policy.Permissive}
	for doc := range strings.SplitSeq(s.Policies, "\n---\n") {
		var d document
		if err := yaml.Unmarshal([]byte(doc), &d); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		switch d.Kind {
		case "AuthorizationPolicy":
			p := d.policy()
			set.Policies = append(set.Policies, p)
			odd = odd || hasOddValue(p)
		case "PeerAuthentication":
			set.PeerAuth = append(set.PeerAuth, d.peerAuthentication(t))
		case "":
		default:
			t.Fatalf("kind %q", d.Kind)
		}
	}
	c, faults := policy.Compile(set)
	if len(faults) > 0 {
		t.Fatalf("%v in\n%s", faults, s.Policies)
	}
	return c, odd
}

// hasOddValue: namespaces and serviceAccounts are patterns over the whole ID in Istio, where a
// dot, a slash and a star before the end mean more than they say (istio-semantics 13, P30).
func hasOddValue(p policy.Policy) bool {
	odd := func(list []string) bool {
		for _, v := range list {
			star := strings.Index(v, "*")
			if strings.Contains(v, ".") || strings.Contains(v, "/sa") || star >= 0 && star < len(v)-1 {
				return true
			}
		}
		return false
	}
	for _, r := range p.Rules {
		for _, s := range r.From {
			if odd(s.Namespaces) || odd(s.NotNamespaces) || odd(s.ServiceAccounts) || odd(s.NotServiceAccounts) {
				return true
			}
		}
	}
	return false
}

// plain says that both readings of a request are one (istio-semantics 7.6).
func (r *corpusRequest) plain(path string, peer *policy.Peer) bool {
	for _, s := range []string{"//", ";", "%2", "%5"} {
		if strings.Contains(path, s) {
			return false
		}
	}
	return !strings.Contains(r.Request.Host, ":") && !strings.HasSuffix(r.Request.Host, ".") &&
		(peer == nil || peer.Canonical && !peer.Foreign)
}

// TestCorpus compares with 76,038 answers of a real Envoy under Istio's own translation
// (istio-semantics 12): never wider, and equal where both readings are one. The file is no
// part of this repository. Where it is missing, neither named by COUNTERSIGN_CORPUS (the
// file or its directory) nor beside the working tree, the comparison is left out and the log
// says so.
func TestCorpus(t *testing.T) {
	const name = "authz-core.jsonl.gz"
	at := os.Getenv("COUNTERSIGN_CORPUS")
	switch {
	case at == "":
		at = filepath.Join("..", "..", "..", "shared", "corpus", name)
	case !strings.HasSuffix(at, ".gz"):
		at = filepath.Join(at, name)
	}
	f, err := os.Open(at)
	if errors.Is(err, fs.ErrNotExist) {
		t.Logf("LEFT OUT: no corpus at %s; the comparison with a real Envoy was not made (set COUNTERSIGN_CORPUS)", at)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)

	var (
		set                                          corpusSet
		program                                      *policy.Program
		odd                                          bool
		judged, refused, narrower, compared, leftOut int
	)
	for lines.Scan() {
		line := lines.Bytes()
		if strings.Contains(string(line[:min(len(line), 64)]), `"trust_domain"`) {
			set = corpusSet{}
			if err := json.Unmarshal(line, &set); err != nil {
				t.Fatal(err)
			}
			var c *policy.Compiled
			c, odd = set.compile(t)
			program = c.For(policy.Destination{Namespace: set.Namespace, Labels: set.Labels})
			for port, mode := range set.Modes {
				n, err := strconv.ParseUint(port, 10, 16)
				if err != nil {
					t.Fatal(err)
				}
				if got := program.Mode(uint16(n)); string(got) != mode {
					t.Errorf("mode of port %s is %s, Istio's %s\n%s", port, got, mode, set.Policies)
				}
			}
			continue
		}
		var r corpusRequest
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		judged++
		path, _, _, fault := h1.Normalize(r.Request.Path)
		if fault != nil {
			refused++ // 400 before policy
			continue
		}
		q := policy.Request{Method: r.Request.Method, Host: r.Request.Host, Path: path, Wide: h1.Wide(path)}
		conn := policy.Conn{Port: r.Request.Destination.Port, HTTP: true}
		if r.Request.Peer.ID != "" {
			p := policy.ParsePeer(r.Request.Peer.ID, set.TrustDomain)
			conn.Peer = &p
		}
		bound := program.Bind(conn)
		v, allowed := bound.Decide(&q), r.Envoy.Decision == "allow"
		switch {
		case v.Allow && !allowed:
			t.Errorf("wider than Istio: %+v\n%s\n%s", v, line, set.Policies)
		case !v.Allow && allowed:
			narrower++
		}
		if !r.plain(path, conn.Peer) {
			continue
		}
		if odd {
			leftOut++
			continue
		}
		compared++
		if v.Allow != allowed {
			t.Errorf("both readings are one, but we say %+v and Istio %s\n%s\n%s", v, r.Envoy.Decision, line, set.Policies)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if judged < 70_000 || compared < 1_000 {
		t.Errorf("%d requests judged, %d compared: is this the whole corpus?", judged, compared)
	}
	t.Logf("%d requests: %d refused before policy, %d narrower, %d compared for equality, %d with odd values left out of that", judged, refused, narrower, compared, leftOut)
}
