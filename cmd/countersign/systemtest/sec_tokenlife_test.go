//go:build system && linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestSystemSecTokensRotationUnderLoad: while the signing key changes again and again, no client
// is refused a token and no token is refused (tokens.md 21, R15b; audit.md, drill 24).
func TestSystemSecTokensRotationUnderLoad(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	d := h.door()
	_, cert := h.svid("web")
	asks, calls := d.client(cert), h.caller(cert, "api")

	var issued, used atomic.Int64
	var first sync.Map // what went wrong, once of each kind
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			var kept []string
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := d.own(asks, "web", "api")
				if r.token == "" {
					first.LoadOrStore("issue", r.String())
					continue
				}
				issued.Add(1)
				// Each token at once, and again when its key has been replaced: 4 workers, 200 tokens
				// a second for one client at most.
				kept = append(kept, r.token)
				for _, token := range []string{r.token, kept[max(0, len(kept)-100)], kept[0]} {
					if r := call(calls, "api", "/secret", token); r.status != 200 {
						first.LoadOrStore("use", r.String())
					} else {
						used.Add(1)
					}
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	var keys []string
	for range 5 {
		time.Sleep(1500 * time.Millisecond)
		var got struct {
			New struct{ KeyID string }
		}
		out := h.cli("token", "rotate", "--now", "--json").out
		json.Unmarshal([]byte(out), &got)
		keys = append(keys, out)
	}
	time.Sleep(500 * time.Millisecond)
	close(stop)
	load.Wait()
	first.Range(func(what, said any) bool {
		t.Errorf("while the key was rotated, %v: %v", what, said)
		return true
	})
	if issued.Load() < 100 || used.Load() < 300 || len(keys) != 5 {
		t.Errorf("%d tokens, %d calls, %d rotations: too few to say anything", issued.Load(), used.Load(), len(keys))
	}

	// A key that leaked ends at once, with every token it signed; a new token counts.
	old := d.own(asks, "web", "api").token
	h.cli("token", "rotate", "--now", "--revoke-previous", "--yes")
	if r := call(calls, "api", "/secret", old); r.status != 401 {
		t.Errorf("a token of a revoked key: %v, want 401", r)
	}
	if r := call(calls, "api", "/secret", d.own(asks, "web", "api").token); r.status != 200 {
		t.Errorf("a token of the key after it: %v, want 200", r)
	}
	if strings.Contains(post(d.client(), "https://"+d.public+"/oauth2/jwks", nil).body, "kid") {
		t.Error("the key set answers a POST")
	}
}

// TestSystemSecTokensRestartBetween: a server that ends or is killed between two steps changes
// nothing about tokens: those given count on, those revoked stay so, and an assertion that was
// used is used (tokens.md 21, A2a, G9).
func TestSystemSecTokensRestartBetween(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	d := h.door()
	key := newIssuerKey(t, "k1")
	h.secretClient()
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: batch, namespace: default}, spec: {clientId: batch, auth: private_key_jwt, jwks: ` + key.set() + `, targets: [{audience: "` + reports + `"}]}}`)
	issuer := "https://localhost:" + portOf(d.public)
	assertion := func(id string) url.Values {
		now := time.Now().Unix()
		return url.Values{
			"grant_type": {"client_credentials"}, "audience": {reports}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion": {key.sign("k1", map[string]any{"iss": "batch", "sub": "batch", "aud": issuer, "jti": id, "iat": now, "exp": now + 120})},
		}
	}
	_, cert := h.svid("web")
	chain := []string{h.token("web", "api"), h.token("web", "api"), h.token("web", "api")}
	used := assertion("one")
	to := "https://" + d.public + "/oauth2/token"
	if r := post(d.client(), to, used); r.status != 200 {
		t.Fatalf("an assertion: %v", r)
	}

	check := func(when string, want ...int) {
		t.Helper()
		api := h.caller(cert, "api")
		for i, token := range chain {
			if r := call(api, "api", "/secret", token); r.status != want[i] {
				t.Errorf("%s, token %d: %v, want %d", when, i, r, want[i])
			}
		}
		if r := post(d.client(), to, used); r.status != 401 {
			t.Errorf("%s, a used assertion: %v, want 401", when, r)
		}
		if r := post(d.client(), to, assertion(when)); r.status != 200 {
			t.Errorf("%s, a new assertion: %v", when, r)
		}
	}
	again := func() {
		t.Helper()
		h.start()
		h.ready("api")
	}
	h.end(syscall.SIGTERM)
	again()
	check("after a restart", 200, 200, 200)

	// Killed the moment that the 200 of a revocation is here.
	web := d.client(cert)
	if r := post(web, "https://"+d.mtls+"/oauth2/revoke", url.Values{"token": {chain[0]}, "client_id": {idOf("web")}}); r.status != 200 {
		t.Fatalf("a revocation: %v", r)
	}
	h.kill()
	again()
	check("killed after a revocation", 401, 200, 200)

	cmd := h.command(owner, "token", "revoke")
	cmd.Stdin = strings.NewReader(chain[1] + "\n")
	finishWell(t, cmd)
	h.kill()
	again()
	check("killed after a command", 401, 401, 200)

	h.cli("token", "rotate", "--now")
	h.kill()
	again()
	check("killed after a rotation", 401, 401, 200)
	h.cli("token", "revoke", "--client", idOf("web"), "--yes")
	check("after its client was revoked", 401, 401, 401)
	h.kill()
	again()
	check("killed after its client was revoked", 401, 401, 401)
	// iat has whole seconds, and yet whoever asks again at once is served (tokens.md 13).
	h.cli("token", "revoke", "--client", idOf("web"), "--yes")
	if r := call(h.caller(cert, "api"), "api", "/secret", h.token("web", "api")); r.status != 200 {
		t.Errorf("a token after the revocation of its client: %v, want 200", r)
	}
}

// TestSystemSecTokensChain: whoever revokes the root, the middle or the leaf of a chain of
// exchanges ends that token and all after it, none before it (tokens.md 21, X3f, X3g).
func TestSystemSecTokensChain(t *testing.T) {
	h := openHouse(t, owner)
	for _, name := range []string{"a", "b", "c"} {
		h.serve(name)
	}
	h.apply(`{apiVersion: countersign.dev/v1, kind: DelegationPolicy, metadata: {name: chain, namespace: default}, spec: {actors: [a, b], audiences: [b, c], origins: [svid]}}`)
	h.cli("allow", "web", "a", "GET /**")
	for _, hop := range [][2]string{{"a", "b"}, {"b", "c"}} {
		h.apply(fmt.Sprintf(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: %s, namespace: default}, spec: {spiffeId: "%s", grants: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"], targets: [{audience: %s, exchange: true}]}}`, hop[0], idOf(hop[0]), hop[1]))
		h.cli("allow", hop[0], hop[1], "GET /**")
	}
	exchange := func(t *testing.T, who, audience, token string) string {
		t.Helper()
		cmd := h.command(owner, "run", who, "--", countersign, "token", "exchange", "--audience", audience)
		cmd.Stdin = strings.NewReader(token + "\n")
		return strings.TrimSpace(finishWell(t, cmd).out)
	}
	for i, name := range []string{"root", "middle", "leaf"} {
		t.Run(name, func(t *testing.T) {
			h.in(t)
			chain := []string{h.token("web", "a")}
			chain = append(chain, exchange(t, "a", "b", chain[0]))
			chain = append(chain, exchange(t, "b", "c", chain[1]))
			ask := func(want ...string) {
				t.Helper()
				for j, w := range []string{"web", "a", "b"} {
					to := []string{"a", "b", "c"}[j]
					if r := h.curl(w, "-H", "Authorization: Bearer "+chain[j], "http://"+to+"/"); r.status() != want[j] {
						t.Errorf("token %d: %v, want %s", j, r, want[j])
					}
				}
			}
			ask("200", "200", "200")
			cmd := h.command(owner, "token", "revoke")
			cmd.Stdin = strings.NewReader(chain[i] + "\n")
			finishWell(t, cmd)
			want := []string{"200", "200", "200"}
			for j := i; j < 3; j++ {
				want[j] = "401"
			}
			ask(want...)
			if i < 2 { // nothing new comes out of it
				cmd := h.command(owner, "run", "b", "--", countersign, "token", "exchange", "--audience", "c")
				cmd.Stdin = strings.NewReader(chain[1] + "\n")
				if r := finish(t, cmd); r.code == 0 || r.out != "" {
					t.Errorf("an exchange after the %s was revoked: %v", name, r)
				}
			}
		})
	}
}

// TestSystemSecTokensUnrecorded: what cannot be written down is not signed (tokens.md 19): with
// a full disk no token is given, and what was given is on the disk.
func TestSystemSecTokensUnrecorded(t *testing.T) {
	h := newHouse(t, owner)
	records := h.dir + "/server/tokens"
	finishWell(t, owner.command("mkdir", "-m", "700", "-p", h.dir+"/server", records))
	if err := syscall.Mount("tmpfs", records, "tmpfs", 0, fmt.Sprintf("size=256k,mode=700,uid=%d,gid=%d", owner, owner)); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() { h.kill(); syscall.Unmount(records, 0) })
	h.start()
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	d := h.door()
	_, cert := h.svid("web")
	web := d.client(cert)
	given, refused := 0, 0
	var said reply
	for refused < 20 && given < 5000 {
		switch r := d.own(web, "web", "api"); {
		case r.token != "":
			given++
		case r.status == 429:
			time.Sleep(5 * time.Millisecond)
		default:
			refused++
			said = r
		}
	}
	if refused == 0 {
		t.Fatalf("%d tokens on a disk of 256 KiB", given)
	}
	if said.status != 503 || said.head.Get("Retry-After") == "" || !strings.Contains(said.body, "temporarily_unavailable") {
		t.Errorf("with a full disk: %v, want 503 with Retry-After", said)
	}
	written := 0
	for _, r := range h.records("server/tokens") {
		if r.Decision == "allow" && r.JTI != "" {
			written++
		}
	}
	if written < given {
		t.Errorf("%d tokens were given, %d are recorded", given, written)
	}
	token := d.own(web, "web", "api")
	if r := h.curl("web", "http://api/"); r.status() != "200" || token.token != "" {
		t.Errorf("with a full disk of the token service, a call: %v; and a token: %v", r, token)
	}
	if err := syscall.Mount("", records, "", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a token once there is room again", func() (bool, string) {
		r := d.own(web, "web", "api")
		return r.token != "", r.String()
	})
}
