package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccess      = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	maxTokenAnswer  = 64 << 10
	maxSecretInFile = 4 << 10
)

type issueOptions struct {
	audience, subjectType, actorFile string
	scopes                           []string
	client, secretFile               string
	header                           bool
}

func (o *issueOptions) flags(f *flags) {
	f.text(&o.audience, "audience", "A", "what the token is for: a service, or an audience of an OAuthResource")
	f.list(&o.scopes, "scope", "S", "wanted; may be repeated")
	f.yes(&o.header, "header", "print the whole line Authorization: Bearer ..., for curl -H @FILE")
	f.text(&o.client, "client", "ID", "outside the mesh: the client that asks")
	f.text(&o.secretFile, "secret-file", "F", "its secret, in a file that nobody else can read; - is stdin")
}

func tokenIssueCommand() *command {
	var o issueOptions
	return &command{
		name:    "token issue",
		summary: "Get an access token for the workload that this runs as.",
		examples: []string{
			"countersign run web -- countersign token issue --audience api --header > auth",
			"countersign token issue --client ci --secret-file ci.secret --audience https://reports.example",
		},
		usage: "--audience A [flags]",
		about: `Inside run the identity is the credential, and the token is bound to it: it is
worth nothing to anybody else. Outside, a client proves itself by its secret.
The token is stdout, and what it is is said on stderr.`,
		flags: o.flags,
		see:   "countersign token exchange, countersign client create, countersign jwt inspect",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			form := url.Values{"grant_type": {"client_credentials"}}
			return e.issueToken(ctx, &o, form)
		},
	}
}

func tokenExchangeCommand() *command {
	var o issueOptions
	return &command{
		name:    "token exchange",
		summary: "Exchange a token that was received for one to the next service.",
		examples: []string{
			"countersign run web -- countersign token exchange --audience orders < received",
			"countersign run web -- countersign token exchange --audience orders --subject-type jwt < customer",
		},
		usage: "--audience A [flags] < TOKEN",
		about: `The new token says for whom this workload acts, and who acted before. A
DelegationPolicy in the namespace of the audience must allow it.`,
		flags: func(f *flags) {
			o.flags(f)
			f.text(&o.subjectType, "subject-type", "T", "access_token, or jwt: of a foreign issuer       [access_token]")
			f.text(&o.actorFile, "actor-token-file", "F", "an access token of the actor, if it is not this workload")
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
	types := map[string]string{"": typeAccess, "access_token": typeAccess, "jwt": typeJWT, typeAccess: typeAccess, typeJWT: typeJWT}
	subjectType, ok := types[o.subjectType]
	if !ok {
		return usage(fmt.Sprintf("--subject-type %q is not access_token or jwt", o.subjectType), "countersign token exchange --audience orders --subject-type jwt < token")
	}
	if o.secretFile == "-" {
		return usage("--secret-file - and the token cannot both be stdin", "countersign token exchange --secret-file ci.secret --client ci --audience orders < token")
	}
	subject, err := e.oneToken(e.in, "stdin")
	if err != nil {
		return err
	}
	form := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {subjectType}}
	if o.actorFile != "" {
		f, err := os.Open(o.actorFile)
		if err != nil {
			return &admin.Problem{Code: "file_not_found", Message: "reading " + o.actorFile + ": " + reason(err)}
		}
		defer f.Close()
		actor, err := e.oneToken(f, o.actorFile)
		if err != nil {
			return err
		}
		form.Set("actor_token", actor)
		form.Set("actor_token_type", typeAccess)
	}
	return e.issueToken(ctx, o, form)
}

// oneToken reads exactly one token.
func (e *env) oneToken(in io.Reader, from string) (string, error) {
	reader := *e
	reader.in = in
	var tokens []string
	err := reader.eachToken(func(_ int, raw string) error {
		tokens = append(tokens, raw)
		return nil
	})
	if err != nil {
		return "", err
	}
	if len(tokens) != 1 {
		return "", usage(fmt.Sprintf("%s holds %s, one is needed", from, counted(len(tokens), "token")), "countersign help "+e.cmd.name)
	}
	return tokens[0], nil
}

// issueToken asks the token service and prints what it gives.
func (e *env) issueToken(ctx context.Context, o *issueOptions, form url.Values) error {
	if o.audience != "" {
		form.Set("audience", o.audience)
	}
	if len(o.scopes) > 0 {
		form.Set("scope", strings.Join(o.scopes, " "))
	}
	if (o.client == "") != (o.secretFile == "") {
		return usage("--client and --secret-file go together", "countersign token issue --client ci --secret-file ci.secret --audience A")
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	var answer tokenAnswer
	var err error
	if o.client != "" {
		answer, err = e.askAsClient(ctx, o, form)
	} else {
		answer, err = e.askAsWorkload(ctx, form)
	}
	if err != nil {
		return err
	}
	if answer.Error != "" {
		return o.refused(answer)
	}
	if e.json {
		return e.printJSON(map[string]any{"access_token": answer.AccessToken, "token_type": answer.TokenType, "expires_in": answer.ExpiresIn, "scope": answer.Scope})
	}
	line := answer.AccessToken
	if o.header {
		line = "Authorization: Bearer " + line
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

func (o *issueOptions) refused(a tokenAnswer) error {
	text := a.Description
	if text == "" {
		text = a.Error
	}
	p := &admin.Problem{Code: "token_refused", Message: fmt.Sprintf("asking for a token for %q: %s", o.audience, text), Details: admin.Details{{Label: "error", Value: a.Error}}}
	if o.client != "" {
		p.Hints = []string{"countersign client show " + word(o.client)}
	}
	return p
}

// askAsWorkload takes the way of every program of a run: its proxy, with its identity.
func (e *env) askAsWorkload(ctx context.Context, form url.Values) (tokenAnswer, error) {
	endpoint := os.Getenv("SPIFFE_ENDPOINT_SOCKET")
	if endpoint == "" || os.Getenv("HTTP_PROXY") == "" {
		return tokenAnswer{}, &admin.Problem{
			Code: "no_identity", Message: "this process has no identity: it was not started by run",
			Hints: []string{"countersign run ⟨NAME⟩ -- countersign " + strings.Join(wordsOf(e.args), " "), "countersign " + e.cmd.name + " --client ID --secret-file F"},
		}
	}
	id, err := workloadapi.WhoAmI(ctx, endpoint)
	if err != nil {
		return tokenAnswer{}, &admin.Problem{Code: "no_identity", Message: "this process has no identity: " + err.Error(), Hints: []string{"countersign run ⟨NAME⟩ -- ⟨COMMAND⟩"}}
	}
	form.Set("client_id", id)
	return postForm(ctx, &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}, meshTokens, form, nil)
}

func wordsOf(args []string) []string {
	var out []string
	for _, a := range args {
		out = append(out, word(a))
	}
	return out
}

// askAsClient goes to the public port, with the roots of this mesh.
func (e *env) askAsClient(ctx context.Context, o *issueOptions, form url.Values) (tokenAnswer, error) {
	secret, err := e.readSecret(o.secretFile)
	if err != nil {
		return tokenAnswer{}, err
	}
	at, err := askServer[admin.TokenService](ctx, e, "/v1/token/service", nil)
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
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	return postForm(ctx, client, at.Issuer+"/oauth2/token", form, func(r *http.Request) {
		r.SetBasicAuth(url.QueryEscape(o.client), url.QueryEscape(secret))
	})
}

// readSecret reads a secret from a file that nobody else may read, or from stdin.
func (e *env) readSecret(name string) (string, error) {
	in := e.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", &admin.Problem{Code: "file_not_found", Message: "reading " + name + ": " + reason(err)}
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
			e.say("note: %s can be read by others: chmod 600 %s", escape(name), word(name))
		}
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxSecretInFile))
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func postForm(ctx context.Context, c *http.Client, to string, form url.Values, more func(*http.Request)) (tokenAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return tokenAnswer{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if more != nil {
		more(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return tokenAnswer{}, &admin.Problem{Code: "server_away", Message: "asking the token service: " + err.Error(), Hints: []string{"countersign status"}}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return tokenAnswer{}, fmt.Errorf("reading the answer of the token service: %w", err)
	}
	var a tokenAnswer
	if json.Unmarshal(body, &a) != nil || a.AccessToken == "" && a.Error == "" {
		p := &admin.Problem{Code: "token_refused", Message: fmt.Sprintf("asking the token service: %d %s", resp.StatusCode, escape(strings.TrimSpace(string(body[:min(len(body), 200)]))))}
		if id := resp.Header.Get("X-Decision-Id"); id != "" {
			p.Hints = []string{"countersign why " + id}
		}
		return tokenAnswer{}, p
	}
	return a, nil
}
