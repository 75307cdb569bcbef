package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/files"
	"countersign.dev/internal/jose"
)

const (
	customersIssuer = "https://login.shop.example"
	standardIssuer  = "https://localhost:7444" // of our own tokens, where nothing else is said
	customersToken  = 10 * time.Minute         // life of a customer's token
)

// loginService stands for the identity provider of the shop's customers, as a company has one
// long before it has a mesh. Its key is made for this demo and stays in this process.
type loginService struct {
	signer *jose.Signer
	dir    *os.Root  // where the customer's program finds its token
	next   time.Time // when the token is renewed
}

func newLoginService(dir string) (*loginService, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the customers' key: %w", err)
	}
	l := &loginService{}
	if l.signer, err = jose.NewSigner(key); err != nil {
		return nil, err
	}
	if l.dir, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("opening the demo's directory: %w", err)
	}
	return l, nil
}

func (l *loginService) close() { l.dir.Close() }

// writePolicies puts the shop's policies, and its door with the port and the issuer of this demo
// and the key that customers' tokens are verified by, where people find them.
func (l *loginService) writePolicies(port int, issuer string) error {
	key, err := json.Marshal(l.signer.Key())
	if err != nil {
		return fmt.Errorf("printing the customers' key: %w", err)
	}
	door := strings.NewReplacer("PUBLIC-KEY", string(key), "8443", strconv.Itoa(port), standardIssuer, issuer).Replace(demoDoor)
	for name, text := range map[string]string{policiesFile: demoPolicies, doorFile: door} {
		if err := files.WriteFile(l.dir, name, []byte(text)); err != nil {
			return fmt.Errorf("writing the demo's policies: %w", err)
		}
	}
	return nil
}

// renew gives the customer's program a token, and a new one at half the life of the last.
func (l *loginService) renew(now time.Time) error {
	now = now.Round(0) // by the clock on the wall: the token ends by it, also where the machine slept
	if now.Before(l.next) {
		return nil
	}
	token, err := l.signer.Sign(jose.TypJWT, map[string]any{
		"iss": customersIssuer, "sub": "alice", "aud": "https://shop.example", "role": "customer",
		"iat": now.Unix(), "exp": now.Add(customersToken).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		return err
	}
	if err := files.WriteFile(l.dir, tokenFile, []byte(token)); err != nil {
		return fmt.Errorf("handing the customer its token: %w", err)
	}
	l.next = now.Add(customersToken / 2)
	return nil
}
