// Package gatewayapi runs the conformance suite of the Gateway API against the binary, from outside: objects are files
// of a directory that `up --watch` follows, status comes by `get -A -o json`. It needs root or another right to open
// port 80, for the suite's Gateways have it.
package gatewayapi

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/go-logr/logr"
)

func TestGatewayAPI(t *testing.T) {
	work := t.TempDir()
	binary := countersign(t, work)
	ctrllog.SetLogger(logr.Discard())
	watched := filepath.Join(work, "watched")
	if err := os.Mkdir(watched, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(watched, "policy.yaml"), everybody)
	p := &pods{t: t, echo: build(t, filepath.Join(work, "echo"), "sigs.k8s.io/gateway-api/conformance/echo-basic", "."), env: start(t, binary, work, watched)}
	c := newCluster(t, binary, watched, p)

	timeouts := config.DefaultTimeoutConfig()
	timeouts.TestIsolation = 0
	for _, d := range []*time.Duration{
		&timeouts.GatewayMustHaveAddress, &timeouts.GatewayMustHaveCondition, &timeouts.GatewayStatusMustHaveListeners,
		&timeouts.GatewayListenersMustHaveConditions, &timeouts.GWCMustBeAccepted, &timeouts.HTTPRouteMustNotHaveParents,
		&timeouts.HTTPRouteMustHaveCondition, &timeouts.RouteMustHaveParents, &timeouts.MaxTimeToConsistency,
		&timeouts.NamespacesMustBeReady, &timeouts.LatestObservedGenerationSet, &timeouts.DefaultTestTimeout,
	} {
		*d = 10 * time.Second
	}
	address := gatewayv1.IPAddressType
	o := suite.ConformanceOptions{Client: c, ManifestFS: []fs.FS{&conformance.Manifests}}
	o.GatewayClassName, o.TimeoutConfig, o.DisableParallelTests, o.CleanupTestResources = "countersign", timeouts, true, true
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.GatewayHTTPConformanceProfileName}
	o.AllowCRDsMismatch = true
	o.UsableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &address, Value: "127.9.0.33"}}
	o.UnusableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &address, Value: "192.0.2.1"}}
	s, err := suite.NewConformanceTestSuite(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Setup(t, tests.ConformanceTests)
	run(t, s)
}

// run runs every test of the HTTP profile whose features the class announces. The suite's own Run wants an API server.
func run(t *testing.T, s *suite.ConformanceTestSuite) {
	http := features.SetsToNamesSet(features.GatewayCoreFeatures, features.GatewayExtendedFeatures, features.HTTPRouteCoreFeatures,
		features.HTTPRouteExtendedFeatures, features.ReferenceGrantCoreFeatures)
	core := features.SetsToNamesSet(features.GatewayCoreFeatures, features.HTTPRouteCoreFeatures, features.ReferenceGrantCoreFeatures)
	var passed, failed, left []string
	for i := range tests.ConformanceTests {
		test := &tests.ConformanceTests[i]
		wanted := sets.New(test.Features...)
		if !http.IsSuperset(wanted) {
			continue
		}
		name := test.ShortName
		if core.IsSuperset(wanted) {
			name += " (core)"
		}
		if !s.SupportedFeatures.HasAll(test.Features...) {
			left = append(left, name+": "+fmt.Sprint(sets.List(wanted.Difference(s.SupportedFeatures))))
			continue
		}
		if t.Run(test.ShortName, func(t *testing.T) { test.Run(t, s) }) {
			passed = append(passed, name)
		} else {
			failed = append(failed, name)
		}
	}
	for _, list := range [][]string{passed, failed, left} {
		slices.Sort(list)
	}
	t.Logf("%d passed\n  %s", len(passed), strings.Join(passed, "\n  "))
	t.Logf("%d of features that the class does not announce\n  %s", len(left), strings.Join(left, "\n  "))
	if len(failed) > 0 {
		t.Logf("%d failed\n  %s", len(failed), strings.Join(failed, "\n  "))
	}
}

// countersign is the binary to test: that of the environment, or one built from the tree.
func countersign(t *testing.T, work string) string {
	if named := os.Getenv("COUNTERSIGN"); named != "" {
		return named
	}
	return build(t, filepath.Join(work, "countersign"), "./cmd/countersign", "../..")
}

func build(t *testing.T, out, pkg, dir string) string {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
	return out
}

func dial(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, time.Second) }

const everybody = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everybody, namespace: istio-system}
spec: {action: ALLOW, rules: [{}]}
`

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs `up` with 33 addresses of its own, and gives the environment of further commands.
func start(t *testing.T, binary, work, watched string) []string {
	t.Helper()
	var pool []string
	for i := range 32 {
		pool = append(pool, fmt.Sprintf("127.9.0.%d", i+2))
	}
	settings := filepath.Join(work, "up.yaml")
	write(t, settings, "bind: [127.9.0.1]\naddressPool: ["+strings.Join(pool, ", ")+"]\negress: {allow: [127.8.0.0/16]}\n")
	inbound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := inbound.Addr().String()
	_ = inbound.Close()
	data := filepath.Join(work, "data")
	env := append(os.Environ(), "COUNTERSIGN_DIR="+data, "HOME="+work)
	var said bytes.Buffer
	up := exec.Command(binary, "up", "--dir", data, "--config", settings, "--watch", watched, "--inbound", at)
	up.Env, up.Stdout, up.Stderr = env, &said, &said
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = up.Wait(); close(gone) }()
	t.Cleanup(func() {
		_ = up.Process.Signal(syscall.SIGTERM)
		<-gone
		if t.Failed() {
			t.Logf("countersign up:\n%s", said.String())
		}
	})
	for end := time.Now().Add(30 * time.Second); ; {
		cmd := exec.Command(binary, "get", "-A", "-o", "json")
		cmd.Env = env
		if cmd.Run() == nil {
			return env
		}
		select {
		case <-gone:
			t.Fatalf("countersign up ended:\n%s", said.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("countersign up does not answer:\n%s", said.String())
		}
	}
}

var _ client.Client = (*cluster)(nil)
