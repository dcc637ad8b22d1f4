// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// refuseKey parses input and applies the policy, as both proofs do.
func refuseKey(t testing.TB, input []byte) error {
	t.Helper()
	_, err := SignedChallenge{PublicKey: input}.Verify(newPolicy(t), sub)
	return err
}

// accepted reports whether err means that the key was good: the missing signature, which is checked
// next, is refused.
func accepted(err error) bool {
	var refused *refusal.Error
	return errors.As(err, &refused) && refused.Reason == refusal.ProofInvalid
}

// oneLine is PEM with its base64 on one line, as some clients in Java write it.
func oneLine(blockType string, der []byte) []byte {
	return []byte("-----BEGIN " + blockType + "-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END " + blockType + "-----")
}

func TestMalformedPublicKeys(t *testing.T) {
	t.Parallel()
	der := spki(t, ecdsaKey(t, elliptic.P256()).Public())
	text := pemOf("PUBLIC KEY", der)
	rsaDER := spki(t, &rsa.PublicKey{N: number(2048, 1), E: 65537})
	for name, test := range map[string]struct {
		input []byte
		words string
	}{
		"missing":             {nil, "0 bytes, not 1 to 8192"},
		"too large":           {bytes.Repeat([]byte("a"), maxPublicKey+1), "8193 bytes"},
		"base64 of PEM":       {[]byte(base64.StdEncoding.EncodeToString(text)), "neither PEM nor DER"},
		"PEM without its end": {text[:len(text)-10], "PEM cannot be decoded"},
		"PEM with a bad END":  {bytes.Replace(text, []byte("END PUBLIC"), []byte("END PRIVATE"), 1), "PEM cannot be decoded"},
		"PEM on one line":     {bytes.ReplaceAll(text, []byte("\n"), nil), "PEM cannot be decoded"},
		"a private key":       {pemOf("EC PRIVATE KEY", der), "private key, which must never leave"},
		"type in lower case":  {pemOf("public key", der), `of type "public key"`},
		"type of 200 letters": {pemOf(strings.Repeat("A", 200), der), strings.Repeat("A", 100) + "…"},
		"type with controls":  {pemOf("A\x1b[2J", der), `"A\x1b[2J"`},
		"another block first": {append(pemOf("EC PARAMETERS", []byte("\x06\x01\x01")), text...), `of type "EC PARAMETERS"`},
		"RSA without NULL":    {bytes.Replace(bytes.Replace(rsaDER, []byte("\x30\x82\x01\x22\x30\x0d"), []byte("\x30\x82\x01\x20\x30\x0b"), 1), []byte("\x05\x00\x03"), []byte("\x03"), 1), "NULL parameters"},
		"Ed25519 too short":   {[]byte("\x30\x0a\x30\x05\x06\x03\x2b\x65\x70\x03\x01\x00"), "Ed25519 key of 32 bytes"},
		"unused bits":         {[]byte("\x30\x0b\x30\x05\x06\x03\x2b\x65\x70\x03\x02\x01\x02"), "not one SubjectPublicKeyInfo"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkRefusal(t, refuseKey(t, test.input), refusal.RequestMalformed, "the public key cannot be used", test.words)
		})
	}
}

// spkiOf encodes a SubjectPublicKeyInfo from parts, right or wrong.
func spkiOf(t testing.TB, algorithm asn1.ObjectIdentifier, parameters, key []byte) []byte {
	return must(asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: algorithm, Parameters: asn1.RawValue{FullBytes: parameters}}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}}))(t)
}

func TestUnsupportedAndWeakPublicKeys(t *testing.T) {
	t.Parallel()
	oidEC := asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	const p256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	point := must(ecdsaKey(t, elliptic.P256()).PublicKey.Bytes())(t)
	changed := bytes.Clone(point)
	changed[64] ^= 1
	pkcs1 := func(n, e *big.Int) []byte { return must(asn1.Marshal(struct{ N, E *big.Int }{n, e}))(t) }
	f4 := big.NewInt(65537)
	for name, test := range map[string]struct {
		der    []byte
		reason refusal.Reason
		words  string
	}{
		"RSASSA-PSS":          {spkiOf(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, nil, pkcs1(number(2048, 1), f4)), refusal.KeyUnsupported, "1.2.840.113549.1.1.10;"},
		"ML-DSA-65":           {spkiOf(t, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, nil, make([]byte, 1952)), refusal.KeyUnsupported, "2.16.840.1.101.3.4.3.18; this certificate authority accepts ecdsa-p256,"},
		"brainpoolP256r1":     {spkiOf(t, oidEC, []byte("\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07"), point), refusal.KeyUnsupported, "1.3.36.3.3.2.8.1.1.7"},
		"explicit parameters": {spkiOf(t, oidEC, []byte("\x30\x03\x02\x01\x01"), point), refusal.KeyUnsupported, "without a named curve"},
		"no parameters":       {spkiOf(t, oidEC, nil, point), refusal.KeyUnsupported, "without a named curve"},
		"compressed point":    {spkiOf(t, oidEC, []byte(p256), append([]byte{2}, point[1:33]...)), refusal.KeyUnsupported, "compressed point"},
		"not on the curve":    {spkiOf(t, oidEC, []byte(p256), changed), refusal.KeyWeak, "point on P-256"},
		"point at infinity":   {spkiOf(t, oidEC, []byte(p256), []byte{0}), refusal.KeyWeak, "point on P-256"},
		"no point":            {spkiOf(t, oidEC, []byte(p256), nil), refusal.KeyWeak, "point on P-256"},
		"point of (0, 0)":     {spkiOf(t, oidEC, []byte(p256), append([]byte{4}, make([]byte, 64)...)), refusal.KeyWeak, "point on P-256"},
		"point too long":      {spkiOf(t, oidEC, []byte(p256), append(bytes.Clone(point), 0)), refusal.KeyWeak, "point on P-256"},
		"another curve's":     {spkiOf(t, oidEC, []byte("\x06\x05\x2b\x81\x04\x00\x22"), point), refusal.KeyWeak, "point on P-384"},
		"modulus 0":           {pkcs1(new(big.Int), f4), refusal.KeyWeak, "not a positive number"},
		"modulus negative":    {pkcs1(new(big.Int).Neg(number(2048, 1)), f4), refusal.KeyWeak, "not a positive number"},
		"modulus even":        {pkcs1(new(big.Int).Lsh(number(2047, 1), 1), f4), refusal.KeyWeak, "factor below 752"},
		"RSA-16384":           {pkcs1(number(16384, 1), f4), refusal.KeyUnsupported, "modulus of 16384 bits"},
		"exponent −65537":     {pkcs1(number(2048, 1), big.NewInt(-65537)), refusal.KeyUnsupported, "exponent is not 65537"},
		"exponent 65537+2^64": {pkcs1(number(2048, 1), new(big.Int).Add(f4, new(big.Int).Lsh(big.NewInt(1), 64))), refusal.KeyUnsupported, "exponent is not 65537"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkRefusal(t, refuseKey(t, test.der), test.reason, test.words)
		})
	}
}

// TestLongOIDStaysOutOfTheMessage: an identifier can fill nearly all of the input.
func TestLongOIDStaysOutOfTheMessage(t *testing.T) {
	t.Parallel()
	oid := make(asn1.ObjectIdentifier, 2000)
	oid[0], oid[1] = 1, 3
	checkRefusal(t, refuseKey(t, spkiOf(t, oid, nil, []byte("key"))), refusal.KeyUnsupported, "…")
	checkRefusal(t, refuseKey(t, spkiOf(t, asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, must(asn1.Marshal(oid))(t), []byte("key"))), refusal.KeyUnsupported, "…")
}

// FuzzPublicKey compares our parser of keys with crypto/x509, which must read what we accept as the
// same key. We accept every canonical key that crypto/x509 reads and the policy allows.
func FuzzPublicKey(f *testing.F) {
	for _, key := range []crypto.PublicKey{
		ecdsaKey(f, elliptic.P256()).Public(), ecdsaKey(f, elliptic.P384()).Public(), ecdsaKey(f, elliptic.P521()).Public(),
		ed25519Key(f).Public(), &rsa.PublicKey{N: number(2048, 1), E: 65537}, ecdsaKey(f, elliptic.P224()).Public(),
	} {
		der := spki(f, key)
		f.Add(der)
		f.Add(pemOf("PUBLIC KEY", der))
		f.Add(oneLine("PUBLIC KEY", der))
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: number(3072, 1), E: 65537})
	f.Add(pkcs1)
	f.Add(pemOf("RSA PUBLIC KEY", pkcs1))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n"))
	policy := newPolicy(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		_, err := SignedChallenge{PublicKey: input}.Verify(policy, sub)
		var refused *refusal.Error
		if !errors.As(err, &refused) {
			t.Fatalf("not a refusal: %v", err)
		}
		checkMessage(t, refused)

		der := input
		if block, _ := pem.Decode(input); block != nil {
			der = block.Bytes
		}
		oracle, oracleErr := x509.ParsePKIXPublicKey(der)
		if oracleErr != nil {
			oracle, oracleErr = x509.ParsePKCS1PublicKey(der)
		}
		if accepted(err) {
			key, err := parsePublicKey(policy, input)
			if err != nil || oracleErr != nil {
				t.Fatalf("ours: %v; crypto/x509: %v", err, oracleErr)
			}
			if !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(oracle) {
				t.Fatal("not the key that crypto/x509 reads")
			}
			if got, err := canonical(key); err != nil || !bytes.Equal(got.SPKI, spki(t, oracle)) {
				t.Fatalf("encoded as %+v, %v; crypto/x509 writes %x", got, err, spki(t, oracle))
			}
			return
		}
		if len(input) > maxPublicKey || oracleErr != nil || policy.Check(oracle) != nil {
			return
		}
		if again, err := x509.MarshalPKIXPublicKey(oracle); err == nil && bytes.Equal(again, input) {
			t.Fatalf("refused, though crypto/x509 reads it and the policy allows it: %v", err)
		}
	})
}
