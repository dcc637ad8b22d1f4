//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"slices"
	"testing"
)

// A point is wrapped by the standard, and bare of some tokens. The conformance suite proves what
// SoftHSM returns.
func TestParseEC(t *testing.T) {
	t.Parallel()
	const p256, secp256k1 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", "\x06\x05\x2b\x81\x04\x00\x0a"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := asn1.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	offCurve := slices.Clone(bare)
	offCurve[64] ^= 1
	for name, test := range map[string]struct {
		params string
		point  []byte
		valid  bool
	}{
		"bare": {p256, bare, true}, "wrapped": {p256, wrapped, true}, "off the curve": {p256, offCurve, false}, "short": {p256, bare[1:], false},
		"trailing": {p256, append(slices.Clone(wrapped), 0), false}, "another curve": {secp256k1, bare, false}, "no curve": {"", bare, false}, "nothing": {p256, nil, false},
	} {
		if public, err := parseEC([]byte(test.params), test.point); (err == nil) != test.valid || test.valid && !key.PublicKey.Equal(public) {
			t.Errorf("%s: got %v, error %v", name, public, err)
		}
	}
	for name, numbers := range map[string][2][]byte{"no modulus": {nil, {1, 0, 1}}, "no exponent": {{0x80, 1}, nil}, "large exponent": {{0x80, 1}, {1, 0, 0, 0, 1}}} {
		if public, err := parseRSA(numbers[0], numbers[1]); err == nil {
			t.Errorf("%s: got %v", name, public)
		}
	}
	if der, err := output(&key.PublicKey, make([]byte, 63)); err == nil {
		t.Errorf("a signature of 63 octets became %x", der)
	}
	if der, err := output(&key.PublicKey, append(make([]byte, 63), 0x80)); err != nil || !bytes.Equal(der, []byte{0x30, 7, 2, 1, 0, 2, 2, 0, 0x80}) {
		t.Errorf("a signature became %x, error %v", der, err)
	}
}

// What a module returns may be of any form: a key or signature is read whole, or refused.
func FuzzEncodings(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	bare, err := key.PublicKey.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), bare)
	f.Add([]byte{1, 0, 1}, make([]byte, 64))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if public, err := parseEC(a, b); err == nil {
			if ec, ok := public.(*ecdsa.PublicKey); !ok || ec.Curve == nil {
				t.Errorf("%x, %x: got %v", a, b, public)
			} else if point, err := ec.Bytes(); err != nil || !bytes.HasSuffix(b, point) {
				t.Errorf("%x became %x, error %v", b, point, err)
			}
		}
		if public, err := parseRSA(a, b); err == nil && (public.(*rsa.PublicKey).N.Sign() <= 0 || public.(*rsa.PublicKey).E <= 0) {
			t.Errorf("%x, %x: got %v", a, b, public)
		}
		if der, err := output(&key.PublicKey, b); err == nil && !bytes.HasPrefix(der, []byte{0x30}) {
			t.Errorf("%x became %x", b, der)
		}
	})
}
