package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"countersign.dev/internal/resource"
)

// opened is an object with its private key, if it has one.
func opened(key string, object, sealed []byte, sealer Sealer) (resource.Object, error) {
	o, err := resource.Stored(object, resource.Places{})
	if err != nil {
		return o, fmt.Errorf("reading %q: %w", key, err)
	}
	if Key(o.Kind, o.Namespace, o.Name) != key {
		return o, fmt.Errorf("reading %q: it holds %s", key, o.ID())
	}
	if len(sealed) > 0 {
		plain, err := sealer.Unseal(key, sealed)
		if err != nil {
			return o, err
		}
		o.Private = resource.KeptKey(plain)
	}
	return o, nil
}

func (c *Catalog) encode(key string, o resource.Object, was Record, source string) ([]byte, error) {
	sealed, err := c.seal(key, o.Private)
	if err != nil {
		return nil, err
	}
	s := stored{
		V: 1, Object: o.JSON, Places: o.Places, Created: was.Created.UTC().Truncate(time.Second), Generation: was.Generation, Source: source,
		Sealed: sealed,
	}
	if old := lastGood(o, was); old != nil {
		s.Before = &before{Object: old.JSON}
		if s.Before.Sealed, err = c.seal(key, old.Private); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // <sealed> stays as it is, else the same object would be another
	err = e.Encode(s)
	return bytes.TrimSpace(b.Bytes()), err
}

func (c *Catalog) seal(key string, k resource.PrivateKey) ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return c.sealer.Seal(key, k.PEM())
}

// lastGood is what goes on being shown where a Secret with a pair becomes one without (gateway.md 12.1).
func lastGood(o resource.Object, was Record) *resource.Object {
	if o.Kind != "Secret" || was.Name == "" {
		return nil
	}
	if _, err := resource.Pair(o); err == nil {
		return nil
	}
	if _, err := resource.Pair(was.Object); err == nil {
		return &was.Object
	}
	return was.Before
}
