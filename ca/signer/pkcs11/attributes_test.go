//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// point returns a new public key and its point, bare and wrapped.
func point(t testing.TB, curve elliptic.Curve) (public *ecdsa.PublicKey, bare, wrapped []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bare, err = key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err = asn1.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey, bare, wrapped
}

var curves = map[string]elliptic.Curve{paramsP256: elliptic.P256(), paramsP384: elliptic.P384(), paramsP521: elliptic.P521()}

func TestParseECPublic(t *testing.T) {
	t.Parallel()
	for params, curve := range curves {
		public, bare, wrapped := point(t, curve)
		for name, form := range map[string][]byte{"bare": bare, "wrapped": wrapped} {
			if got, err := parseECPublic([]byte(params), form); err != nil || !got.Equal(public) {
				t.Errorf("%s, %s: %v, error %v", curve.Params().Name, name, got, err)
			}
		}
		offCurve := slices.Clone(bare)
		offCurve[len(offCurve)-1] ^= 1
		for name, form := range map[string][]byte{
			"nothing": nil, "short": bare[1:], "off the curve": offCurve, "trailing": append(slices.Clone(wrapped), 0), "compressed": append([]byte{2}, bare[1:len(bare)/2+1]...),
		} {
			if got, err := parseECPublic([]byte(params), form); err == nil {
				t.Errorf("%s, %s: %v", curve.Params().Name, name, got)
			}
		}
	}
}

// Every point that parses must encode to the same octets.
func FuzzECPublic(f *testing.F) {
	for params, curve := range curves {
		_, bare, wrapped := point(f, curve)
		f.Add([]byte(params), bare)
		f.Add([]byte(params), wrapped)
	}
	f.Fuzz(func(t *testing.T, params, form []byte) {
		public, err := parseECPublic(params, form)
		if err != nil {
			return
		}
		bare, err := public.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := asn1.Marshal(bare)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(form, bare) && !bytes.Equal(form, wrapped) {
			t.Errorf("%x became %x", form, bare)
		}
	})
}

func FuzzRSAPublic(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key.N.Bytes(), []byte{1, 0, 1})
	f.Add(append([]byte{0}, key.N.Bytes()...), []byte{0, 0, 0, 3})
	f.Add(key.N.Bytes(), []byte{1})
	f.Add(key.N.Bytes()[1:], []byte{1, 0, 1})
	f.Add(key.N.Bytes(), []byte{1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, modulus, exponent []byte) {
		public, err := parseRSAPublic(modulus, exponent)
		if err != nil {
			return
		}
		if !bytes.Equal(public.N.Bytes(), bytes.TrimLeft(modulus, "\x00")) || !bytes.Equal(big.NewInt(int64(public.E)).Bytes(), bytes.TrimLeft(exponent, "\x00")) {
			t.Errorf("%x, %x became %v", modulus, exponent, public)
		}
		// crypto/rsa must accept the key, so that Verify returns only ErrVerification.
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, make([]byte, 32), make([]byte, public.Size())); err != rsa.ErrVerification {
			t.Errorf("crypto/rsa does not take the key: %v", err)
		}
	})
}

func FuzzDERSignature(f *testing.F) {
	f.Add(make([]byte, 64), 32)
	f.Add(bytes.Repeat([]byte{0xff}, 96), 48)
	f.Add(append(make([]byte, 65), 1), 33)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		if size < 0 || size > 1000 {
			return
		}
		der, err := derSignature(raw, size)
		if err != nil {
			if len(raw) == 2*size {
				t.Error(err)
			}
			return
		}
		var signature struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(der, &signature); err != nil || len(rest) > 0 {
			t.Fatalf("%x is no Ecdsa-Sig-Value: %v", der, err)
		}
		back := make([]byte, 2*size)
		signature.R.FillBytes(back[:size])
		signature.S.FillBytes(back[size:])
		if !bytes.Equal(back, raw) {
			t.Errorf("%x became %x", raw, back)
		}
	})
}

func TestDigestInfo(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	// PKCS #1 v1.5 without a hash pads its input, as CKM_RSA_PKCS does.
	signature, err := rsa.SignPKCS1v15(nil, key, 0, toBeSigned(&key.PublicKey, crypto.SHA256, []byte("m")))
	if err != nil {
		t.Fatal(err)
	}
	h := crypto.SHA256.New()
	h.Write([]byte("m"))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, h.Sum(nil), signature); err != nil {
		t.Error(err)
	}
}

// A Signer relies on the remedy of each code.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for remedy, codes := range map[signer.Remedy][]p11.Error{
		signer.Reopen: {p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OBJECT_HANDLE_INVALID,
			p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_DEVICE_REMOVED, p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_SLOT_ID_INVALID},
		signer.Retry: {p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY, p11.CKR_SESSION_COUNT, p11.CKR_FUNCTION_FAILED, p11.CKR_FUNCTION_CANCELED, p11.CKR_OPERATION_ACTIVE},
		0:            {p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_MECHANISM_INVALID, p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_ARGUMENTS_BAD, 0x80000001},
	} {
		for _, code := range codes {
			if got, mend := advice(code); got != remedy || mend == "" {
				t.Errorf("%s: remedy %d, want %d; %q", codeName(code), got, remedy, mend)
			}
		}
	}
	if got := codeName(0x80000001); got != "0x80000001 (a code that the standard does not have)" {
		t.Errorf("a vendor's code is called %q", got)
	}
}
