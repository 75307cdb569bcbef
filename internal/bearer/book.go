package bearer

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
)

// Book is all that a node knows of issuers and keys at one revision.
type Book struct {
	facts    Facts
	issuers  []grant.Issuer
	own      keys
	failures *failures

	mu      sync.Mutex // guards what follows, while the rules of one workload are made
	foreign map[Source]keys
	checks  map[digest]*jose.Check // in use at this revision
	older   map[digest]*jose.Check // in use at the one before
}

// digest tells whether two checks, or two key sets, are the same.
type digest [sha256.Size]byte

// keys is a key set with its digest; of none both are zero. Of one that was retrieved the end
// counts too.
type keys struct {
	set    *jose.Set
	digest digest
	until  time.Time
}

// NewBook makes it; before is the one it replaces, or nil: checks that did not change are
// shared with it, so that what was verified stays verified.
func NewBook(f Facts, before *Book) *Book {
	b := &Book{
		facts: f, own: keysOf(f.Own), failures: &failures{},
		foreign: make(map[Source]keys), checks: make(map[digest]*jose.Check),
	}
	if f.Directory != nil {
		b.issuers = f.Directory.Issuers()
	}
	if before != nil {
		b.failures = before.failures
		before.mu.Lock()
		defer before.mu.Unlock()
		b.older = maps.Clone(before.checks)
	}
	return b
}

// OwnKeys are the kids of our own issuer's keys.
func (b *Book) OwnKeys() []string {
	if b == nil {
		return nil
	}
	var out []string
	for _, k := range b.own.set.Keys() {
		out = append(out, k.ID())
	}
	return out
}

// Exchanges reports whether the token service takes tokens of an issuer as subjects.
func (b *Book) Exchanges(issuer string) bool {
	if b == nil || b.facts.Directory == nil {
		return false
	}
	i := b.facts.Directory.Issuer(issuer)
	return i != nil && slices.Contains(i.Uses, grant.UseSubject)
}

func keysOf(set *jose.Set) keys {
	if set.Len() == 0 {
		return keys{}
	}
	text, err := set.MarshalJSON()
	if err != nil {
		return keys{} // no keys: every token is refused
	}
	return keys{set: set, digest: sha256.Sum256(text)}
}

// retrieved are the keys that a server has for the source.
func (b *Book) retrieved(s Source) keys {
	k, asked := b.foreign[s]
	if !asked && b.facts.Foreign != nil {
		set, until := b.facts.Foreign(s)
		k = keysOf(set)
		k.until = until
		b.foreign[s] = k
	}
	return k
}

// inline are keys that stand in an object. They are read once they are needed.
func inline(text json.RawMessage, rsa []jose.Alg) (p digest, read func() *jose.Set) {
	return sha256.Sum256(fmt.Appendf(nil, "%q %s", rsa, text)), func() *jose.Set {
		set, err := jose.ReadSet(text, rsa...)
		if err != nil {
			return nil // package resource refuses such an object; if one comes all the same its tokens are refused
		}
		return set
	}
}

// check gives the one Check that stands for all equal ones, of this revision or the one before:
// what the cache holds counts for that very Check.
func (b *Book) check(c jose.Check, keys digest, read func() *jose.Set) *jose.Check {
	p := digest(sha256.Sum256(fmt.Appendf(nil, "%s %q %x %t %q %t %t %q %d %d %d %q %q %q %q",
		c.Profile, c.Issuer, keys, c.Audiences == nil, c.Audiences, c.AudienceLast, c.SingleAudience, c.Algs,
		c.ExpSkew, c.Skew, c.MaxLife, c.Split, c.Typ, c.IgnoreHeaders, c.TrustDomain)))
	shared := b.checks[p]
	if shared == nil {
		shared = b.older[p]
	}
	if shared == nil {
		if read != nil {
			c.Keys = read()
		}
		shared = &c
	}
	b.checks[p] = shared
	return shared
}

// Directory is what the book knows of audiences; nil: nothing.
func (b *Book) Directory() *grant.Directory {
	if b == nil {
		return nil
	}
	return b.facts.Directory
}

// Issuer is our own; "" while there is none.
func (b *Book) Issuer() string {
	if b == nil {
		return ""
	}
	return b.facts.Issuer
}
