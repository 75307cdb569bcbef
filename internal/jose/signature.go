package jose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
)

// es256Size is r and s of P-256.
const es256Size = 64

// verify is step 10: one signature, in the one form that the algorithm has.
func (k *Key) verify(input, sig []byte) bool {
	switch k.alg {
	case EdDSA:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k.pub.(ed25519.PublicKey), input, sig)
	case ES256, ES384, ES512:
		pub := k.pub.(*ecdsa.PublicKey)
		size := 2 * ((pub.Curve.Params().BitSize + 7) / 8)
		if len(sig) != size {
			return false
		}
		// VerifyASN1 itself refuses r and s outside of 1 to n-1. High s passes: others sign so.
		var buf [144]byte
		_, sum := k.digest(input)
		return ecdsa.VerifyASN1(pub, sum, appendASN1(buf[:0], sig))
	}
	pub := k.pub.(*rsa.PublicKey)
	if len(sig) != pub.Size() {
		return false
	}
	hash, sum := k.digest(input)
	if k.alg[0] == 'P' {
		return rsa.VerifyPSS(pub, hash, sum, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return rsa.VerifyPKCS1v15(pub, hash, sum, sig) == nil
}

// digest hashes by the number in the algorithm's name.
func (k *Key) digest(input []byte) (crypto.Hash, []byte) {
	switch k.alg[2:] {
	case "256":
		sum := sha256.Sum256(input)
		return crypto.SHA256, sum[:]
	case "384":
		sum := sha512.Sum384(input)
		return crypto.SHA384, sum[:]
	}
	sum := sha512.Sum512(input)
	return crypto.SHA512, sum[:]
}

// appendASN1 writes r and s as the SEQUENCE of two INTEGERs that crypto/ecdsa reads.
func appendASN1(to, sig []byte) []byte {
	half := len(sig) / 2
	body := integerSize(sig[:half]) + integerSize(sig[half:])
	to = append(to, 0x30)
	if body > 127 {
		to = append(to, 0x81)
	}
	to = append(to, byte(body))
	to = appendInteger(to, sig[:half])
	return appendInteger(to, sig[half:])
}

// integer is n without leading zeros, and whether a zero goes before it to keep it positive.
func integer(n []byte) (trimmed []byte, pad bool) {
	n = bytes.TrimLeft(n, "\x00")
	return n, len(n) == 0 || n[0] >= 0x80
}

func integerSize(n []byte) int {
	n, pad := integer(n)
	if pad {
		return 3 + len(n)
	}
	return 2 + len(n)
}

func appendInteger(to, n []byte) []byte {
	n, pad := integer(n)
	if pad {
		to = append(to, 2, byte(len(n)+1), 0)
	} else {
		to = append(to, 2, byte(len(n)))
	}
	return append(to, n...)
}

// rawECDSA writes what a signer of P-256 gave in ASN.1 as r and s into sig.
func rawECDSA(sig, der []byte) bool {
	if len(der) < 2 || der[0] != 0x30 || int(der[1]) != len(der)-2 {
		return false
	}
	der = der[2:]
	half := len(sig) / 2
	for _, to := range [][]byte{sig[:half], sig[half:]} {
		if len(der) < 2 || der[0] != 2 || int(der[1]) > len(der)-2 {
			return false
		}
		n := bytes.TrimLeft(der[2:2+der[1]], "\x00")
		if len(n) > half {
			return false
		}
		copy(to[half-len(n):], n)
		der = der[2+der[1]:]
	}
	return len(der) == 0
}
