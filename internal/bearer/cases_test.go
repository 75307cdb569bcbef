package bearer

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/policy"
)

// jcase is one row of istio-semantics.md 13.3, or a part of one.
type jcase struct {
	row   string
	rules []policy.TokenRule // nil: R
	q     *Request
	want  string // "ok", "none" (goes on without identity), or status and text
	// program is what the application gets, "" what it does not: target, then "Name: value".
	program []string
	policy  *policy.Policy
	allow   bool
}

const (
	form      = "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	expired   = "401 Jwt is expired"
	fails     = "401 Jwt verification fails"
	alien     = "401 Jwt issuer is not configured"
	multiple  = "401 Found multiple Jwt tokens"
	forbidden = "403 Audiences in Jwt are not allowed"
	keyless   = "401 Jwks remote fetch is failed"
)

func notA(claim, what string) string { return "401 Jwt payload [" + claim + "] field is not " + what }

func TestIstioTokens(t *testing.T) {
	w := newWorld(t)
	wrong := newKey(t)
	good, other := w.id.foreign(), w.id.foreign(claims{"sub": "bob"})
	stale := w.id.foreign(claims{"exp": now.Unix() - 61})
	bad := good[:len(good)-8] + "AAAAAAAA"
	ofB := newKey(t)
	b := policy.TokenRule{Issuer: "https://idb", JWKS: ofB.jwks()}
	tokenB := ofB.foreign(claims{"iss": "https://idb"})
	preflight := func(q *Request) *Request {
		q.Method = http.MethodOptions
		q.Header["Origin"] = []string{"https://shop"}
		q.Header["Access-Control-Request-Method"] = []string{"GET"}
		return q
	}
	options := func(q *Request) *Request { q.Method = http.MethodOptions; return q }
	at := func(name, prefix string) func(*policy.TokenRule) {
		return func(r *policy.TokenRule) {
			r.Headers = append(r.Headers, policy.TokenHeader{Name: name, Prefix: prefix})
		}
	}
	cookies := func(r *policy.TokenRule) { r.Cookies = []string{"tok"} }
	forward := func(r *policy.TokenRule) { r.Forward = true }
	toPayload := func(r *policy.TokenRule) { r.PayloadHeader = "x-p" }
	audiences := func(a ...string) func(*policy.TokenRule) {
		return func(r *policy.TokenRule) { r.Audiences = a }
	}
	toClaim := func(claim string) func(*policy.TokenRule) {
		return func(r *policy.TokenRule) { r.ClaimHeaders = []policy.ClaimHeader{{Header: "x-c", Claim: claim}} }
	}
	rules := func(r ...policy.TokenRule) []policy.TokenRule { return r }
	with := func(change ...func(*policy.TokenRule)) []policy.TokenRule { return rules(w.r(change...)) }
	noKeys := func(r *policy.TokenRule) { r.JWKS, r.JWKSURI = nil, "https://id/keys" }
	anyPrincipal := policy.Policy{Action: policy.Allow, Rules: []policy.Rule{principals("*")}}
	orOptions := policy.Policy{Action: policy.Allow, Rules: []policy.Rule{principals("*"), operation([]string{"OPTIONS"}, nil)}}
	orHealth := policy.Policy{Action: policy.Allow, Rules: []policy.Rule{principals("*"), operation(nil, []string{"/healthz"})}}
	asks := func(key string, values ...string) *policy.Policy { p := when(key, values...); return &p }
	get := w.get
	payloadOf := func(raw string) string { return strings.Split(raw, ".")[1] }
	scoped := func(scope any) string { return w.id.foreign(claims{"scope": scope}) }

	none := w.id.sign(`{"alg":"none","typ":"JWT"}`, payload(t, claims{"iss": foreignID, "exp": now.Unix() + 300}))
	unsigned := none[:strings.LastIndexByte(none, '.')+1]
	der, err := x509.MarshalPKIXPublicKey(&w.id.private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, der)
	hs := b64(`{"alg":"HS256","kid":"`+w.id.kid()+`"}`) + "." + payloadOf(good)
	mac.Write([]byte(hs))
	hs += "." + b64(string(mac.Sum(nil)))

	cases := []jcase{
		{row: "J1", q: get("/"), want: "none"},
		{row: "J2", q: get("/", bearer(good)), want: "ok", program: []string{"/", "Authorization:"}},
		{row: "J2", q: get("/", bearer(good)), want: "ok", policy: &policy.Policy{Action: policy.Allow, Rules: []policy.Rule{principals("https://id/alice")}}, allow: true},
		{row: "J3", rules: with(forward), q: get("/", bearer(good)), want: "ok", program: []string{"/", bearer(good)}},
		{row: "J4", q: get("/", bearer(w.id.foreign(claims{"exp": now.Unix() - 30}))), want: "ok"},
		{row: "J5", q: get("/", bearer(stale)), want: expired},
		{row: "J6", q: get("/", bearer(w.id.foreign(claims{"nbf": now.Unix() + 120}))), want: "401 Jwt not yet valid"},
		{row: "J7 missing", q: get("/", bearer(w.id.foreign(claims{"exp": nil}))), want: "401 Jwt has no expiry"},
		{row: "J7 zero", q: get("/", bearer(w.id.foreign(claims{"exp": 0}))), want: expired},
		{row: "J8", q: get("/", bearer(w.id.foreign(claims{"iss": "https://other"}))), want: alien},
		{row: "J8 no issuer", q: get("/", bearer(w.id.foreign(claims{"iss": nil}))), want: alien},
		{row: "J9", q: get("/", bearer(bad)), want: fails},
		{row: "J9 of another key", q: get("/", bearer(wrong.sign(w.id.header(), payload(t, claims{"iss": foreignID, "exp": now.Unix() + 300})))), want: fails},
		{row: "J10 none", q: get("/", bearer(unsigned)), want: "401 Jwt header [alg] is not supported"},
		{row: "J10 none with signature", q: get("/", bearer(none)), want: "401 Jwt header [alg] is not supported"},
		{row: "J10 HS256", q: get("/", bearer(hs)), want: "401 Jwt header [alg] is not supported"},
		{row: "J10a HS256 over ES256", q: get("/", bearer(w.id.sign(`{"alg":"HS256","kid":"`+w.id.kid()+`"}`, payload(t, claims{"iss": foreignID, "exp": now.Unix() + 300})))), want: "401 Jwt header [alg] is not supported"},
		{row: "J10a crit", q: get("/", bearer(w.id.sign(`{"alg":"ES256","kid":"`+w.id.kid()+`","crit":["x"]}`, payload(t, claims{"iss": foreignID, "exp": now.Unix() + 300})))), want: fails},
		{row: "J10a iat ahead", q: get("/", bearer(w.id.foreign(claims{"iat": now.Unix() + 600}))), want: "401 Jwt not yet valid"},
		{row: "J10b sub", q: get("/", bearer(w.id.raw(`"sub":7`, "sub"))), want: notA("sub", "a string")},
		{row: "J10b sub null", q: get("/", bearer(w.id.raw(`"sub":null`, "sub"))), want: notA("sub", "a string")},
		{row: "J10b iss", q: get("/", bearer(w.id.raw(`"iss":7`, "iss"))), want: notA("iss", "a string")},
		{row: "J10b iss null", q: get("/", bearer(w.id.raw(`"iss":null`, "iss"))), want: notA("iss", "a string")},
		{row: "J10b jti", q: get("/", bearer(w.id.raw(`"jti":7`))), want: notA("jti", "a string")},
		{row: "J10b jti null", q: get("/", bearer(w.id.raw(`"jti":null`))), want: notA("jti", "a string")},
		{row: "J10c number", q: get("/", bearer(w.id.raw(`"aud":7`))), want: notA("aud", "a string or string list")},
		{row: "J10c object", q: get("/", bearer(w.id.raw(`"aud":{}`))), want: notA("aud", "a string or string list")},
		{row: "J10c null", q: get("/", bearer(w.id.raw(`"aud":null`))), want: notA("aud", "a string or string list")},
		{row: "J10c list", q: get("/", bearer(w.id.raw(`"aud":["a",null]`))), want: notA("aud", "a string or string list")},
		{row: "J10c empty", q: get("/", bearer(w.id.raw(`"aud":[]`))), want: "ok"},
		{row: "J10e exp", q: get("/", bearer(w.id.raw(`"exp":1790000300.9`, "exp"))), want: "ok"},
		{row: "J10e nbf", q: get("/", bearer(w.id.raw(`"nbf":1790000000.9`))), want: "ok"},
		{row: "J10f twice", q: get("/", bearer(w.id.raw(`"sub":"bob"`))), want: "401 Jwt payload is an invalid JSON"},
		{row: "J10f nested", q: get("/", bearer(w.id.raw(`"x":{"a":1,"a":2}`))), want: "401 Jwt payload is an invalid JSON"},
		{row: "J10f list", q: get("/", bearer(w.id.sign(w.id.header(), `[1]`))), want: "401 Jwt payload is an invalid JSON"},
		{row: "J10g", q: get("/", bearer(strings.Replace(good, "."+payloadOf(good)+".", "."+payloadOf(good)+"=.", 1))), want: "401 Jwt payload is an invalid Base64url encoded"},
		{row: "J11", q: get("/", bearer("opaque")), want: form},
		{row: "J11a", q: get("/", "Authorization: Bearer"), want: form},
		{row: "J11a blank", q: get("/", "Authorization: Bearer "), want: form},
		{row: "J11b more", q: get("/", bearer(good+" x")), want: form},
		{row: "J11b comma", q: get("/", bearer(","+good)), want: form},
		{row: "J11b tab", q: get("/", "Authorization: Bearer\t"+good), want: form},
		{row: "J11c Basic", q: get("/", "Authorization: Basic Bearer "+good), want: form},
		{row: "J11c x", q: get("/", "Authorization: xBearer "+good), want: form},
		{row: "J11d", q: get("/", "Authorization: Bearer  "+good), want: "ok", program: []string{"/", "Authorization:"}},
		{row: "J12", q: get("/", "Authorization: bearer "+good), want: form},
		{row: "J13", q: get("/", "Authorization: bearer "+stale), want: form},
		{row: "J14", q: get("/", "Authorization: Basic eDp5"), want: "none", program: []string{"/", "Authorization: Basic eDp5"}},
		{row: "J15 more", q: get("/?access_token=" + good + "&x=1"), want: "ok", program: []string{"/?x=1"}},
		{row: "J15 alone", q: get("/?access_token=" + good), want: "ok", program: []string{"/"}},
		{row: "J15a", q: get("/?access%5Ftoken=" + good), want: "ok", program: []string{"/"}},
		{row: "J15a value", q: get("/?access_token=" + strings.Replace(good, ".", "%2e", 1)), want: "ok", program: []string{"/"}},
		{row: "J15b empty", q: get("/?access_token="), want: form},
		{row: "J15b bare", q: get("/?access_token"), want: form},
		{row: "J15c", q: get("/?b=1&access_token=" + good + "&a=%2f"), want: "ok", program: []string{"/?b=1&a=%2f"}},
		{row: "J16", rules: with(at("x-jwt", "")), q: get("/", bearer(good)), want: "none", program: []string{"/", bearer(good)}},
		{row: "J16 query", rules: with(at("x-jwt", "")), q: get("/?access_token=" + good), want: "none", program: []string{"/?access_token=" + good}},
		{row: "J17", rules: with(at("x-jwt", "Value ")), q: get("/", "X-Jwt: value "+good), want: "none", program: []string{"/", "X-Jwt: value " + good}},
		{row: "J18", rules: with(at("x-jwt", "Value ")), q: get("/", "X-Jwt: abc Value "+good), want: form},
		{row: "J18a empty", rules: with(at("x-jwt", "")), q: get("/", "X-Jwt:"), want: form},
		{row: "J18a more", rules: with(at("x-jwt", "")), q: get("/", "X-Jwt: "+good+" x"), want: form},
		{row: "J19", q: get("/?access_token="+good, bearer(good)), want: "ok", program: []string{"/", "Authorization:"}},
		{row: "J20", q: get("/?access_token="+stale, bearer(good)), want: expired},
		{row: "J21", q: get("/?access_token="+other, bearer(good)), want: multiple},
		{row: "J22", q: get("/?access_token=" + good + "&access_token=" + stale), want: expired},
		{row: "J22 two good", q: get("/?access_token=" + good + "&access_token=" + other), want: multiple},
		{row: "J22a same", q: get("/", bearer(good), bearer(good)), want: "400 malformed request"},
		{row: "J22a Basic", q: get("/", "Authorization: Basic x", bearer(good)), want: "400 malformed request"},
		{row: "J22b", rules: with(at("x-jwt", "")), q: get("/", "X-Jwt: "+good, "X-Jwt: "+bad), want: fails},
		{row: "J22b both good", rules: with(at("x-jwt", "")), q: get("/", "X-Jwt: "+good, "X-Jwt: "+good), want: "ok", program: []string{"/", "X-Jwt:"}},
		{row: "J23", rules: with(cookies), q: get("/", "Cookie: tok="+good+"; a=1; tok="+bad), want: fails},
		{row: "J23 lines", rules: with(cookies), q: get("/", "Cookie: tok="+good, "Cookie: tok="+bad), want: fails},
		{row: "J24", rules: with(audiences("api")), q: get("/", bearer(w.id.foreign(claims{"aud": "web"}))), want: forbidden},
		{row: "J24 no aud", rules: with(audiences("api")), q: get("/", bearer(good)), want: forbidden},
		{row: "J25", rules: with(audiences("api")), q: get("/", bearer(w.id.foreign(claims{"aud": []string{"web", "api"}}))), want: "ok"},
		{row: "J26", rules: with(audiences("api")), q: get("/", bearer(bad)), want: fails},
		{row: "J27", rules: with(audiences("https://api/")), q: get("/", bearer(w.id.foreign(claims{"aud": "api"}))), want: forbidden},
		{row: "J28", rules: rules(w.r(), b), q: get("/", bearer(tokenB)), want: "ok", policy: &policy.Policy{Action: policy.Allow, Rules: []policy.Rule{principals("https://idb/alice")}}, allow: true},
		{row: "J29", rules: rules(w.r(), at2(b, "x-b")), q: get("/", bearer(good), "X-B: garbage"), want: form},
		{row: "J29 reverse", rules: rules(w.r(), at2(b, "x-b")), q: get("/", bearer("garbage"), "X-B: "+tokenB), want: form},
		{row: "J29 a place of another issuer", rules: rules(w.r(), at2(b, "x-b")), q: get("/", "X-B: "+good), want: alien},
		{row: "J30", rules: rules(w.r(audiences("a")), w.r()), q: get("/", bearer(w.id.foreign(claims{"aud": "z"}))), want: "ok"},
		{row: "J30a", rules: rules(withKeys(w.r(), wrong), w.r(audiences("a"))), q: get("/", bearer(wrongSigner(w, wrong))), want: fails},
		{row: "J30a other order", rules: rules(w.r(audiences("a")), withKeys(w.r(), wrong)), q: get("/", bearer(wrongSigner(w, wrong))), want: forbidden},
		{row: "J31 token", rules: with(noKeys), q: get("/", bearer(good)), want: keyless},
		{row: "J31 no token", rules: with(noKeys), q: get("/"), want: "none"},
		{row: "J31 other issuer", rules: with(noKeys), q: get("/", bearer(tokenB)), want: alien},
		{row: "J32", q: preflight(get("/", bearer(stale))), want: "none", program: []string{"/", "Authorization:"}},
		{row: "J32 everywhere", rules: with(cookies, at("x-jwt", "")), q: preflight(get("/", "Cookie: a=1; tok="+stale, "X-Jwt: "+stale)), want: "none", program: []string{"/", "X-Jwt:", "Cookie: a=1"}},
		{row: "J32 forward", rules: with(forward), q: preflight(get("/?access_token="+stale, bearer(stale))), want: "none", program: []string{"/", "Authorization:"}},
		{row: "J33", q: options(get("/", bearer(stale), "Access-Control-Request-Method: GET")), want: expired},
		{row: "J33a empty", q: options(get("/", bearer(stale), "Origin: https://shop", "Access-Control-Request-Method:")), want: expired},
		{row: "J33a two lines", q: options(get("/", bearer(stale), "Origin: https://shop", "Access-Control-Request-Method:", "Access-Control-Request-Method: GET")), want: "none", program: []string{"/", "Authorization:"}},
		{row: "J34", q: get("/"), want: "none", policy: &anyPrincipal},
		{row: "J34 token", q: get("/", bearer(good)), want: "ok", policy: &anyPrincipal, allow: true},
		{row: "J35", q: preflight(get("/", bearer(good))), want: "none", policy: &anyPrincipal},
		{row: "J35 extra rule", q: preflight(get("/", bearer(good))), want: "none", policy: &orOptions, allow: true},
		{row: "J36", q: get("/healthz"), want: "none", policy: &orHealth, allow: true},
		{row: "J37", rules: with(toPayload), q: get("/", "X-P: forged"), want: "none", program: []string{"/", "X-P:"}},
		{row: "J37 preflight", rules: with(toPayload), q: preflight(get("/", "X-P: forged")), want: "none", program: []string{"/", "X-P:"}},
		{row: "J37a", rules: with(toPayload), q: get("/", "X-P: forged", bearer(good)), want: "ok", program: []string{"/", "X-P: " + payloadOf(good)}, policy: asks("request.headers[x-p]", payloadOf(good)), allow: true},
		{row: "J37a forged", rules: with(toPayload), q: get("/", "X-P: forged", bearer(good)), want: "ok", policy: asks("request.headers[x-p]", "forged")},
		{row: "J38 number", rules: with(toClaim("n.level")), q: get("/", "X-C: forged", bearer(w.id.foreign(claims{"n": claims{"level": 7}}))), want: "ok", program: []string{"/", "X-C: 7"}},
		{row: "J38 boolean", rules: with(toClaim("n.level")), q: get("/", "X-C: forged", bearer(w.id.foreign(claims{"n": claims{"level": true}}))), want: "ok", program: []string{"/", "X-C: true"}},
		{row: "J38 list", rules: with(toClaim("n.level")), q: get("/", "X-C: forged", bearer(w.id.foreign(claims{"n": claims{"level": []string{"a"}}}))), want: "ok", program: []string{"/", "X-C:"}},
		{row: "J38 fraction", rules: with(toClaim("n.level")), q: get("/", "X-C: forged", bearer(w.id.foreign(claims{"n": claims{"level": 7.5}}))), want: "ok", program: []string{"/", "X-C:"}},
		{row: "J38 missing", rules: with(toClaim("n.level")), q: get("/", "X-C: forged", bearer(good)), want: "ok", program: []string{"/", "X-C:"}},
		{row: "J38 not an object", rules: with(toClaim("sub.level")), q: get("/", "X-C: forged", bearer(good)), want: "ok", program: []string{"/", "X-C:"}},
		{row: "J38 text", rules: with(toClaim("sub")), q: get("/", bearer(good)), want: "ok", program: []string{"/", "X-C: alice"}},
		{row: "J39", rules: with(toClaim("n")), q: get("/", "X-C: forged", bearer(w.id.foreign(claims{"n": "a\r\nX-Admin: 1"}))), want: "ok", program: []string{"/", "X-C:", "X-Admin:"}},
		{row: "J40", q: get("/", bearer(scoped("read write"))), want: "ok", policy: asks("request.auth.claims[scope]", "read"), allow: true},
		{row: "J40 whole", q: get("/", bearer(scoped("read write"))), want: "ok", policy: asks("request.auth.claims[scope]", "read write")},
		{row: "J40a", q: get("/", bearer(scoped("read\twrite"))), want: "ok", policy: asks("request.auth.claims[scope]", "read")},
		{row: "J40a whole", q: get("/", bearer(scoped("read\twrite"))), want: "ok", policy: asks("request.auth.claims[scope]", "read\twrite"), allow: true},
		{row: "J40b", q: get("/", bearer(scoped(""))), want: "ok", policy: asks("request.auth.claims[scope]", "*")},
		{row: "J41", rules: with(func(r *policy.TokenRule) { r.Split = []string{"roles"} }), q: get("/", bearer(w.id.foreign(claims{"roles": "a b"}))), want: "ok", policy: asks("request.auth.claims[roles]", "b"), allow: true},
		{row: "J41 not split", q: get("/", bearer(w.id.foreign(claims{"roles": "a b"}))), want: "ok", policy: asks("request.auth.claims[roles]", "b")},
		{row: "J42", q: get("/", bearer(scoped([]string{"a b"}))), want: "ok", policy: asks("request.auth.claims[scope]", "a")},
		{row: "J42 whole", q: get("/", bearer(scoped([]string{"a b"}))), want: "ok", policy: asks("request.auth.claims[scope]", "a b"), allow: true},
		{row: "J43", rules: rules(policy.TokenRule{JWKSURI: "https://any/keys"}), q: get("/", bearer(tokenB)), want: "ok"},
		{row: "J43 bad signature", rules: rules(policy.TokenRule{JWKSURI: "https://any/keys"}), q: get("/", bearer(good)), want: "401 Jwks doesn't have key to match kid or alg from Jwt"},
		{row: "J44", q: get("/", bearer(bad), "Content-Type: application/grpc"), want: fails}, // the mapping to grpc-status is the proxy's
		{row: "J45", q: get("/", bearer(bad)), want: fails},                                   // no provider is built: the token decides
		{row: "J46", rules: with(func(r *policy.TokenRule) { r.JWKS = nil }), q: get("/", bearer(good)), want: keyless},
		{row: "J47", q: get("/", bearer(good)), want: "ok", policy: asks("request.headers[authorization]", "*")},
		{row: "J47 forward", rules: with(forward), q: get("/", bearer(good)), want: "ok", policy: asks("request.headers[authorization]", "*"), allow: true},
		{row: "J47 preflight", q: preflight(get("/", bearer(good))), want: "none", policy: asks("request.headers[authorization]", "*"), allow: true, program: []string{"/", "Authorization:"}},
		{row: "J48", rules: rules(w.r(), w.r(at("x-jwt", ""))), q: get("/", bearer(good), "X-Jwt: "+good), want: "ok", policy: asks("request.headers[x-jwt]", "*"), allow: true, program: []string{"/", "Authorization:", "X-Jwt:"}},
		{row: "J48 the other", rules: rules(w.r(), w.r(at("x-jwt", ""))), q: get("/", bearer(good), "X-Jwt: "+good), want: "ok", policy: asks("request.headers[authorization]", "*")},
		{row: "J48a", rules: with(at("x-jwt", "Value ")), q: get("/", "X-Jwt: Value "+good, "X-Jwt: other"), want: "ok", policy: asks("request.headers[x-jwt]", "*"), program: []string{"/", "X-Jwt:"}},
		{row: "J49", rules: with(cookies), q: get("/", "Cookie: a=1; tok="+good), want: "ok", policy: asks("request.headers[cookie]", "a=1; tok=*"), allow: true, program: []string{"/", "Cookie: a=1"}},
		{row: "J49 alone", rules: with(cookies), q: get("/", "Cookie: tok="+good), want: "ok", program: []string{"/", "Cookie:"}},
		{row: "J50", q: get("/p?b=1&access_token=" + good + "&a=2"), want: "ok", policy: asks("request.headers[:path]", "/p?b=1*")},
	}
	for _, claim := range []string{"exp", "nbf", "iat"} {
		for _, v := range []string{`"7"`, "true", "null"} {
			cases = append(cases, jcase{row: "J10d " + claim + " " + v, q: get("/", bearer(w.id.raw(`"`+claim+`":`+v, "exp"))), want: notA(claim, "an integer")})
		}
		for _, v := range []string{"-1", "9223372036854775808", "1e300"} {
			cases = append(cases, jcase{row: "J10d " + claim + " " + v, q: get("/", bearer(w.id.raw(`"`+claim+`":`+v, "exp"))), want: notA(claim, "a positive 64 bit integer")})
		}
	}
	w.foreign[Source{URI: "https://any/keys"}] = ofB.set()

	seen := map[string]bool{}
	for _, c := range cases {
		seen[strings.Fields(c.row)[0]] = true
		t.Run(c.row, func(t *testing.T) {
			attached := c.rules
			if attached == nil {
				attached = with()
			}
			before := c.q.Header.Clone()
			out := w.rules(attached...).Authenticate(c.q)
			if got := say(out); got != c.want {
				t.Fatalf("got %q (%+v), want %q", got, out.Refused, c.want)
			}
			if out.Refused != nil {
				if out.Refused.Status == 401 && !strings.HasPrefix(out.Refused.Challenge, `Bearer realm="https://orders.shop`+c.q.Path+`", error="invalid_token"`) {
					t.Errorf("challenge %s", out.Refused.Challenge)
				}
				return
			}
			checkProgram(t, program(c.q, out), c.program)
			if c.policy != nil {
				if got := allows(t, c.q, out, *c.policy); got != c.allow {
					t.Errorf("policy allows: %t, want %t; header before %v, now %v", got, c.allow, before, c.q.Header)
				}
			}
		})
	}
	for _, row := range strings.Fields(`J1 J2 J3 J4 J5 J6 J7 J8 J9 J10 J10a J10b J10c J10d J10e J10f J10g J11 J11a J11b J11c J11d
		J12 J13 J14 J15 J15a J15b J15c J16 J17 J18 J18a J19 J20 J21 J22 J22a J22b J23 J24 J25 J26 J27 J28 J29 J30 J30a J31 J32 J33
		J33a J34 J35 J36 J37 J37a J38 J39 J40 J40a J40b J41 J42 J43 J44 J45 J46 J47 J48 J48a J49 J50`) {
		if !seen[row] {
			t.Errorf("row %s has no case", row)
		}
	}
}

// say is an outcome in short.
func say(out Outcome) string {
	switch {
	case out.Refused != nil:
		return map[int]string{400: "400 ", 401: "401 ", 403: "403 "}[out.Refused.Status] + out.Refused.Text
	case out.Token != nil:
		return "ok"
	}
	return "none"
}

// checkProgram holds what the application gets against target and header lines.
func checkProgram(t *testing.T, p *Request, want []string) {
	t.Helper()
	for i, line := range want {
		if i == 0 {
			if target(p) != line {
				t.Errorf("the program gets %s, want %s", target(p), line)
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		var lines []string
		if value != "" {
			lines = []string{strings.TrimPrefix(value, " ")}
		}
		if got := p.Header[http.CanonicalHeaderKey(name)]; !slices.Equal(got, lines) {
			t.Errorf("the program gets %s %q, want %q", name, got, lines)
		}
	}
}

func at2(r policy.TokenRule, name string) policy.TokenRule {
	r.Headers = []policy.TokenHeader{{Name: name}}
	return r
}

// withKeys gives a rule the keys of another under the kid of the right one.
func withKeys(r policy.TokenRule, k *key) policy.TokenRule {
	r.JWKS = []byte(strings.Replace(string(k.jwks()), k.kid(), "shared", 1))
	return r
}

// wrongSigner is a token of https://id that no kid ties to one key.
func wrongSigner(w *world, _ *key) string {
	return w.id.sign(`{"alg":"ES256","typ":"JWT"}`, payload(w.t, claims{"iss": foreignID, "sub": "alice", "aud": "z", "exp": now.Unix() + 300}))
}
