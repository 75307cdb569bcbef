package apikey

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// acme is the record of tokens.md 14.2.
func acme() Record {
	return Record{
		Namespace: "shop", Name: "partner-acme", Env: Live,
		Secrets:   []Secret{{ID: vectorID, SHA256: vectorSHA256}},
		Owner:     "spiffe://example.com/ns/shop/sa/partner-acme",
		Scopes:    []string{"orders:read"},
		Audiences: []string{"orders"}, Routes: []string{"shop/public-orders"},
		CIDRs:   []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		Expires: now.Add(90 * 24 * time.Hour), LimitClass: "partner", RevokeOnLeak: true,
	}
}

func TestValidate(t *testing.T) {
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, strings.Repeat("a", i+1))
		}
		return out
	}
	blocks := func(n int) (out []netip.Prefix) {
		for i := range n {
			out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32))
		}
		return out
	}
	other := Secret{ID: "0000000000", SHA256: strings.Repeat("a", 64)}
	tests := []struct {
		name   string
		change func(r *Record)
		want   string // code and field of each fault
	}{
		{"as in 14.2", func(r *Record) {}, ""},
		{"two secrets", func(r *Record) { r.Secrets = append(r.Secrets, other) }, ""},
		{"env test", func(r *Record) { r.Env = Test }, ""},
		{"audiences alone", func(r *Record) { r.Routes = nil }, ""},
		{"routes alone", func(r *Record) { r.Audiences = nil }, ""},
		{"no scopes, no cidrs, no class", func(r *Record) { r.Scopes, r.CIDRs, r.LimitClass = nil, nil, "" }, ""},
		{"a year", func(r *Record) { r.Expires = now.Add(MaxLife) }, ""},
		{"ended", func(r *Record) { r.Expires = now.Add(-time.Hour) }, ""},
		{"owner is a user", func(r *Record) { r.Owner = "corp:7f3b2f6c" }, ""},
		{"owner is a user with colons", func(r *Record) { r.Owner = "corp:a:b/c@d" }, ""},
		{"IPv6 block", func(r *Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")} }, ""},
		{"dotted name", func(r *Record) { r.Name = "partner.acme" }, ""},
		{"most", func(r *Record) {
			r.Scopes, r.Audiences, r.CIDRs = many(64), many(MaxAudiences), blocks(MaxCIDRs)
		}, ""},

		{"namespace", func(r *Record) { r.Namespace = "Shop"; r.Owner = "corp:a"; r.Routes = nil }, "E103 metadata.namespace"},
		{"name", func(r *Record) { r.Name = "a:b" }, "E103 metadata.name"},
		{"env", func(r *Record) { r.Env = "prod" }, "E110 spec.env"},
		{"no env", func(r *Record) { r.Env = "" }, "E110 spec.env"},
		{"no secret", func(r *Record) { r.Secrets = nil }, "E224 spec.secrets"},
		{"three secrets", func(r *Record) {
			r.Secrets = append(r.Secrets, other, Secret{ID: "1111111111", SHA256: other.SHA256})
		}, "E224 spec.secrets"},
		{"the same id twice", func(r *Record) { r.Secrets = append(r.Secrets, Secret{ID: vectorID, SHA256: other.SHA256}) }, "E113 spec.secrets[1].id"},
		{"short id", func(r *Record) { r.Secrets[0].ID = "7Kq2m9XbT" }, "E224 spec.secrets[0].id"},
		{"id with a minus", func(r *Record) { r.Secrets[0].ID = "7Kq2m9XbT-" }, "E224 spec.secrets[0].id"},
		{"short hash", func(r *Record) { r.Secrets[0].SHA256 = vectorSHA256[1:] }, "E224 spec.secrets[0].sha256"},
		{"hash in capitals", func(r *Record) { r.Secrets[0].SHA256 = strings.ToUpper(vectorSHA256) }, "E224 spec.secrets[0].sha256"},
		{"hash that is none", func(r *Record) { r.Secrets[0].SHA256 = "g" + vectorSHA256[1:] }, "E224 spec.secrets[0].sha256"},
		{"key for its hash", func(r *Record) { r.Secrets[0].SHA256 = vector }, "E224 spec.secrets[0].sha256"},
		{"keys everywhere", func(r *Record) {
			k := strings.Repeat("x", 20) + vector
			r.Env, r.Secrets[0].ID, r.Owner, r.LimitClass = Env(k), vector, vector, k
			r.Scopes, r.Audiences, r.Routes = []string{k + " "}, []string{k + " "}, []string{k + "/b"}
		}, "E110 spec.env, E224 spec.secrets[0].id, E224 spec.owner, E224 spec.scopes[0], E224 spec.audiences[0], E103 spec.routes[0], E103 spec.limitClass"},
		{"no owner", func(r *Record) { r.Owner = "" }, "E224 spec.owner"},
		{"owner of another namespace", func(r *Record) { r.Owner = "spiffe://example.com/ns/bank/sa/a" }, "E308 spec.owner"},
		{"owner of a namespace that begins alike", func(r *Record) { r.Owner = "spiffe://example.com/ns/shop2/sa/a" }, "E308 spec.owner"},
		{"owner is the namespace", func(r *Record) { r.Owner = "spiffe://example.com/ns/shop" }, "E308 spec.owner"},
		{"owner of another trust domain", func(r *Record) { r.Owner = "spiffe://example.org/ns/shop/sa/a" }, "E308 spec.owner"},
		{"owner is no SPIFFE ID", func(r *Record) { r.Owner = "spiffe://example.com/ns/shop/sa/a?b" }, "E224 spec.owner"},
		{"owner without alias", func(r *Record) { r.Owner = "acme" }, "E224 spec.owner"},
		{"owner without id", func(r *Record) { r.Owner = "corp:" }, "E224 spec.owner"},
		{"owner is a key", func(r *Record) { r.Owner = "key:shop:other" }, "E224 spec.owner"},
		{"owner is a certificate", func(r *Record) { r.Owner = "cert:a" }, "E224 spec.owner"},
		{"owner with a line feed", func(r *Record) { r.Owner = "corp:a\nb" }, "E224 spec.owner"},
		{"owner too long", func(r *Record) { r.Owner = "corp:" + strings.Repeat("a", MaxOwner-4) }, "E224 spec.owner"},
		{"reserved namespace", func(r *Record) {
			r.Namespace, r.Routes, r.Owner = "countersign", nil, "spiffe://example.com/ns/countersign/sa/a"
		}, "E224 spec.owner"},
		{"reaches nothing", func(r *Record) { r.Audiences, r.Routes = nil, nil }, "E224 spec"},
		{"scope", func(r *Record) { r.Scopes = []string{"orders:read", "a b"} }, "E224 spec.scopes[1]"},
		{"reserved scope", func(r *Record) { r.Scopes = []string{"mesh"} }, "E224 spec.scopes[0]"},
		{"scope twice", func(r *Record) { r.Scopes = []string{"a", "a"} }, "E113 spec.scopes[1]"},
		{"65 scopes", func(r *Record) { r.Scopes = many(65) }, "E102 spec.scopes"},
		{"empty audience", func(r *Record) { r.Audiences = []string{""} }, "E224 spec.audiences[0]"},
		{"audience with a blank", func(r *Record) { r.Audiences = []string{"a b"} }, "E224 spec.audiences[0]"},
		{"long audience", func(r *Record) { r.Audiences = []string{strings.Repeat("a", MaxAudience+1)} }, "E224 spec.audiences[0]"},
		{"many audiences", func(r *Record) { r.Audiences = many(MaxAudiences + 1) }, "E102 spec.audiences"},
		{"route without namespace", func(r *Record) { r.Routes = []string{"orders"} }, "E103 spec.routes[0]"},
		{"route of another namespace", func(r *Record) { r.Routes = []string{"bank/orders"} }, "E308 spec.routes[0]"},
		{"route with a rule", func(r *Record) { r.Routes = []string{"shop/orders/1"} }, "E103 spec.routes[0]"},
		{"many routes", func(r *Record) { r.Routes = many(MaxRoutes + 1) }, "E102 spec.routes"},
		{"no block", func(r *Record) { r.CIDRs = []netip.Prefix{{}} }, "E208 spec.cidrs[0]"},
		{"block with bits behind", func(r *Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24")} }, "E208 spec.cidrs[0]"},
		{"mapped block", func(r *Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("::ffff:203.0.113.0/120")} }, "E208 spec.cidrs[0]"},
		{"many blocks", func(r *Record) { r.CIDRs = blocks(MaxCIDRs + 1) }, "E102 spec.cidrs"},
		{"no end", func(r *Record) { r.Expires = time.Time{} }, "E224 spec.expires"},
		{"more than a year", func(r *Record) { r.Expires = now.Add(MaxLife + time.Second) }, "E224 spec.expires"},
		{"class", func(r *Record) { r.LimitClass = "a.b" }, "E103 spec.limitClass"},
		{"all at once", func(r *Record) { *r = Record{} },
			"E103 metadata.namespace, E103 metadata.name, E110 spec.env, E224 spec.secrets, E224 spec.owner, E224 spec, E224 spec.expires"},
	}
	for _, tt := range tests {
		r := acme()
		tt.change(&r)
		var got []string
		for _, f := range r.Validate("example.com", now) {
			got = append(got, f.Code+" "+f.Field)
			if f.Text == "" || f.Namespace != r.Namespace || f.Name != r.Name || strings.Contains(f.Text+f.Hint, vectorSecret[:8]) {
				t.Errorf("%s: %+v", tt.name, f)
			}
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, s, tt.want)
		}
	}
	r := acme()
	r.Owner = "spiffe://example.org/ns/shop/sa/a"
	if faults := r.Validate("", now); len(faults) > 0 {
		t.Errorf("where the trust domain is not known: %v", faults)
	}
}

func ids(r Record) (out []string) {
	for _, s := range r.Secrets {
		out = append(out, s.ID)
	}
	return out
}

func TestRotate(t *testing.T) {
	old, mid, fresh := Secret{ID: "0000000000"}, Secret{ID: "1111111111"}, Secret{ID: "2222222222"}
	until := func(s Secret, d time.Duration) Secret { s.Until = now.Add(d); return s }
	tests := []struct {
		name    string
		secrets []Secret
		overlap time.Duration
		want    []Secret
		err     error
	}{
		{"one", []Secret{old}, DefaultOverlap, []Secret{until(old, 24*time.Hour), fresh}, nil},
		{"no overlap", []Secret{old}, 0, []Secret{fresh}, nil},
		{"two: the one rotated out goes", []Secret{until(old, time.Hour), mid}, 2 * time.Hour, []Secret{until(mid, 2*time.Hour), fresh}, nil},
		{"two, in the other order", []Secret{mid, until(old, time.Hour)}, 2 * time.Hour, []Secret{until(mid, 2*time.Hour), fresh}, nil},
		{"two, both with an end", []Secret{until(mid, 5*time.Hour), until(old, time.Hour)}, 2 * time.Hour, []Secret{until(mid, 2*time.Hour), fresh}, nil},
		{"two without end: the first is the older", []Secret{old, mid}, time.Hour, []Secret{until(mid, time.Hour), fresh}, nil},
		{"two, no overlap", []Secret{until(old, time.Hour), mid}, 0, []Secret{fresh}, nil},
		{"never longer than before", []Secret{until(old, time.Minute)}, time.Hour, []Secret{until(old, time.Minute), fresh}, nil},
		{"one that ended", []Secret{until(old, -time.Minute)}, time.Hour, []Secret{fresh}, nil},
		{"negative", []Secret{old}, -1, []Secret{old}, ErrOverlap},
		{"none", nil, 0, nil, ErrNoSecret},
		{"the same id", []Secret{fresh}, 0, []Secret{fresh}, ErrSameID},
	}
	for _, tt := range tests {
		r := acme()
		r.Secrets = slices.Clone(tt.secrets)
		got, err := r.Rotate(fresh, now, tt.overlap)
		if err != tt.err || !slices.Equal(got.Secrets, tt.want) {
			t.Errorf("%s: got %v, %v, want %v, %v", tt.name, got.Secrets, err, tt.want, tt.err)
		}
		if !slices.Equal(r.Secrets, tt.secrets) {
			t.Errorf("%s: the record before has changed", tt.name)
		}
	}
}

func TestFirst(t *testing.T) {
	r := acme()
	if _, err := r.First(Secret{ID: "0000000000"}); err != ErrHasSecret {
		t.Errorf("got %v", err)
	}
	r.Secrets = nil
	if r, err := r.First(Secret{ID: "0000000000"}); err != nil || !slices.Equal(ids(r), []string{"0000000000"}) {
		t.Errorf("got %v, %v", r.Secrets, err)
	}
}

// K5, the arithmetic: during the overlap either may be revoked, the other stays as it is.
func TestK5RevokeInOverlap(t *testing.T) {
	r := acme()
	both, err := r.Rotate(Secret{ID: "2222222222", SHA256: vectorSHA256}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids(both) {
		got, err := both.Revoke(id)
		if err != nil || !slices.Equal(got.Secrets, []Secret{both.Secrets[1-i]}) {
			t.Errorf("%s: got %v, %v", id, got.Secrets, err)
		}
		if d := Difference(&both, &got); !slices.Equal(d.RTI, []string{"key:" + id}) || d.Sub != nil {
			t.Errorf("%s: revoked %v", id, d)
		}
	}
	if len(both.Secrets) != 2 {
		t.Error("the record before has changed")
	}
	if _, err := both.Revoke("3333333333"); err != ErrUnknownID {
		t.Errorf("got %v", err)
	}
}

func TestDifference(t *testing.T) {
	a := Secret{ID: "0000000000", SHA256: vectorSHA256}
	b := Secret{ID: "1111111111", SHA256: vectorSHA256}
	changed := func(change func(r *Record)) *Record {
		r := acme()
		r.Secrets = []Secret{a, b}
		change(&r)
		return &r
	}
	before := changed(func(*Record) {})
	tests := []struct {
		name          string
		before, after *Record
		rti, sub      string
	}{
		{"the same", before, before, "", ""},
		{"made", nil, before, "", ""},
		{"an end, a scope", before, changed(func(r *Record) { r.Secrets[0].Until, r.Scopes = now, nil }), "", ""},
		{"an id gone from the file", before, changed(func(r *Record) { r.Secrets = r.Secrets[1:] }), "key:0000000000", ""},
		{"its hash replaced", before, changed(func(r *Record) { r.Secrets[0].SHA256 = strings.Repeat("0", 64) }), "key:0000000000", ""},
		{"the last id gone", before, changed(func(r *Record) { r.Secrets = nil }), "key:0000000000 key:1111111111", "key:shop:partner-acme"},
		{"deleted", before, nil, "key:0000000000 key:1111111111", "key:shop:partner-acme"},
		{"disabled", before, changed(func(r *Record) { r.Disabled = true }), "", "key:shop:partner-acme"},
		{"enabled", changed(func(r *Record) { r.Disabled = true }), before, "", ""},
		{"disabled still", changed(func(r *Record) { r.Disabled = true }), changed(func(r *Record) { r.Disabled = true }), "", ""},
	}
	for _, tt := range tests {
		got := Difference(tt.before, tt.after)
		if strings.Join(got.RTI, " ") != tt.rti || strings.Join(got.Sub, " ") != tt.sub {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
