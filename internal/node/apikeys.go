package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/control"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/snapshot"
)

// keySet is what a node knows of API keys, and what it was made of.
type keySet struct {
	blocks  apikey.Blocks
	records map[string][]apikey.Record // by block
	issuer  string
	set     *apikey.Set
}

// apiKeys makes the set of a snapshot. There may be 100,000 keys: what did not change is kept. Without a token service
// a key would be the principal of nobody, so none is taken.
func (n *Node) apiKeys(s *snapshot.Node, before *keySet) (*keySet, error) {
	now := &keySet{blocks: s.APIKeys}
	if s.Tokens != nil {
		now.issuer = s.Tokens.Issuer
	}
	if before != nil && before.issuer == now.issuer && before.blocks.Equal(now.blocks) {
		return before, nil
	}
	if len(now.blocks) == 0 || now.issuer == "" {
		return now, nil
	}
	if before == nil {
		before = &keySet{}
	}
	var err error
	if now.records, err = now.blocks.Read(before.blocks, before.records); err != nil {
		return nil, err
	}
	var faults []apikey.Fault
	if now.set, faults = apikey.Build(slices.Concat(slices.Collect(maps.Values(now.records))...), s.Mesh.TrustDomain, nil); len(faults) > 0 {
		n.o.Log.Warn("an API key is not taken", "key", faults[0].Namespace+"/"+faults[0].Name, "field", faults[0].Field, "why", faults[0].Text, "of", len(faults))
	}
	return now, nil
}

// keyHeaders are the fields that Gateways take API keys from, where one says so.
func keyHeaders(s *snapshot.Node) map[proxy.KeyPlace]string {
	out := map[proxy.KeyPlace]string{}
	for _, g := range s.Edge.Ours() {
		for listener, name := range g.KeyHeaders {
			out[proxy.KeyPlace{Gateway: proxy.ServiceKey(g.Name), Listener: listener}] = name
		}
	}
	return out
}

const (
	keyReportEvery = 5 * time.Second
	maxKeyReport   = 10_000 // ids of one report
	maxExposed     = 64     // keys in URLs that wait to be told
)

// keyReport is what the server has not heard of keys yet. The request path only adds to it.
type keyReport struct {
	mu      sync.Mutex // guards the rest; held for a look-up
	used    map[string]bool
	exposed map[string]string // id → Gateway
	wake    chan struct{}
}

func newKeyReport() *keyReport {
	return &keyReport{used: map[string]bool{}, exposed: map[string]string{}, wake: make(chan struct{}, 1)}
}

// use notes that a secret was taken. Ids are those of keys that are known, so there are no more than those.
func (r *keyReport) use(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used[id] = true
}

// expose notes that a secret stood in a URL, which is told at once.
func (r *keyReport) expose(id, gateway string) {
	r.mu.Lock()
	if len(r.exposed) < maxExposed {
		r.exposed[id] = gateway
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *keyReport) take() *control.KeyUses {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.used)+len(r.exposed) == 0 {
		return nil
	}
	out := &control.KeyUses{}
	for id := range r.used {
		if len(out.Used) == maxKeyReport {
			break
		}
		out.Used = append(out.Used, id)
		delete(r.used, id)
	}
	for _, id := range slices.Sorted(maps.Keys(r.exposed)) {
		out.Exposed = append(out.Exposed, &control.Exposed{Id: id, Gateway: r.exposed[id]})
	}
	clear(r.exposed)
	return out
}

// back takes in again what was not heard.
func (r *keyReport) back(u *control.KeyUses) {
	for _, id := range u.Used {
		r.use(id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range u.Exposed {
		if len(r.exposed) < maxExposed {
			r.exposed[e.Id] = e.Gateway
		}
	}
}

// reportKeys tells the server of keys, until ctx ends.
func (n *Node) reportKeys(ctx context.Context) error {
	tick := time.NewTicker(keyReportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-n.keys.wake:
		}
		u := n.keys.take()
		if u == nil {
			continue
		}
		if err := n.tellKeys(ctx, u); err != nil {
			n.keys.back(u)
			if ctx.Err() == nil {
				n.o.Log.Debug("the server did not hear of the API keys that were used", "error", err)
			}
		}
	}
}

func (n *Node) tellKeys(ctx context.Context, u *control.KeyUses) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Keys{Keys: u}}); err != nil {
		return fmt.Errorf("reporting API keys: %w", err)
	}
	return nil
}

// keyHint shows the key that has an id.
func (n *Node) keyHint(id string) string {
	keys := n.snap.Load().keys
	if keys == nil {
		return "countersign keys -A"
	}
	holder := keys.set.Holder(id)
	switch {
	case holder == nil:
		return "countersign keys -A"
	case holder.Namespace == "default":
		return "countersign key show " + holder.Name
	}
	return "countersign key show " + holder.Name + " -n " + holder.Namespace
}

// explainKey says why a key was not taken.
func explainKey(rec *audit.Record) []string {
	what := tokenReasons[rec.Reason]
	for part := range strings.SplitSeq(rec.Detail, "; ") {
		if part != "" && part != rec.Reason {
			what += ": " + part
		}
	}
	return []string{what}
}
