package catalog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/resource"
	"countersign.dev/internal/store"
)

func pairOf(t *testing.T) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0), DNSNames: []string{"a.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func secretObject(t *testing.T, chain, key string) resource.Object {
	t.Helper()
	values, _ := json.Marshal(map[string]string{"tls.crt": chain, "tls.key": key})
	doc := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: shop}\ntype: kubernetes.io/tls\nstringData: %s\n", values)
	objects, faults := resource.Decode([]resource.File{{Name: "s.yaml", Data: []byte(doc)}}, resource.Options{})
	if resource.Stops(faults) || len(objects) != 1 {
		t.Fatal(faults)
	}
	return objects[0]
}

// The key of a Secret comes back and lies in the store sealed; a key alone is a change; a pair that cannot be used leaves
// the one before, which the next good one ends.
func TestSecSecretIsSealed(t *testing.T) {
	c, st := open(t)
	now := time.Now()
	key := Key("Secret", "shop", "s")
	read := func() Record {
		t.Helper()
		known, _, err := c.All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return known[key]
	}
	chain, private := pairOf(t)
	good := secretObject(t, chain, private)
	commit(t, c, now, puts(good)...)
	r := read()
	if string(r.Private.PEM()) != private || r.Before != nil {
		t.Errorf("the key comes back as %d bytes, before is %v", len(r.Private.PEM()), r.Before)
	}
	if results, _ := commit(t, c, now, puts(secretObject(t, chain, private))...); !slices.Equal(results, []string{Unchanged}) {
		t.Errorf("the same again: %v", results)
	}
	for range 2 { // one bad after another: still the last good
		results, _ := commit(t, c, now, puts(secretObject(t, chain, "garbage "+time.Now().String()))...)
		if r = read(); !slices.Equal(results, []string{Changed}) || r.Before == nil || string(r.Before.Private.PEM()) != private || !strings.HasPrefix(string(r.Private.PEM()), "garbage") {
			t.Fatalf("a bad key: %v, %+v", results, r)
		}
	}
	kv, err := st.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if inner := strings.Split(private, "\n")[1]; bytes.Contains(kv.Value, []byte(inner)) || bytes.Contains(kv.Value, []byte("garbage")) {
		t.Errorf("the store holds a key: %s", kv.Value)
	}
	moved := bytes.ReplaceAll(kv.Value, []byte(`"name":"s"`), []byte(`"name":"t"`))
	if _, err := Decode(store.KV{Key: Key("Secret", "shop", "t"), Value: moved}, c.sealer); !errors.Is(err, store.ErrSeal) {
		t.Errorf("a key that was moved to another Secret: %v", err)
	}
	commit(t, c, now, puts(good)...)
	if r = read(); r.Before != nil || string(r.Private.PEM()) != private {
		t.Errorf("after a good one: %+v", r)
	}
	commit(t, c, now, Change{Object: good, Remove: true})
	commit(t, c, now, puts(secretObject(t, chain, "garbage"))...)
	if r = read(); r.Before != nil {
		t.Error("what was deleted is shown again")
	}
}
