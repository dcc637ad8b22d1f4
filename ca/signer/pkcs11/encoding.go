//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"
)

// parseEC returns the key of CKA_EC_PARAMS, which are ECParameters, and CKA_EC_POINT (PKCS #11
// Current Mechanisms 2.40, section 2.3.3). The standard wraps the uncompressed point in a DER OCTET
// STRING; some tokens return it bare.
func parseEC(params, point []byte) (crypto.PublicKey, error) {
	var bare []byte
	if rest, err := asn1.Unmarshal(point, &bare); err != nil || len(rest) > 0 {
		bare = point
	}
	return parse(struct { // SubjectPublicKeyInfo (RFC 5480, section 2)
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: params}},
		asn1.BitString{Bytes: bare, BitLength: 8 * len(bare)},
	}, x509.ParsePKIXPublicKey)
}

// parseRSA returns the key of CKA_MODULUS and CKA_PUBLIC_EXPONENT, which are big-endian (section
// 2.1.2 of the mechanisms).
func parseRSA(modulus, exponent []byte) (crypto.PublicKey, error) {
	type rsaPublicKey struct{ N, E *big.Int } // RFC 8017, appendix A.1.1
	return parse(rsaPublicKey{new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)}, x509.ParsePKCS1PublicKey)
}

// parse encodes a structure and parses the encoding, which checks all limits.
func parse[K crypto.PublicKey](structure any, parse func([]byte) (K, error)) (crypto.PublicKey, error) {
	der, err := asn1.Marshal(structure)
	if err != nil {
		return nil, err
	}
	return parse(der)
}

// sha256Prefix precedes the digest in a DigestInfo (RFC 8017, section 9.2, note 1).
const sha256Prefix = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"

// input returns the mechanism of a key, and what it signs for a message: the digest with CKM_ECDSA,
// its DigestInfo with CKM_RSA_PKCS, which pads only.
func input(public crypto.PublicKey, hash crypto.Hash, message []byte) (mechanism uint, input []byte) {
	h := hash.New()
	h.Write(message)
	if _, isRSA := public.(*rsa.PublicKey); isRSA {
		return p11.CKM_RSA_PKCS, h.Sum([]byte(sha256Prefix))
	}
	return p11.CKM_ECDSA, h.Sum(nil)
}

// output returns a signature in the form that certificates hold. One of CKM_ECDSA is r and s, each
// of the size of the order (section 2.3.1 of the mechanisms); it becomes an Ecdsa-Sig-Value (RFC
// 3279, section 2.2.3).
func output(public crypto.PublicKey, raw []byte) ([]byte, error) {
	key, isEC := public.(*ecdsa.PublicKey)
	if !isEC {
		return raw, nil
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(raw) != 2*size {
		return nil, fmt.Errorf("the token gave an ECDSA signature of %d octets, which should be %d: r and s", len(raw), 2*size)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])})
}
