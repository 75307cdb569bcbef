package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"countersign.dev/internal/jose"
)

// foreignIssuer stands for an identity provider that scripts have beside the mesh:
//
//	issuer key FILE          make a key
//	issuer fill FILE YAML    print YAML with the public key for KEY
//	issuer sign FILE CLAIMS  print a token that says so, and lives for 5 minutes
func foreignIssuer() {
	if err := actAsIssuer(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func actAsIssuer(act, file string, args []string) error {
	if act == "key" {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		return os.WriteFile(file, der, 0o600)
	}
	signer, err := issuerOf(file)
	if err != nil {
		return err
	}
	if act == "fill" {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		public, err := json.Marshal(signer.Key())
		fmt.Print(strings.ReplaceAll(string(text), "KEY", string(public)))
		return err
	}
	claims := map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(), "jti": rand.Text()}
	if err := json.Unmarshal([]byte(args[0]), &claims); err != nil {
		return err
	}
	token, err := signer.Sign(jose.TypJWT, claims)
	fmt.Println(token)
	return err
}

func issuerOf(file string) (*jose.Signer, error) {
	der, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, err
	}
	return jose.NewSigner(key)
}
