package audit

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// UnmarshalJSON reads the form that AppendJSON writes. It is tolerant: fields it does not know
// are passed over, so that an older program reads a newer log (audit.md 15).
func (rec *Record) UnmarshalJSON(b []byte) error {
	type plain Record // without this method
	var fresh Record
	w := struct {
		*plain
		Boot       array    `json:"boot"`
		Trace      array    `json:"trace"`
		Span       array    `json:"span"`
		Parent     array    `json:"parent"`
		PeerSerial hexBytes `json:"peer_serial"`
		PeerFP     array    `json:"peer_fp"`
		TLSVersion named    `json:"tls_version"`
		TLSGroup   named    `json:"tls_group"`
		TLSSuite   named    `json:"tls_suite"`
		GRPCStatus index    `json:"grpc_status"`
		Rule       index    `json:"rule"`
		Rev        array    `json:"rev"`
		Serial     hexBytes `json:"serial"`
		CertFP     array    `json:"cert_fp"`
		SPKIFP     array    `json:"spki_fp"`
		Replaces   hexBytes `json:"replaces"`
		Old        array    `json:"old"`
		New        array    `json:"new"`
	}{
		plain: (*plain)(&fresh),
		Boot:  fresh.Boot[:], Trace: fresh.Trace[:], Span: fresh.Span[:], Parent: fresh.Parent[:],
		PeerSerial: hexBytes{&fresh.PeerSerial}, PeerFP: fresh.PeerFP[:],
		TLSVersion: named{&fresh.TLSVersion, versionNumber},
		TLSGroup:   named{&fresh.TLSGroup, groupNumber},
		TLSSuite:   named{&fresh.TLSSuite, suiteNumber},
		GRPCStatus: index{&fresh.GRPCStatus}, Rule: index{&fresh.Rule}, Rev: fresh.Rev[:],
		Serial: hexBytes{&fresh.Serial}, CertFP: fresh.CertFP[:], SPKIFP: fresh.SPKIFP[:],
		Replaces: hexBytes{&fresh.Replaces}, Old: fresh.Old[:], New: fresh.New[:],
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	*rec = fresh
	return nil
}

// array fills an array with the bytes of a hex string of exactly its length.
type array []byte

func (a array) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(a) {
		return fmt.Errorf("%d hex digits where %d belong", len(b), 2*len(a))
	}
	_, err := hex.Decode(a, b)
	return err
}

// hexBytes points to a slice that is written as hex.
type hexBytes struct{ to *[]byte }

func (h hexBytes) UnmarshalText(b []byte) (err error) {
	*h.to, err = hex.DecodeString(string(b))
	return err
}

// index points to a number that is kept one higher than it is written.
type index struct{ to *int }

func (n index) UnmarshalJSON(b []byte) error {
	var v int
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*n.to = v + 1
	return nil
}

// named points to a wire number that is written by the name Go has for it. A name that this
// build does not know leaves the number unknown.
type named struct {
	to     *uint16
	number func(name string) uint16
}

func (n named) UnmarshalText(b []byte) error {
	*n.to = n.number(string(b))
	return nil
}

func versionNumber(name string) uint16 {
	for _, v := range []uint16{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10} {
		if tls.VersionName(v) == name {
			return v
		}
	}
	return 0
}

func groupNumber(name string) uint16 {
	for _, g := range []tls.CurveID{
		tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
		tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521,
	} {
		if g.String() == name {
			return uint16(g)
		}
	}
	return 0
}

func suiteNumber(name string) uint16 {
	for _, s := range tls.CipherSuites() {
		if s.Name == name {
			return s.ID
		}
	}
	return 0
}
