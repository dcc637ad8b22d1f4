// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// ECDSA returns a new key on curve.
func ECDSA(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RSA returns a new key of that many bits.
func RSA(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SelfTest has a Signer open the key and sign with it. Without wants it must succeed; with wants
// it must fail with a text that holds them.
func SelfTest(t *testing.T, public crypto.PublicKey, open func(context.Context) (signer.Key, error), wants ...string) {
	t.Helper()
	s, err := signer.New(signer.Config{Name: "test", Kind: "kms", Public: public, Open: open})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Prove(t.Context())
	if (err == nil) != (len(wants) == 0) {
		t.Errorf("the self-test ends with error %v", err)
	}
	for _, want := range wants {
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q; it should hold %q", err, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
