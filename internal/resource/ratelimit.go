package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	//lint:ignore SA1019 as in authz.go
	"github.com/golang/protobuf/jsonpb"
	security "istio.io/api/security/v1beta1"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// Bounds of a RateLimit (gateway.md 16, 18).
const (
	maxLimitRules = 16
	maxKeyParts   = 4
	maxUnits      = 1_000_000_000 // requests, burst, cost
	maxSlots      = 1_000_000
	maxFill       = 1 << 61 // ns that a bucket takes to fill
)

// limitContent is the code of what is wrong with a RateLimit (istio-semantics.md 11).
const limitContent = "E403"

// rateLimitShape is gateway.md 16. Conditions are those of AuthorizationPolicy; a list of them may be empty, because
// what is not narrowed is counted.
var rateLimitShape = sync.OnceValue(func() *shape {
	target := fieldsIn(
		named{"group", textWith(anyText)},
		named{"kind", textWith(nil)},
		named{"name", textWith(nil)},
		named{"sectionName", textWith(nil)},
		named{"namespace", laterField(textWith(anyText))},
	)
	conditions := func(name string) *shape {
		s := *authorizationPolicyShape().at("rules[]").at(name)
		s.empty = true
		return &s
	}
	count := func(most int64) *shape { return &shape{form: integer, check: checkUnits(most)} }
	soon := func() *shape { return laterField(&shape{form: anything}) }
	key := listOf(maxKeyParts, textWith(checkKeyPart))
	key.empty = true
	rule := fieldsIn(
		named{"name", textWith(checkLabel("the name of a rule"))},
		named{"from", conditions("from")},
		named{"to", conditions("to")},
		named{"when", conditions("when")},
		named{"key", key},
		named{"limit", fieldsIn(
			named{"requests", count(maxUnits)},
			named{"per", span("1s", "24h", "such as 1m")},
			named{"burst", count(maxUnits)},
		)},
		named{"concurrent", count(maxSlots)},
		named{"quota", soon()},
		named{"cost", fieldsIn(
			named{"fixed", count(maxUnits)}, named{"requestBytes", soon()}, named{"responseBytes", soon()}, named{"responseHeader", soon()},
		)},
		named{"share", oneOf("share", "local").orLater("leased", "exact")},
		named{"onStoreAway", oneOf("answer", "local").orLater("open", "closed")},
		named{"whenFull", oneOf("answer", "shared", "refuse")},
		named{"stage", oneOf("stage", "late", "early")},
		named{"expose", &shape{form: boolean}},
	)
	targets := listOf(16, target)
	targets.empty = true
	return fieldsIn(named{"targetRefs", targets}, named{"mode", oneOf("mode", "enforce", "shadow")}, named{"rules", listOf(maxLimitRules, rule)})
})

func checkUnits(most int64) func(string) *complaint {
	return func(s string) *complaint {
		if n, err := strconv.ParseInt(s, 10, 64); err != nil || n < 1 || n > most {
			return complain(limitContent, fmt.Sprintf("%s is outside 1 to %d", clip(s), most), "")
		}
		return nil
	}
}

func checkKeyPart(s string) *complaint {
	if _, err := route.ParseKeyPart(s); err != nil {
		hint := "principal, peer, apiKey, client, claim.NAME, ip, ip/24/48, header.NAME, host, method, route, path or service"
		if strings.HasPrefix(s, "header.") {
			hint = "a header that reaches the Gateway's policy, such as header.x-tenant"
		}
		return complain(limitContent, quote(s)+" is not a part of a key", hint)
	}
	return nil
}

// checkRateLimit holds what no single field can tell.
func checkRateLimit(o *object) {
	spec, at := fieldsOf(o.value["spec"]), root.field("spec")
	for i, v := range itemsOf(spec["targetRefs"]) {
		o.checkLimitTarget(fieldsOf(v), at.field("targetRefs").item(i))
	}
	if _, ok := spec["rules"]; !ok {
		o.faultOf(limitContent, "spec", at, atKey, "rules is missing", "rules: [{name: burst, key: [principal], limit: {requests: 100, per: 1m}}]")
	}
	seen := map[string]bool{}
	for i, v := range itemsOf(spec["rules"]) {
		rule, ok := v.(map[string]any)
		if !ok {
			continue
		}
		p := at.field("rules").item(i)
		switch name := textOf(rule["name"]); {
		case rule["name"] == nil:
			o.fault(limitContent, p, atValue, "a rule without name", "name: burst")
		case seen[name]:
			o.fault(limitContent, p.field("name"), atValue, quote(name)+" stands twice", "records and answers name a rule by it: choose another")
		default:
			seen[name] = true
		}
		o.checkRule(rule, p)
		o.checkLimitNumbers(rule, p)
		o.checkLimitKey(rule, p)
		if rule["stage"] == "early" {
			o.checkEarly(rule, p)
		}
	}
}

func (o *object) checkLimitTarget(ref map[string]any, p *path) {
	group, kind := textOf(ref["group"]), textOf(ref["kind"])
	switch {
	case group == "" && kind == "Service", group == gatewayGroup && kind == "GRPCRoute":
		o.fault("E301", p, atValue, "limits of a "+kind+" are not supported yet", "name a Gateway or an HTTPRoute")
	case group != gatewayGroup || kind != "Gateway" && kind != "HTTPRoute":
		o.fault(limitContent, p, atValue, "a target is a Gateway or an HTTPRoute", "{group: "+gatewayGroup+", kind: HTTPRoute, name: shop}")
	case textOf(ref["name"]) == "":
		o.fault("E103", p, atValue, "name is missing", "name the "+kind)
	}
}

// checkLimitNumbers asks for exactly one of limit, concurrent and quota, and that a bucket fills before the clock ends.
func (o *object) checkLimitNumbers(rule map[string]any, p *path) {
	var given []string
	for _, name := range []string{"limit", "concurrent", "quota"} {
		if _, ok := rule[name]; ok {
			given = append(given, name)
		}
	}
	switch {
	case len(given) == 0:
		o.fault(limitContent, p, atValue, "neither limit nor concurrent", "limit: {requests: 100, per: 1m}, or concurrent: 10")
	case len(given) > 1:
		o.fault(limitContent, p.field(given[1]), atKey, "together with "+given[0], "put it into a rule of its own: all rules hold together")
	}
	if _, ok := rule["cost"]; ok && len(given) == 1 && given[0] == "concurrent" {
		o.fault(limitContent, p.field("cost"), atKey, "together with concurrent", "what runs is counted as one")
	}
	limit, ok := rule["limit"].(map[string]any)
	if !ok {
		return
	}
	for _, name := range []string{"requests", "per"} {
		if _, ok := limit[name]; !ok {
			o.fault(limitContent, p.field("limit"), atKey, name+" is missing", "limit: {requests: 100, per: 1m}")
			return
		}
	}
	requests, burst := units(limit["requests"]), units(limit["burst"])
	per, _ := parseDuration(textOf(limit["per"]))
	if requests > 0 && burst > maxFill/max(1, (int64(per)+requests-1)/requests) {
		o.fault(limitContent, p.field("limit").field("burst"), atValue, "the burst takes more than 73 years to come back", "burst: "+strconv.FormatInt(requests, 10))
	}
}

func units(v any) int64 {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return i
}

// checkLimitKey refuses keys that are nothing but what a stranger chooses: each of his requests would have a bucket of
// its own.
func (o *object) checkLimitKey(rule map[string]any, p *path) {
	var chosen string
	given := false
	seen := map[string]bool{}
	at := p.field("key")
	for i, text := range textsOf(rule["key"]) {
		part, err := route.ParseKeyPart(text)
		switch {
		case err != nil:
			return // the shape reports it
		case seen[text]:
			o.fault(limitContent, at.item(i), atValue, quote(text)+" stands twice", "remove one")
		case part.Chosen():
			chosen = text
		case part.Given():
			given = true
		}
		seen[text] = true
	}
	if chosen != "" && !given {
		o.fault(limitContent, at, atKey, clip(chosen)+" is the caller's to choose: he would have a new bucket for each request",
			"add who calls: principal, peer, apiKey, client, claim.NAME or ip")
	}
}

// checkEarly takes nothing that is known only after the identity step.
func (o *object) checkEarly(rule map[string]any, p *path) {
	const hint = "stage: early knows connection, host, method, path and route alone; leave stage out"
	for i, text := range textsOf(rule["key"]) {
		if part, err := route.ParseKeyPart(text); err == nil && !part.Early() {
			o.fault(limitContent, p.field("key").item(i), atValue, clip(text)+" is not known early", hint)
		}
	}
	for i, v := range itemsOf(rule["from"]) {
		source := fieldsOf(at(v, "source"))
		for _, name := range []string{"requestPrincipals", "notRequestPrincipals"} {
			if _, ok := source[name]; ok {
				o.fault(limitContent, p.field("from").item(i).field("source").field(name), atKey, "not known early", hint)
			}
		}
	}
	for i, v := range itemsOf(rule["when"]) {
		if key := word(v, "key"); !earlyCondition(key) {
			o.fault(limitContent, p.field("when").item(i).field("key"), atValue, clip(key)+" is not known early", hint)
		}
	}
}

func earlyCondition(key string) bool {
	switch key {
	case "destination.port", "connection.sni", "remote.ip",
		"request.headers[:method]", "request.headers[:path]", "request.headers[:authority]", "request.headers[host]":
		return true
	}
	return strings.HasPrefix(key, "source.")
}

// limitRuleSpec is a rule as stored; match has judged it.
type limitRuleSpec struct {
	Name           string
	From, To, When json.RawMessage
	Key            []string
	Limit          struct {
		Requests, Burst int64
		Per             string
	}
	Concurrent int64
	Cost       struct {
		Fixed                                       int64
		RequestBytes, ResponseBytes, ResponseHeader json.RawMessage
	}
	Quota                               json.RawMessage
	Share, OnStoreAway, WhenFull, Stage string
	Expose                              *bool
}

// RateLimit is the value of an accepted RateLimit.
func RateLimit(o Object, created time.Time, generation int64) (route.RateLimit, error) {
	spec, err := specOf[struct {
		TargetRefs []refSpec
		Mode       string
		Rules      []limitRuleSpec
	}](o, "RateLimit")
	if err != nil {
		return route.RateLimit{}, err
	}
	out := route.RateLimit{Meta: meta(o, created, generation), Shadow: spec.Mode == "shadow"}
	for _, r := range spec.TargetRefs {
		out.Targets = append(out.Targets, route.LimitTarget{Ref: r.ref(o.Namespace), Section: r.SectionName})
	}
	for i, r := range spec.Rules {
		rule, err := r.rule(o, i)
		if err != nil {
			return route.RateLimit{}, fmt.Errorf("%s: rule %d: %w", o.ID(), i, err)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func (r *limitRuleSpec) rule(o Object, i int) (route.LimitRule, error) {
	if r.Quota != nil || r.Cost.RequestBytes != nil || r.Cost.ResponseBytes != nil || r.Cost.ResponseHeader != nil {
		return route.LimitRule{}, fmt.Errorf("quota and costs other than fixed are not built")
	}
	out := route.LimitRule{
		Name: r.Name, Requests: r.Limit.Requests, Burst: r.Limit.Burst, Concurrent: r.Concurrent, Cost: r.Cost.Fixed,
		Refuse: r.WhenFull == "refuse", Early: r.Stage == "early", Hidden: r.Expose != nil && !*r.Expose,
	}
	for _, text := range r.Key {
		part, err := route.ParseKeyPart(text)
		if err != nil {
			return route.LimitRule{}, fmt.Errorf("key part %s: %w", quote(text), err)
		}
		out.Key = append(out.Key, part)
	}
	var err error
	if out.Per, err = durationOr(r.Limit.Per, 0); err != nil {
		return route.LimitRule{}, err
	}
	if out.When, err = r.conditions(); err != nil {
		return route.LimitRule{}, err
	}
	out.When.Pos = o.Places.Rule(i)
	_, err = policy.NewMatcher("", o.Namespace, out.When)
	return out, err
}

// conditions reads from, to and when as the rule of an AuthorizationPolicy is read.
func (r *limitRuleSpec) conditions() (policy.Rule, error) {
	text, err := json.Marshal(map[string]json.RawMessage{"from": orNull(r.From), "to": orNull(r.To), "when": orNull(r.When)})
	if err != nil {
		return policy.Rule{}, err
	}
	var m security.Rule
	strict := jsonpb.Unmarshaler{AllowUnknownFields: false}
	if err := strict.Unmarshal(bytes.NewReader(text), &m); err != nil {
		return policy.Rule{}, err
	}
	return ruleOf(&m), nil
}

func orNull(m json.RawMessage) json.RawMessage {
	if m == nil {
		return json.RawMessage("null")
	}
	return m
}
