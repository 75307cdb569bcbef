package jose

import (
	"errors"
	"math/big"
	"slices"
)

// rocaPrimes are the primes of the published fingerprint (CVE-2017-15361).
var rocaPrimes = []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

// roca reports that n is a power of 65537 modulo each prime. A good key is so by a chance of 2^-27.
func roca(n *big.Int) bool {
	for _, p := range rocaPrimes {
		want, x := new(big.Int).Mod(n, big.NewInt(p)).Int64(), int64(1)
		for x != want {
			if x = x * 65537 % p; x == 1 {
				return false
			}
		}
	}
	return true
}

// field25519 is 2^255 - 19; d the constant of the curve -x² + y² = 1 + d x² y².
var (
	field25519 = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d25519     = number("37095705934669439343138083508754565189542113879843219016388785533085940283555")
	// lowOrder are the y of the points of order 1, 2, 4 and 8: keys for which one signature
	// fits every message.
	lowOrder = []*big.Int{
		big.NewInt(0), big.NewInt(1), new(big.Int).Sub(field25519, big.NewInt(1)),
		number("2707385501144840649318225287225658788936804267575313519463743609750303402022"),
		number("55188659117513257062467267217118295137698188065244968500265048394206261417927"),
	}
)

func number(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		panic("jose: a constant is no number")
	}
	return n
}

// edwards refuses an Ed25519 key that is of low order, not canonical or not on the curve
// (RFC 8032 5.1.3).
func edwards(key []byte) error {
	b := slices.Clone(key)
	slices.Reverse(b)
	b[0] &= 0x7f // the sign of x
	y, one := new(big.Int).SetBytes(b), big.NewInt(1)
	if y.Cmp(field25519) >= 0 {
		return errors.New("the point is not canonical")
	}
	if slices.ContainsFunc(lowOrder, func(l *big.Int) bool { return l.Cmp(y) == 0 }) {
		return errors.New("the point is of low order")
	}
	// x² = (y²-1) / (d y²+1): a point if that is a square.
	yy := new(big.Int).Mul(y, y)
	v := new(big.Int).Mul(yy, d25519)
	v.ModInverse(v.Add(v, one).Mod(v, field25519), field25519)
	u := yy.Sub(yy, one)
	if big.Jacobi(u.Mod(u.Mul(u, v), field25519), field25519) < 0 {
		return errors.New("the point is not on the curve")
	}
	return nil
}
