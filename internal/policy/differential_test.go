package policy

import (
	"encoding/json"
	"testing"
)

// sameAnswer leaves out the position, which the reference does not keep.
func sameAnswer(a, b Verdict) bool {
	a.Pos, b.Pos = Pos{}, Pos{}
	return a == b
}

func asJSON(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}

// A million random decisions: the engine says what the reference says, rule included, and
// never allows what an Istio sidecar denies (istio-semantics 1, rule II).
func TestEngineEqualsReference(t *testing.T) {
	sets, conns, requests := 10_000, 10, 10
	if testing.Short() {
		sets /= 10 // for -race, which takes ten times as long
	}
	m := newMaker(1)
	allowed, narrower := 0, 0
	for i := range sets {
		m.clean = i%4 > 0
		set := m.set()
		compiled, faults := Compile(set)
		if m.clean && len(faults) > 0 {
			t.Fatalf("faults in a set that has none: %v\n%s", faults, asJSON(set))
		}
		ref, istio := naive{set: set}, naive{set: set, istio: true}
		for range conns {
			d, c := m.destination(), m.conn()
			program := compiled.For(d)
			bound := program.Bind(c)
			for range requests {
				q := m.request()
				got, want := bound.Decide(&q), ref.decide(d, c, q)
				if !sameAnswer(got, want) {
					t.Fatalf("engine %+v\nreference %+v\nset %s\ndestination %s\nconn %s\nrequest %s", got, want, asJSON(set), asJSON(d), asJSON(c), asJSON(q))
				}
				// Namespace countersign is not Istio's: there a root ALLOW does not reach.
				literal := istio.decide(d, c, q)
				if d.Namespace != reservedNamespace && got.Allow && !literal.Allow && m.clean {
					t.Fatalf("engine %+v is wider than Istio %+v\nset %s\nconn %s\nrequest %s", got, literal, asJSON(set), asJSON(c), asJSON(q))
				}
				if got.Allow {
					allowed++
				} else if literal.Allow {
					narrower++
				}
			}
		}
	}
	t.Logf("%d decisions, %d allowed, %d narrower than Istio", sets*conns*requests, allowed, narrower)
}

// Explain runs the same program: its verdict is Decide's, and what it says of the other
// rules is true when they are tried.
func TestExplainAgrees(t *testing.T) {
	m := newMaker(2)
	misses := 0
	for range 5_000 {
		set := m.set()
		compiled, _ := Compile(set)
		d, c, q := m.destination(), m.conn(), m.request()
		p := compiled.For(d)
		b := p.Bind(c)
		e := p.Explain(c, &q)
		if v := b.Decide(&q); e.Verdict != v {
			t.Fatalf("Explain says %+v, Decide %+v", e.Verdict, v)
		}
		switch e.Verdict.Reason {
		case ReasonDenyRule:
			without := b.deny
			var rest []residue
			full := p.bind(c, true)
			for _, r := range full.deny {
				if r.rule.verdict != e.Verdict {
					rest = append(rest, r)
				}
			}
			b.deny = rest
			v := b.Decide(&q)
			if (e.WouldAllowWithout != nil) != v.Allow || v.Allow && *e.WouldAllowWithout != v {
				t.Fatalf("without the rule: Explain says %+v, Decide %+v\n%s", e.WouldAllowWithout, v, asJSON(set))
			}
			b.deny = without
		case ReasonNoRule:
			if len(e.Nearest) != min(3, len(p.allow)) {
				t.Fatalf("%d misses of %d rules", len(e.Nearest), len(p.allow))
			}
			for _, miss := range e.Nearest {
				misses++
				if len(miss.Fields) == 0 || miss.Cost == 0 {
					t.Fatalf("a rule that does not match has no failing field: %+v\n%s\n%s\n%s", miss, asJSON(set), asJSON(c), asJSON(q))
				}
			}
		default:
			if e.Nearest != nil || e.WouldAllowWithout != nil || e.ReadAs != "" {
				t.Fatalf("an allow explained as a refusal: %+v", e)
			}
		}
	}
	if misses == 0 {
		t.Fatal("no miss was looked at")
	}
}

// What must not change a decision, and what may change it in one direction only.
func TestMetamorphic(t *testing.T) {
	m := newMaker(3)
	for range 3_000 {
		set := m.set()
		d := m.destination()
		base, _ := Compile(set)
		shuffled, _ := Compile(shuffle(m, set))
		split, _ := Compile(splitSources(set))
		extraDeny := set
		extraDeny.Policies = append([]Policy{{Namespace: d.Namespace, Name: "zz", Action: Deny, Rules: []Rule{m.rule()}}}, set.Policies...)
		denying, _ := Compile(extraDeny)
		extraAllow := set
		extraAllow.Policies = append([]Policy{{Namespace: d.Namespace, Name: "zz", Action: Allow, Rules: []Rule{m.rule()}}}, set.Policies...)
		allowing, _ := Compile(extraAllow)
		for range 10 {
			c, q := m.conn(), m.request()
			decide := func(x *Compiled) Verdict { b := x.For(d).Bind(c); return b.Decide(&q) }
			v := decide(base)
			if got := decide(shuffled); got != v {
				t.Fatalf("shuffled: %+v, was %+v\n%s", got, v, asJSON(set))
			}
			if got := decide(split); got != v {
				t.Fatalf("sources split: %+v, was %+v\n%s", got, v, asJSON(set))
			}
			if got := decide(denying); got.Allow && !v.Allow {
				t.Fatalf("another DENY rule allows: %+v, was %+v\n%s", got, v, asJSON(extraDeny))
			}
			if got := decide(allowing); base.For(d).HasAllow() && v.Allow && !got.Allow {
				t.Fatalf("another ALLOW rule denies: %+v, was %+v\n%s", got, v, asJSON(extraAllow))
			}
		}
	}
}

func shuffle(m maker, set Set) Set {
	var out Set
	_ = json.Unmarshal([]byte(asJSON(set)), &out)
	swap := func(list []string) { m.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] }) }
	m.Shuffle(len(out.Policies), func(i, j int) { out.Policies[i], out.Policies[j] = out.Policies[j], out.Policies[i] })
	for _, p := range out.Policies {
		for _, r := range p.Rules {
			m.Shuffle(len(r.From), func(i, j int) { r.From[i], r.From[j] = r.From[j], r.From[i] })
			m.Shuffle(len(r.To), func(i, j int) { r.To[i], r.To[j] = r.To[j], r.To[i] })
			for _, s := range r.From {
				swap(s.Principals)
				swap(s.NotNamespaces)
			}
			for _, o := range r.To {
				swap(o.Paths)
				swap(o.NotHosts)
			}
		}
	}
	return out
}

// splitSources writes one source of several principals as several sources of one.
func splitSources(set Set) Set {
	var out Set
	_ = json.Unmarshal([]byte(asJSON(set)), &out)
	for i := range out.Policies {
		for j := range out.Policies[i].Rules {
			r := &out.Policies[i].Rules[j]
			var from []Source
			for _, s := range r.From {
				if len(s.Principals) < 2 {
					from = append(from, s)
					continue
				}
				for _, v := range s.Principals {
					one := s
					one.Principals = []string{v}
					from = append(from, one)
				}
			}
			r.From = from
		}
	}
	return out
}
