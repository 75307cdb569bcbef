package gatewayapi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// cluster is what the suite takes for an API server: objects in memory, each of which that a gateway reads is also a
// file of the directory that countersign watches. What it says of them comes back by `get -A -o json`.
type cluster struct {
	client.Client

	t      testing.TB
	binary string
	dir    string // watched
	pods   *pods

	mu   sync.Mutex
	seen time.Time // when status was last read
}

// stamp carries the generation of the suite's object through the product.
const stamp = "conformance.test/generation"

// The kinds that become files; of those in reported the status comes back.
var (
	filed = map[string]bool{
		"GatewayClass": true, "Gateway": true, "HTTPRoute": true, "ReferenceGrant": true, "Namespace": true, "Secret": true,
		"ConfigMap": true, "Service": true, "EndpointSlice": true,
	}
	reported = map[string]bool{"GatewayClass": true, "Gateway": true, "HTTPRoute": true}
)

func newScheme(t testing.TB) *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, gatewayv1.Install, gatewayv1beta1.Install, apiextensionsv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newCluster(t testing.TB, binary, dir string, p *pods) *cluster {
	crd := func(name string) *apiextensionsv1.CustomResourceDefinition {
		return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{"gateway.networking.k8s.io/bundle-version": "v1.6.3", "gateway.networking.k8s.io/channel": "experimental"},
		}}
	}
	inner := fake.NewClientBuilder().WithScheme(newScheme(t)).
		WithStatusSubresource(&gatewayv1.GatewayClass{}, &gatewayv1.Gateway{}, &gatewayv1.HTTPRoute{}).
		WithObjects(crd("gatewayclasses.gateway.networking.k8s.io"), crd("gateways.gateway.networking.k8s.io"), crd("httproutes.gateway.networking.k8s.io")).
		Build()
	return &cluster{Client: inner, t: t, binary: binary, dir: dir, pods: p}
}

func (c *cluster) kind(o client.Object) string {
	gvk, err := apiutil.GVKForObject(o, c.Scheme())
	if err != nil {
		c.t.Fatal(err)
	}
	return gvk.Kind
}

// plain gives an object as it stands in the cluster.
func (c *cluster) plain(ctx context.Context, o client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(o, c.Scheme())
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u, c.Client.Get(ctx, client.ObjectKeyFromObject(o), u)
}

func (c *cluster) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	o.SetGeneration(1)
	o.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	if c.kind(o) == "Service" && o.GetAnnotations()["countersign.dev/plaintext"] == "" {
		a := o.GetAnnotations()
		if a == nil {
			a = map[string]string{}
		}
		a["countersign.dev/plaintext"] = "allow"
		o.SetAnnotations(a)
	}
	if err := c.Client.Create(ctx, o, opts...); err != nil {
		return err
	}
	if err := c.write(ctx, o); err != nil {
		return err
	}
	return c.pods.created(ctx, c, o)
}

func (c *cluster) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	return c.change(ctx, o, func() error { return c.Client.Update(ctx, o, opts...) })
}

func (c *cluster) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	return c.change(ctx, o, func() error { return c.Client.Patch(ctx, o, p, opts...) })
}

func (c *cluster) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	if err := c.Client.Delete(ctx, o, opts...); err != nil {
		return err
	}
	if kind := c.kind(o); filed[kind] {
		if err := os.Remove(c.file(kind, o)); err != nil {
			return err
		}
	}
	return nil
}

// change lets the generation go up where the spec of an object changed, as an API server does.
func (c *cluster) change(ctx context.Context, o client.Object, do func() error) error {
	before, err := c.plain(ctx, o)
	if err != nil {
		return err
	}
	if o.GetGeneration() == 0 {
		o.SetGeneration(before.GetGeneration())
	}
	if err := do(); err != nil {
		return err
	}
	after, err := c.plain(ctx, o)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before.Object["spec"], after.Object["spec"]) {
		after.SetGeneration(before.GetGeneration() + 1)
		if err := c.Client.Update(ctx, after); err != nil {
			return err
		}
		o.SetGeneration(after.GetGeneration())
		o.SetResourceVersion(after.GetResourceVersion())
	}
	return c.write(ctx, o)
}

func (c *cluster) file(kind string, o client.Object) string {
	return filepath.Join(c.dir, fmt.Sprintf("%s-%s-%s.yaml", strings.ToLower(kind), o.GetNamespace(), o.GetName()))
}

// write puts an object into the watched directory, at once and whole.
func (c *cluster) write(ctx context.Context, o client.Object) error {
	kind := c.kind(o)
	if !filed[kind] {
		return nil
	}
	u, err := c.plain(ctx, o)
	if err != nil {
		return err
	}
	delete(u.Object, "status")
	a := u.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[stamp] = strconv.FormatInt(u.GetGeneration(), 10)
	meta := map[string]any{"name": u.GetName(), "annotations": a}
	if u.GetNamespace() != "" {
		meta["namespace"] = u.GetNamespace()
	}
	if l := u.GetLabels(); len(l) > 0 {
		meta["labels"] = l
	}
	u.Object["metadata"] = meta
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		return err
	}
	name := c.file(kind, u)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func (c *cluster) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if reported[c.kind(o)] {
		c.refresh(ctx)
	}
	return c.Client.Get(ctx, key, o, opts...)
}

func (c *cluster) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	gvk, err := apiutil.GVKForObject(list, c.Scheme())
	if err != nil {
		return err
	}
	if reported[strings.TrimSuffix(gvk.Kind, "List")] {
		c.refresh(ctx)
	}
	return c.Client.List(ctx, list, opts...)
}

// told is one object as countersign tells it.
type told struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		Generation  int64             `json:"generation"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec   map[string]any `json:"spec"`
	Status map[string]any `json:"status"`
}

// refresh brings the status of all objects up to date, at most ten times a second.
func (c *cluster) refresh(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.seen) < 100*time.Millisecond {
		return
	}
	cmd := exec.CommandContext(ctx, c.binary, "get", "-A", "-o", "json")
	cmd.Env = c.pods.env
	out, err := cmd.Output()
	if err != nil {
		c.t.Errorf("countersign get: %v", err)
		return
	}
	var all struct {
		Items []told `json:"items"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		c.t.Errorf("countersign get -A -o json: %v: %.300s", err, out)
		return
	}
	for i := range all.Items {
		if it := &all.Items[i]; reported[it.Kind] && it.Status != nil {
			if err := c.take(ctx, it); err != nil && client.IgnoreNotFound(err) != nil {
				c.t.Errorf("status of %s %s/%s: %v", it.Kind, it.Metadata.Namespace, it.Metadata.Name, err)
			}
		}
	}
	c.seen = time.Now()
}

func (c *cluster) take(ctx context.Context, it *told) error {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("gateway.networking.k8s.io/v1")
	u.SetKind(it.Kind)
	u.SetNamespace(it.Metadata.Namespace)
	u.SetName(it.Metadata.Name)
	err := c.Client.Get(ctx, client.ObjectKeyFromObject(u), u)
	if it.Kind == "GatewayClass" && client.IgnoreNotFound(err) == nil && err != nil { // the class that is built in
		u.Object["spec"] = it.Spec
		u.SetGeneration(1)
		if err = c.Client.Create(ctx, u); err == nil {
			err = c.Client.Get(ctx, client.ObjectKeyFromObject(u), u)
		}
	}
	if err != nil {
		return err
	}
	ours, err := strconv.ParseInt(it.Metadata.Annotations[stamp], 10, 64)
	if err != nil {
		ours = 1
	}
	renumber(it.Status, it.Metadata.Generation, ours)
	if reflect.DeepEqual(u.Object["status"], any(it.Status)) {
		return nil
	}
	u.Object["status"] = it.Status
	return c.Client.Status().Update(ctx, u)
}

// renumber replaces in every condition the generation that countersign counts by the suite's.
func renumber(v any, theirs, ours int64) {
	switch v := v.(type) {
	case map[string]any:
		if n, ok := v["observedGeneration"].(float64); ok {
			if int64(n) == theirs {
				v["observedGeneration"] = ours
			} else {
				v["observedGeneration"] = ours - 1
			}
		}
		for key, x := range v {
			if n, ok := x.(float64); ok {
				v[key] = int64(n)
			}
			renumber(x, theirs, ours)
		}
	case []any:
		for _, x := range v {
			renumber(x, theirs, ours)
		}
	}
}
