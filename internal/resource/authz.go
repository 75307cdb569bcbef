package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	//lint:ignore SA1019 the only decoder that takes what users write, such as 1m (istio-semantics.md 2.3)
	"github.com/golang/protobuf/jsonpb"
	//lint:ignore SA1019 what jsonpb decodes into
	"github.com/golang/protobuf/proto"
	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"countersign.dev/internal/policy"
)

// maxAccounts is how many service accounts one list may name.
const maxAccounts = 16

// authorizationPolicyShape is the descriptor of istio.io/api with our limits and checks,
// less what this release does not build (istio-semantics.md 2.2).
var authorizationPolicyShape = sync.OnceValue(func() *shape {
	s := fromMessage((&security.AuthorizationPolicy{}).ProtoReflect().Descriptor())
	s.first("selector", "action", "provider")
	selectorShape(s)
	action := s.at("action")
	action.values, action.laterValues = []string{"ALLOW", "DENY"}, []string{"AUDIT", "CUSTOM"}
	targetShape(s)
	s.at("provider").later = true

	rule := s.at("rules[]")
	s.at("rules").most, s.at("rules").empty = 512, true
	for _, name := range []string{"from", "to", "when"} {
		rule.at(name).most = 512
	}
	condition := rule.at("when[]")
	condition.at("key").check, condition.at("key").lint = checkKey, lintKey

	source := rule.at("from[].source")
	for name, f := range source.fields {
		switch strings.ToLower(strings.TrimPrefix(name, "not")) {
		case "principals":
			f.elem.lint = lintPrincipal
		case "namespaces":
		case "requestprincipals":
			f.elem.lint = lintRequestPrincipal
		case "serviceaccounts":
			f.most, f.elem.check = maxAccounts, checkServiceAccount
		default:
			f.later = true
		}
	}
	operation := rule.at("to[].operation")
	for name, f := range operation.fields {
		switch strings.ToLower(strings.TrimPrefix(name, "not")) {
		case "hosts":
			f.elem.lint = lintHost
		case "ports":
			f.elem.check, f.elem.lint = checkPort, lintPort
		case "methods":
			f.elem.lint = lintMethod
		case "paths":
			f.elem.check, f.elem.lint = checkPath, lintPath
		}
	}
	return s
})

// checkAuthorizationPolicy holds what no single field can tell: istio-semantics.md 11.
func checkAuthorizationPolicy(o *object) {
	at := root.field("spec")
	spec := fieldsOf(o.value["spec"])
	o.checkTargets(spec, at)
	o.checkRefs(spec, at)
	o.checkSelector(spec, at)

	action := textOf(spec["action"])
	if _, ok := spec["provider"]; ok && action != "CUSTOM" && spec["provider"] != nil {
		o.judge(at.field("provider"))
		o.fault("E214", at.field("provider"), atKey, "a provider, and the action is not CUSTOM", "remove the provider")
	}
	rules, hasRules := spec["rules"].([]any)
	switch {
	case len(rules) > 0 || hasRules != (spec["rules"] != nil):
	case action == "DENY":
		o.faultOf("E204", "spec", at.field("rules"), atKey, "a DENY policy without rules would never be triggered", "write rules: [{}] for every request")
	case hasRules && (action == "ALLOW" || action == ""):
		o.warn("L44", at.field("rules"), atKey, "an empty list: nothing is allowed", "spec: {} says the same without surprise")
	}
	for i, rule := range rules {
		o.checkRule(fieldsOf(rule), at.field("rules").item(i))
	}
}

// checkTargets reports E201 for each target after the first.
func (o *object) checkTargets(spec map[string]any, at *path) {
	first := ""
	for _, name := range []string{"selector", "targetRef", "targetRefs"} {
		if v, ok := spec[name]; !ok || v == nil {
			continue
		}
		if first == "" {
			first = name
			continue
		}
		o.judge(at.field(first))
		o.judge(at.field(name))
		o.fault("E201", at.field(name), atKey, "together with "+first, "keep one of selector, targetRef, targetRefs")
	}
}

// targetShape takes Gateways of the object's namespace as targets; checkRefs holds the rest.
func targetShape(s *shape) {
	s.at("targetRef").later = true
	t := s.at("targetRefs")
	t.most = 16
	t.elem.at("namespace").later = true
}

// gatewaysOf are the names of the Gateways that an object is for.
func gatewaysOf(refs []*typev1beta1.PolicyTargetReference) []string {
	var out []string
	for _, r := range refs {
		out = append(out, r.GetName())
	}
	return out
}

// checkRefs takes no target but Gateways: other things are workloads here, which selector finds.
func (o *object) checkRefs(spec map[string]any, at *path) {
	at = at.field("targetRefs")
	for i, ref := range itemsOf(spec["targetRefs"]) {
		fields := fieldsOf(ref)
		switch {
		case o.judged[at.String()]:
		case textOf(fields["group"]) != gatewayGroup || textOf(fields["kind"]) != "Gateway":
			o.fault("E301", at, atKey, "only Gateways are targets here", "{group: "+gatewayGroup+", kind: Gateway, name: edge}, or selector for workloads")
			return
		case textOf(fields["name"]) == "":
			o.fault("E103", at.item(i), atValue, "name is missing", "name the Gateway")
		}
	}
}

// judge keeps a field that is not built from being reported as such: a fault that says
// more has been found.
func (o *object) judge(p *path) {
	if o.judged == nil {
		o.judged = make(map[string]bool)
	}
	o.judged[p.String()] = true
}

func (o *object) checkRule(rule map[string]any, at *path) {
	for i, entry := range itemsOf(rule["when"]) {
		if c, ok := entry.(map[string]any); ok {
			o.checkCondition(c, at.field("when").item(i))
		}
	}
	for _, side := range [][2]string{{"from", "source"}, {"to", "operation"}} {
		for i, entry := range itemsOf(rule[side[0]]) {
			p := at.field(side[0]).item(i)
			m, ok := entry.(map[string]any)
			if !ok {
				continue
			}
			inner, isMap := m[side[1]].(map[string]any)
			switch {
			case len(m) == 0:
				o.fault("E205", p, atValue, "an entry without "+side[1], "it would match everything: remove it, or say what it means")
			case isMap && len(inner) == 0:
				o.fault("E205", p.field(side[1]), atKey, "empty", "it would match everything: remove it, or say what it means")
			case side[1] == "source":
				o.checkSource(inner, p.field(side[1]))
			}
		}
	}
}

// checkSource reports serviceAccounts beside what they already say (E207).
func (o *object) checkSource(source map[string]any, at *path) {
	for _, name := range []string{"serviceAccounts", "notServiceAccounts"} {
		if _, ok := source[name]; !ok {
			continue
		}
		for _, other := range []string{"principals", "notPrincipals", "namespaces", "notNamespaces"} {
			if _, ok := source[other]; ok {
				o.fault("E207", at.field(name), atKey, "together with "+other, "a service account says the namespace too: keep one of them")
				break
			}
		}
	}
}

// selectorShape puts the checks of a WorkloadSelector into a shape.
func selectorShape(s *shape) {
	labels := s.at("selector.matchLabels")
	labels.key = func(key string) *complaint {
		if key == "" || strings.Contains(key, "*") {
			return complain("E202", quote(key)+" is not a label key", "every label is compared whole; leave the selector out for every workload")
		}
		return nil
	}
	labels.elem.check = func(value string) *complaint {
		if strings.Contains(value, "*") {
			return complain("E202", quote(value)+" has a star in it", "every label is compared whole; leave the label out for every value")
		}
		if len(value) > 63 {
			return complain("E102", fmt.Sprintf("a label value of %d characters, at most 63 are taken", len(value)), "")
		}
		return nil
	}
}

// checkSelector warns of a selector that selects everything.
func (o *object) checkSelector(spec map[string]any, at *path) {
	sel, ok := spec["selector"].(map[string]any)
	if !ok {
		return
	}
	if labels, isMap := sel["matchLabels"].(map[string]any); len(sel) == 0 || isMap && len(labels) == 0 {
		o.warn("L44", at.field("selector"), atKey, "empty: it selects every workload", "leave it out")
	}
}

func checkServiceAccount(s string) *complaint {
	if len(s) > 320 {
		return complain("E207", fmt.Sprintf("a service account of %d characters, at most 320 are taken", len(s)), "")
	}
	parts := strings.Split(s, "/")
	switch {
	case strings.Contains(s, "*"):
		return complain("E207", quote(s)+" has a star in it", "service accounts are compared whole; principals take patterns")
	case len(parts) > 2, slices.Contains(parts, ""):
		return complain("E207", quote(s)+" is not a service account", "write namespace/name, or name alone for the policy's namespace")
	}
	return nil
}

// decodeSpec is step 3 of istio-semantics.md 2.3: strict jsonpb, into the message.
func decodeSpec(o Object, into proto.Message) error {
	var top struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(o.JSON, &top); err != nil {
		return fmt.Errorf("decoding %s: %w", o.ID(), err)
	}
	strict := jsonpb.Unmarshaler{AllowUnknownFields: false}
	if err := strict.Unmarshal(bytes.NewReader(top.Spec), into); err != nil {
		return fmt.Errorf("decoding %s: %w", o.ID(), err)
	}
	return nil
}

// Policy is the AuthorizationPolicy of an accepted object.
func Policy(o Object) (policy.Policy, error) {
	if o.Kind != "AuthorizationPolicy" {
		return policy.Policy{}, fmt.Errorf("%s is no AuthorizationPolicy", o.ID())
	}
	var m security.AuthorizationPolicy
	if err := decodeSpec(o, &m); err != nil {
		return policy.Policy{}, err
	}
	out := policy.Policy{
		Namespace: o.Namespace, Name: o.Name,
		Selector: m.GetSelector().GetMatchLabels(), Gateways: gatewaysOf(m.GetTargetRefs()),
		WrittenBy: o.Annotations[writtenBy], Pos: o.Places.Object(),
	}
	switch m.GetAction() {
	case security.AuthorizationPolicy_ALLOW:
		out.Action = policy.Allow
	case security.AuthorizationPolicy_DENY:
		out.Action = policy.Deny
	default:
		return policy.Policy{}, fmt.Errorf("%s: action %s is not supported", o.ID(), m.GetAction())
	}
	for i, r := range m.GetRules() {
		rule := ruleOf(r)
		rule.Pos = o.Places.Rule(i)
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func ruleOf(r *security.Rule) (rule policy.Rule) {
	for _, f := range r.GetFrom() {
		rule.From = append(rule.From, sourceOf(f.GetSource()))
	}
	for _, t := range r.GetTo() {
		rule.To = append(rule.To, operationOf(t.GetOperation()))
	}
	for _, c := range r.GetWhen() {
		rule.When = append(rule.When, policy.Condition{Key: c.GetKey(), Values: c.GetValues(), NotValues: c.GetNotValues()})
	}
	return rule
}

func sourceOf(s *security.Source) policy.Source {
	return policy.Source{
		Principals: s.GetPrincipals(), NotPrincipals: s.GetNotPrincipals(),
		Namespaces: s.GetNamespaces(), NotNamespaces: s.GetNotNamespaces(),
		ServiceAccounts: s.GetServiceAccounts(), NotServiceAccounts: s.GetNotServiceAccounts(),
		RequestPrincipals: s.GetRequestPrincipals(), NotRequestPrincipals: s.GetNotRequestPrincipals(),
	}
}

func operationOf(t *security.Operation) policy.Operation {
	return policy.Operation{
		Hosts: t.GetHosts(), NotHosts: t.GetNotHosts(),
		Ports: t.GetPorts(), NotPorts: t.GetNotPorts(),
		Methods: t.GetMethods(), NotMethods: t.GetNotMethods(),
		Paths: t.GetPaths(), NotPaths: t.GetNotPaths(),
	}
}
