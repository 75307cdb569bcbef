package apikey

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
)

// The codes of istio-semantics.md 11 that are given here.
const (
	tooMany = "E102"
	badName = "E103"
	badEnum = "E110"
	twice   = "E113"
	badCIDR = "E208"
	wrong   = "E224"
	foreign = "E308"
)

// Fault is what is wrong with a record. A key in the wrong place is quoted without its secret.
type Fault struct {
	Namespace, Name string // of the object
	Code            string
	Field           string // spec.secrets[0].id
	Text, Hint      string
}

type check struct {
	*Record
	faults []Fault
}

func (c *check) fault(code, field, hint, format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = shorten(s)
		}
	}
	c.faults = append(c.faults, Fault{c.Namespace, c.Name, code, field, fmt.Sprintf(format, args...), hint})
}

// Validate holds a record that is applied against tokens.md 14.2, as far as it can be judged
// alone: whether audiences, scopes and routes are there, and granted, is to be asked where they
// are known. With a trust domain an owner that is a SPIFFE ID must be of it; "": of any.
func (r *Record) Validate(trustDomain string, now time.Time) []Fault {
	c := check{Record: r}
	c.all(trustDomain)
	if r.Expires.After(now.Add(MaxLife)) {
		c.fault(wrong, "spec.expires", "at most "+now.UTC().Add(MaxLife).Format(time.RFC3339), "expires is more than a year away")
	}
	return c.faults
}

// all is what holds at any time, on any clock.
func (c *check) all(trustDomain string) {
	r := c.Record
	if identity.CheckLabel(r.Namespace) != nil {
		c.fault(badName, "metadata.namespace", "", "%.80q is no namespace", r.Namespace)
	}
	if !subdomain(r.Name) {
		c.fault(badName, "metadata.name", "a-z, 0-9, - and dots: partner-acme", "%.80q is no name", r.Name)
	}
	if !r.Env.valid() {
		c.fault(badEnum, "spec.env", "write live or test", "%.80q is no environment", string(r.Env))
	}
	c.secrets()
	c.owner(trustDomain)
	c.reach()
	c.cidrs()
	if r.Expires.IsZero() {
		c.fault(wrong, "spec.expires", "a time within a year, such as 2027-02-18T00:00:00Z", "expires is missing")
	}
	if r.LimitClass != "" && identity.CheckLabel(r.LimitClass) != nil {
		c.fault(badName, "spec.limitClass", "the name of a RateLimit of the namespace", "%.80q is no name", r.LimitClass)
	}
}

func (c *check) secrets() {
	if n := len(c.Secrets); n < 1 || n > MaxSecrets {
		c.fault(wrong, "spec.secrets", "countersign key create and key rotate make them", "%d secrets: one, or two while a key is rotated", n)
	}
	for i, s := range c.Secrets {
		field := fmt.Sprintf("spec.secrets[%d]", i)
		if len(s.ID) != idLen || strings.ContainsFunc(s.ID, func(r rune) bool { return r > 'z' || !digit(byte(r)) }) {
			c.fault(wrong, field+".id", "the part of the key between env and secret", "id is not %d letters and digits", idLen)
		} else if slices.ContainsFunc(c.Secrets[:i], func(o Secret) bool { return o.ID == s.ID }) {
			c.fault(twice, field+".id", "an id names one secret", "id %s stands twice", s.ID)
		}
		if _, ok := decodeSum(s.SHA256); !ok {
			c.fault(wrong, field+".sha256", "the hash that key create prints, never the key", "sha256 is not %d digits of lower-case hexadecimal", hex.EncodedLen(sha256.Size))
		}
	}
}

// decodeSum reads a hash in its one spelling.
func decodeSum(s string) (sum [sha256.Size]byte, ok bool) {
	if len(s) != hex.EncodedLen(len(sum)) || s != strings.ToLower(s) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return sum, err == nil
}

// owner is a workload of the namespace, or a user: who may name one is decided at apply.
func (c *check) owner(trustDomain string) {
	const field, hint = "spec.owner", "spiffe://<trust domain>/ns/<own namespace>/sa/NAME, or a user, alias:id"
	if c.Owner == "" {
		c.fault(wrong, field, hint, "owner is missing")
		return
	}
	if !strings.HasPrefix(c.Owner, "spiffe:") {
		if !user(c.Owner) {
			c.fault(wrong, field, hint, "%.80q is neither a SPIFFE ID nor a user", c.Owner)
		}
		return
	}
	id, err := identity.ParseID([]byte(c.Owner))
	switch {
	case err != nil:
		c.fault(wrong, field, hint, "%.80q is no SPIFFE ID", c.Owner)
	case c.Namespace == identity.ReservedNamespace:
		c.fault(wrong, field, "", "namespace %s is reserved for nodes and servers: they own no keys", identity.ReservedNamespace)
	case !within(id, c.Namespace) || trustDomain != "" && id.TrustDomain().Name() != trustDomain:
		c.fault(foreign, field, hint, "the owner is no identity of namespace %s", c.Namespace)
	}
}

// within reports an ID below /ns/<namespace>/.
func within(id spiffeid.ID, namespace string) bool {
	rest, ok := strings.CutPrefix(id.Path(), "/ns/"+namespace+"/")
	return ok && rest != ""
}

// user reports <alias>:<id>, where the alias is none that is read as something else.
func user(s string) bool {
	alias, id, _ := strings.Cut(s, ":")
	return len(s) <= MaxOwner && subdomain(alias) && alias != "key" && alias != "cert" && plain(id)
}

// reach is what the key is for.
func (c *check) reach() {
	if len(c.Audiences)+len(c.Routes) == 0 {
		c.fault(wrong, "spec", "audiences: [orders] or routes: ["+c.Namespace+"/orders]", "neither audiences nor routes: the key would reach nothing")
	}
	each(c, "spec.scopes", c.Scopes, grant.MaxScopes, func(field, s string) {
		if !grant.ValidScope(s) {
			c.fault(wrong, field, `printable ASCII without blanks, " and \: orders:read`, "%.80q is not a scope", s)
		}
	})
	each(c, "spec.audiences", c.Audiences, MaxAudiences, func(field, s string) {
		if len(s) > MaxAudience || !plain(s) {
			c.fault(wrong, field, "a service, such as orders, or a URI", "%.80q is not an audience", s)
		}
	})
	each(c, "spec.routes", c.Routes, MaxRoutes, func(field, s string) {
		ns, name, _ := strings.Cut(s, "/")
		switch {
		case identity.CheckLabel(ns) != nil || !subdomain(name):
			c.fault(badName, field, "namespace/name: "+c.Namespace+"/orders", "%.80q is not a route", s)
		case ns != c.Namespace:
			c.fault(foreign, field, "a key for it belongs into that namespace", "the route is of namespace %s", ns)
		}
	})
}

func (c *check) cidrs() {
	each(c, "spec.cidrs", c.CIDRs, MaxCIDRs, func(field string, p netip.Prefix) {
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			c.fault(badCIDR, field, "such as 203.0.113.0/24 or 2001:db8::/32", "not a block of addresses")
		case p != p.Masked():
			c.fault(badCIDR, field, "write "+p.Masked().String(), "%s has bits behind its length", p)
		}
	})
}

// each holds a list against its length, its values against each other and against judge.
func each[T comparable](c *check, field string, list []T, most int, judge func(field string, v T)) {
	if len(list) > most {
		c.fault(tooMany, field, "", "%d values, at most %d are taken", len(list), most)
		return
	}
	for i, v := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if slices.Contains(list[:i], v) {
			c.fault(twice, at, "", "the same value twice")
			continue
		}
		judge(at, v)
	}
}

// plain reports printable text without blanks.
func plain(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// subdomain reports a DNS subdomain (RFC 1123), as names of objects are.
func subdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if identity.CheckLabel(label) != nil {
			return false
		}
	}
	return true
}
