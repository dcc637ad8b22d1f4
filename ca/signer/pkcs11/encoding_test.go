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
	"math/big"
	"testing"
)

const paramsP256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"

// Every point that parses must encode to the same octets.
func FuzzParseEC(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	bare, err2 := key.PublicKey.Bytes()
	wrapped, err3 := asn1.Marshal(bare)
	if err != nil || err2 != nil || err3 != nil {
		f.Fatal(err, err2, err3)
	}
	for _, form := range [][]byte{bare, wrapped} {
		if public, err := parseEC([]byte(paramsP256), form); err != nil || !key.PublicKey.Equal(public) {
			f.Errorf("%x became %v, error %v", form, public, err)
		}
		f.Add([]byte(paramsP256), form)
		f.Add([]byte("\x06\x05\x2b\x81\x04\x00\x0a"), form) // secp256k1
		f.Add([]byte(paramsP256), append(form, 0))
	}
	f.Fuzz(func(t *testing.T, params, form []byte) {
		public, err := parseEC(params, form)
		if err != nil {
			return
		}
		key, ok := public.(*ecdsa.PublicKey)
		if !ok {
			t.Fatalf("it is a %T", public)
		}
		bare, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if wrapped, _ := asn1.Marshal(bare); !bytes.Equal(form, bare) && !bytes.Equal(form, wrapped) {
			t.Errorf("%x became %x", form, bare)
		}
	})
}

func FuzzParseRSA(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key.N.Bytes(), []byte{1, 0, 1})
	f.Add(append([]byte{0}, key.N.Bytes()...), []byte{0, 0, 0, 3})
	f.Add(key.N.Bytes(), []byte{1, 0, 0, 0, 1})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, modulus, exponent []byte) {
		public, err := parseRSA(modulus, exponent)
		if err != nil {
			return
		}
		key := public.(*rsa.PublicKey)
		if !bytes.Equal(key.N.Bytes(), bytes.TrimLeft(modulus, "\x00")) || !bytes.Equal(big.NewInt(int64(key.E)).Bytes(), bytes.TrimLeft(exponent, "\x00")) {
			t.Errorf("%x, %x became %v", modulus, exponent, key)
		}
	})
}

func FuzzOutput(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(make([]byte, 63))
	public := &ecdsa.PublicKey{Curve: elliptic.P256()}
	f.Fuzz(func(t *testing.T, raw []byte) {
		der, err := output(public, raw)
		if (err == nil) != (len(raw) == 64) {
			t.Errorf("%d octets: error %v", len(raw), err)
		}
		if err != nil {
			return
		}
		var signature struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(der, &signature); err != nil || len(rest) > 0 {
			t.Fatalf("%x is no Ecdsa-Sig-Value: %v", der, err)
		}
		back := make([]byte, 64)
		signature.R.FillBytes(back[:32])
		signature.S.FillBytes(back[32:])
		if !bytes.Equal(back, raw) {
			t.Errorf("%x became %x", raw, back)
		}
	})
}
