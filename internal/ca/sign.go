package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/audit"
)

// maxTokenAge is how long a checked certificate may wait for its signature: what it was
// checked against may have changed since.
const maxTokenAge = 30 * time.Second

// Recorded is a Token whose intent is on the disk; only Record makes one, and only it is signed.
type Recorded struct{ token *Token }

// Issued is a certificate with what stands between it and the root.
type Issued struct {
	Chain              [][]byte // DER: leaf, issuing authority
	Serial             []byte
	NotAfter, IssuedAt time.Time
}

// Record writes the intent of t durably. No record, no signature.
func (a *Authority) Record(ctx context.Context, t *Token) (*Recorded, error) {
	if err := a.opt.Recorder.Record(ctx, t.Intent()); err != nil {
		return nil, fmt.Errorf("recording the intent: %w", err)
	}
	return &Recorded{token: t}, nil
}

// Sign spends r: one signature over the very bytes that were linted.
func (a *Authority) Sign(r *Recorded) (*Issued, error) {
	t := r.token
	if t.authority != a {
		return nil, fmt.Errorf("%w: it is another authority's", ErrStale)
	}
	if !t.spent.CompareAndSwap(false, true) {
		return nil, ErrSpent
	}
	if age := time.Since(t.draft.issued); age > maxTokenAge || age < -maxTokenAge {
		return nil, fmt.Errorf("%w: prepared %v ago", ErrStale, age.Round(time.Second))
	}
	if !profiles[t.draft.profile].authority && t.by != &a.issuer.Load().signer {
		return nil, fmt.Errorf("%w: the issuing authority was replaced", ErrStale)
	}
	der, err := t.by.sign(t.tbs)
	if err != nil {
		return nil, err
	}
	chain := [][]byte{der}
	if t.draft.profile != Root && t.draft.profile != Issuer { // a self-signed certificate is never sent
		chain = append(chain, t.by.cert.Raw)
	}
	return &Issued{
		Chain: chain, Serial: bytes.Clone(t.draft.serial),
		NotAfter: t.draft.notAfter, IssuedAt: t.draft.issued.UTC().Truncate(time.Millisecond),
	}, nil
}

// sign makes the signature and puts the certificate together (RFC 5280, section 4.1), then
// reads it back: a faulty signature would give the key away.
func (s *signer) sign(tbs []byte) ([]byte, error) {
	digest := sha256.Sum256(tbs)
	signature, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		TBS:       asn1.RawValue{FullBytes: tbs},
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, // RFC 5758, section 3.2
		Signature: asn1.BitString{Bytes: signature, BitLength: len(signature) * 8},
	})
	if err != nil {
		return nil, fmt.Errorf("putting the certificate together: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate back: %w", err)
	}
	if !bytes.Equal(cert.RawTBSCertificate, tbs) {
		return nil, errors.New("reading the certificate back: it is not what was linted")
	}
	above := &x509.Certificate{PublicKey: s.key.Public(), PublicKeyAlgorithm: x509.ECDSA}
	if err := above.CheckSignature(cert.SignatureAlgorithm, tbs, cert.Signature); err != nil {
		return nil, fmt.Errorf("reading the certificate back: %w", err)
	}
	return der, nil
}

// Intent is the record that must be on the disk before the signature is made.
func (t *Token) Intent() *audit.Record {
	rec := t.record()
	rec.Phase, rec.Decision = audit.PhaseOpening, audit.Allow
	return rec
}

func (t *Token) record() *audit.Record {
	kind := audit.IssuedX509
	if profiles[t.draft.profile].authority {
		kind = audit.IssuedCA
	}
	key := t.draft.ski // of a root, which signs itself
	if t.by.cert != nil {
		key = t.by.cert.SubjectKeyId
	}
	return &audit.Record{
		Kind: audit.KindIssue, Layer: audit.LayerIssue,
		IssuedKind: kind, IssuedFor: t.draft.id.String(),
		Serial: t.draft.serial, SPKIFP: t.spki,
		NotBefore: t.notBefore, NotAfter: t.draft.notAfter,
		CAKey: hex.EncodeToString(key), Attestor: t.request.Node,
		Selectors: t.request.Selectors, Entry: t.request.Entry, Replaces: t.request.Replaces,
	}
}

// recordOutcome closes the intent of t. The certificate stands even if this record is lost.
func (a *Authority) recordOutcome(ctx context.Context, t *Token, issued *Issued, failure error) {
	rec := t.record()
	rec.Phase, rec.Decision, rec.Result = audit.PhaseClosing, audit.Allow, audit.ResultOK
	if failure != nil {
		rec.Decision, rec.Result, rec.Error = audit.Failed, audit.ResultFailed, failure.Error()
	} else {
		rec.CertFP = sha256.Sum256(issued.Chain[0])
	}
	a.add(ctx, rec)
}

// recordRefusal records a request that was not granted.
func (a *Authority) recordRefusal(ctx context.Context, r Request, why error) {
	rec := &audit.Record{
		Kind: audit.KindIssue, Layer: audit.LayerIssue, Decision: audit.Deny,
		Reason: "invalid_request", Result: audit.ResultRefused,
		IssuedKind: audit.IssuedX509, IssuedFor: r.ID.String(), Attestor: r.Node,
		Selectors: r.Selectors, Entry: r.Entry, Replaces: r.Replaces,
	}
	for _, known := range []error{ErrRequest, ErrCSR, ErrTooShort, ErrLint} { // fixed words: nothing a caller sent
		if errors.Is(why, known) {
			rec.Detail = known.Error()
		}
	}
	if !errors.Is(why, ErrRequest) && !errors.Is(why, ErrCSR) && !errors.Is(why, ErrTooShort) {
		rec.Decision, rec.Result = audit.Failed, audit.ResultFailed
	}
	a.add(ctx, rec)
}

// add records what may be lost in a crash.
func (a *Authority) add(ctx context.Context, rec *audit.Record) {
	if adder, ok := a.opt.Recorder.(Adder); ok {
		adder.Add(rec)
		return
	}
	if err := a.opt.Recorder.Record(ctx, rec); err != nil {
		a.opt.Log.Error("recording the outcome of an issue", "id", rec.IssuedFor, "error", err)
	}
}
