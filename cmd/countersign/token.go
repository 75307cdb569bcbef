package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/workloadapi"
)

// meshTokens is the token service as every workload reaches it: the identity of the connection
// is the credential.
const meshTokens = "http://tokens.countersign/oauth2/token"

const (
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT        = "urn:ietf:params:oauth:token-type:jwt"
	maxTokenAnswer = 64 << 10
)

type issueOptions struct {
	audience, subjectType, actorFile string
	scopes                           []string
	client, secretFile               string
	header                           bool
}

func (o *issueOptions) flags(f *flags) {
	f.text(&o.audience, "audience", "A", "a service, or an audience of an OAuthResource")
	f.list(&o.scopes, "scope", "S", "wanted; may be repeated  [those of the client]")
	f.yes(&o.header, "header", "a whole line Authorization: Bearer, for curl -H @FILE")
	f.text(&o.client, "client", "ID", "the client that asks, instead of this workload")
	f.text(&o.secretFile, "secret-file", "F", "its secret, in a file of yours alone; - is stdin")
}

func tokenIssueCommand() *command {
	var o issueOptions
	return &command{
		name:    "token issue",
		summary: "Get an access token for the workload that this runs as.",
		examples: []string{
			"countersign run web -- countersign token issue --audience api --header > auth",
			"countersign token issue --client ci --secret-file F --audience reports",
		},
		usage: "--audience A [flags]",
		about: `Inside run the identity is the credential, and the token is bound to it: it is
worth nothing to anybody else. A client with a secret asks from anywhere.
The token is stdout, and what it is is said on stderr.`,
		flags: o.flags,
		see:   "countersign token exchange, countersign client create",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			if err := e.checkIssue(&o); err != nil {
				return err
			}
			return e.issueToken(ctx, &o, url.Values{"grant_type": {"client_credentials"}})
		},
	}
}

func tokenExchangeCommand() *command {
	var o issueOptions
	return &command{
		name:    "token exchange",
		summary: "Exchange a received token for one to the next service.",
		examples: []string{
			"countersign run web -- countersign token exchange --audience orders < received",
			"countersign token exchange --audience orders --subject-type jwt < customer",
		},
		usage: "--audience A [flags] < TOKEN",
		about: `The new token says for whom this workload acts, and who acted before. A
DelegationPolicy in the namespace of the audience must allow it.`,
		flags: func(f *flags) {
			o.flags(f)
			f.text(&o.subjectType, "subject-type", "T", "access_token; jwt of a foreign issuer  [access_token]")
			f.text(&o.actorFile, "actor-token-file", "F", "access token of the actor, if it is not this workload")
		},
		see: "countersign token issue, countersign token verify",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.exchangeToken(ctx, &o)
		},
	}
}

func (e *env) exchangeToken(ctx context.Context, o *issueOptions) error {
	const way = "countersign token exchange --audience orders"
	types := map[string]string{"": typeAccess, "access_token": typeAccess, "jwt": typeJWT, typeAccess: typeAccess, typeJWT: typeJWT}
	subjectType, ok := types[o.subjectType]
	switch {
	case !ok:
		return usage(fmt.Sprintf("--subject-type %q is not access_token or jwt", o.subjectType), way+" --subject-type jwt < token")
	case o.secretFile == "-":
		return usage("--secret-file - and the token cannot both be stdin", way+" --client ci --secret-file ci.secret < token")
	case o.actorFile == "-":
		return usage("--actor-token-file - and the token cannot both be stdin", way+" --actor-token-file actor < token")
	}
	if err := e.checkIssue(o); err != nil {
		return err
	}
	subject, err := e.oneToken(ctx, e.in, "stdin")
	if err != nil {
		return err
	}
	form := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {subjectType}}
	if o.actorFile != "" {
		actor, err := e.tokenFile(ctx, o.actorFile)
		if err != nil {
			return err
		}
		form.Set("actor_token", actor)
		form.Set("actor_token_type", typeAccess)
	}
	return e.issueToken(ctx, o, form)
}

// checkIssue is what can be said before anybody is asked.
func (e *env) checkIssue(o *issueOptions) error {
	switch {
	case (o.client == "") != (o.secretFile == ""):
		return usage("--client and --secret-file go together", "countersign "+e.cmd.name+" --client ci --secret-file ci.secret --audience A")
	case o.header && e.json:
		return usage("--header and --json exclude each other", "countersign "+e.cmd.name+" --audience A --header")
	}
	return e.notEmpty(map[string]string{"audience": o.audience, "client": o.client, "secret-file": o.secretFile, "actor-token-file": o.actorFile})
}

// issueToken asks the token service and prints what it gives.
func (e *env) issueToken(ctx context.Context, o *issueOptions, form url.Values) error {
	if o.audience != "" {
		form.Set("audience", o.audience)
	}
	if len(o.scopes) > 0 {
		form.Set("scope", strings.Join(o.scopes, " "))
	}
	var answer tokenAnswer
	var err error
	if o.client != "" {
		answer, err = e.askAsClient(ctx, o, form)
	} else {
		answer, err = e.askAsWorkload(ctx, form)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &admin.Problem{Code: "timeout", Message: "asking the token service: no answer within " + spoken(e.timeout), Hints: []string{"countersign status"}}
	}
	if err != nil {
		return err
	}
	if answer.Error != "" {
		return o.refused(e.cmd.name, answer)
	}
	if e.json {
		return e.printJSON(answer.whole)
	}
	line := answer.AccessToken
	if o.header {
		line = headerLine + line
	}
	if _, err := fmt.Fprintln(e.out, line); err != nil {
		return err
	}
	e.say("%s", answer.words())
	return nil
}

// tokenAnswer is what the token service says: a token (RFC 6749, section 5.1) or an error (5.2).
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope"`
	Error       string `json:"error"`
	Description string `json:"error_description"`

	whole json.RawMessage // as it came
}

// words are what the token is: "for …, 5m, bound to …/sa/web".
func (a tokenAnswer) words() string {
	u, err := jose.Inspect(a.AccessToken)
	if err != nil {
		return "a token that ends in " + age(time.Duration(a.ExpiresIn)*time.Second)
	}
	claims := map[string]string{}
	for _, m := range u.Claims {
		claims[m.Name] = m.Value
	}
	var aud string
	_ = json.Unmarshal([]byte(claims["aud"]), &aud)
	text := fmt.Sprintf("for %s, %s", escape(aud), age(time.Duration(a.ExpiresIn)*time.Second))
	var cnf map[string]string
	_ = json.Unmarshal([]byte(claims["cnf"]), &cnf)
	switch {
	case cnf["spiffe"] != "":
		text += ", bound to " + escape(shortSPIFFE(cnf["spiffe"]))
	case cnf["x5t#S256"] != "":
		text += ", bound to a certificate"
	default:
		text += ", bound to nobody"
	}
	if a.Scope != "" {
		text += ", scope " + escape(a.Scope)
	}
	return text
}

// refused is the error of an answer of no, in the fixed texts of tokens.md 18.1.
func (o *issueOptions) refused(command string, a tokenAnswer) error {
	text := cmp.Or(a.Description, a.Error)
	p := &admin.Problem{Code: "token_refused", Message: "asking for a token: " + text, Details: admin.Details{{Label: "error", Value: a.Error}}}
	if o.audience != "" {
		p.Message = fmt.Sprintf("asking for a token for %q: %s", o.audience, text)
	}
	switch {
	case text == "audience or resource is required":
		p.Hints = []string{"countersign " + command + " --audience api"}
	case text == "subject_token is not valid" && o.subjectType == "":
		p.Hints = []string{"countersign token verify < TOKEN", "a token of a foreign issuer is exchanged with --subject-type jwt"}
	case text == "subject_token is not valid":
		p.Hints = []string{"countersign token verify < TOKEN"}
	case text == "delegation not permitted":
		p.Hints = []string{"countersign get delegationpolicies -A"}
	case o.client != "" && text == "target not allowed":
		p.Hints = []string{"countersign client show " + word(o.client), "a secret binds a token to nobody: the OAuthResource of the audience must say allowBearer: true"}
	case o.client != "":
		p.Hints = []string{"countersign client show " + word(o.client)}
	default:
		p.Hints = []string{"countersign client list -A", "countersign get oauthresources -A"}
	}
	return p
}

// askAsWorkload takes the way of every program of a run: its proxy, with its identity.
func (e *env) askAsWorkload(ctx context.Context, form url.Values) (tokenAnswer, error) {
	endpoint := os.Getenv("SPIFFE_ENDPOINT_SOCKET")
	proxy := proxyOfRun()
	if endpoint == "" || proxy == nil {
		return tokenAnswer{}, &admin.Problem{
			Code: "no_identity", Message: "this process has no identity: it was not started by run",
			Hints: []string{"countersign run NAME -- " + typed("countersign", e.args), "countersign " + e.cmd.name + " --client ID --secret-file FILE --audience A"},
		}
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	id, err := workloadapi.WhoAmI(ctx, endpoint)
	switch {
	case err != nil && ctx.Err() != nil:
		return tokenAnswer{}, context.Cause(ctx)
	case err != nil:
		return tokenAnswer{}, &admin.Problem{Code: "no_identity", Message: "this process has no identity: " + unwrapped(err), Hints: []string{"countersign status"}}
	}
	form.Set("client_id", id)
	answer, err := postForm(ctx, proxy, meshTokens, form, nil)
	if p, ok := errors.AsType[*admin.Problem](err); ok && p.Code == "token_refused" { // by a policy
		p.Hints = []string{"countersign why " + word(id) + " tokens.countersign 'POST /oauth2/token'"}
	}
	return answer, err
}

// proxyOfRun is a client that goes through the proxy of the run, which is on loopback, and by no
// other way: what it is sent holds tokens and secrets. It is nil where there is no such proxy.
func proxyOfRun() *http.Client {
	at, err := url.Parse(os.Getenv("HTTP_PROXY"))
	if err != nil {
		return nil
	}
	if ip, err := netip.ParseAddr(at.Hostname()); err != nil || !ip.IsLoopback() {
		return nil
	}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}
}

// askAsClient goes to the public port, with the roots of this mesh. Inside a run it has neither,
// and goes to the same service through the mesh.
func (e *env) askAsClient(ctx context.Context, o *issueOptions, form url.Values) (tokenAnswer, error) {
	secret, err := e.readSecret(ctx, o.secretFile)
	if err != nil {
		return tokenAnswer{}, err
	}
	basic := func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(o.client), url.QueryEscape(secret)) }
	at, err := askServer[admin.TokenService](ctx, e, "/v1/token/service", nil)
	if p, ok := errors.AsType[*admin.Problem](err); ok && p.Code == "in_run" {
		if proxy := proxyOfRun(); proxy != nil {
			ctx, cancel := context.WithTimeout(ctx, e.timeout)
			defer cancel()
			return postForm(ctx, proxy, meshTokens, form, basic)
		}
	}
	if err != nil {
		return tokenAnswer{}, err
	}
	roots, err := askServer[struct {
		Text string `json:"text"`
	}](ctx, e, "/v1/roots", map[string]string{"format": "pem"})
	if err != nil {
		return tokenAnswer{}, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM([]byte(roots.Text))
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	return postForm(ctx, client, at.Issuer+"/oauth2/token", form, basic)
}

// postForm asks the token endpoint. It goes where it was sent and nowhere else: the form holds
// tokens.
func postForm(ctx context.Context, c *http.Client, to string, form url.Values, more func(*http.Request)) (tokenAnswer, error) {
	const doing = "asking the token service: "
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return tokenAnswer{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if more != nil {
		more(req)
	}
	once := *c
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := once.Do(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return tokenAnswer{}, context.Cause(ctx)
	case err != nil:
		return tokenAnswer{}, &admin.Problem{Code: "server_away", Message: doing + unwrapped(err), Hints: []string{"countersign status"}}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return tokenAnswer{}, fmt.Errorf("reading the answer of the token service: %w", err)
	}
	a := tokenAnswer{whole: body}
	if json.Unmarshal(body, &a) != nil || a.AccessToken == "" && a.Error == "" {
		p := &admin.Problem{Code: "token_refused", Message: fmt.Sprintf("%s%d %s", doing, resp.StatusCode, stranger(strings.TrimSpace(string(body))))}
		if id := resp.Header.Get("X-Decision-Id"); id != "" {
			p.Hints = []string{"countersign why " + word(id)}
		}
		return tokenAnswer{}, p
	}
	return a, nil
}

// unwrapped is the error at the end of the chain, in the system's words: what lies between is
// Go's affair.
func unwrapped(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return reason(err)
		}
		err = next
	}
}
