// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"testing"

	"github.com/mayfly-ca/mayfly/test/testca"
)

// curves returns the curves of the CA keys in the benchmarks.
func curves() map[string]elliptic.Curve {
	return map[string]elliptic.Curve{"CA=P256": elliptic.P256(), "CA=P384": elliptic.P384()}
}

// BenchmarkIssue measures a certificate on one core: from the raw RS256 token and a P-256
// proof to the chain, with a log that is called directly and that signs its SCT. The floor
// does not include the log's own signature, which BenchmarkLog measures.
func BenchmarkIssue(b *testing.B) {
	for name, curve := range curves() {
		b.Run(name, func(b *testing.B) {
			w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true})
			req := w.Request(b, w.Token(b, nil), "person@example.com")
			if _, err := w.CA.Issue(b.Context(), req); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.CA.Issue(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIssueParallel is the same on every core.
func BenchmarkIssueParallel(b *testing.B) {
	for name, curve := range curves() {
		b.Run(name, func(b *testing.B) {
			w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true})
			req := w.Request(b, w.Token(b, nil), "person@example.com")
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := w.CA.Issue(b.Context(), req); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkFloor is the bare cryptography of one issuance: the minimum time to verify a token
// and a proof, sign twice, and verify an SCT and the CA's own last signature.
func BenchmarkFloor(b *testing.B) {
	for name, curve := range curves() {
		b.Run(name, func(b *testing.B) {
			f := newFloor(b, curve)
			b.ReportAllocs()
			for b.Loop() {
				f.token(b)
				f.verifyP256(b) // the proof of possession
				f.sign(b)       // the precertificate
				f.verifyP256(b) // the SCT
				f.sign(b)       // the certificate
				f.verifyCA(b)   // the certificate's signature
			}
		})
	}
}

// BenchmarkFloorParts measures the parts of the floor.
func BenchmarkFloorParts(b *testing.B) {
	for name, curve := range curves() {
		f := newFloor(b, curve)
		for part, run := range map[string]func(*testing.B){
			"verify-token": f.token, "verify-P256": f.verifyP256, "sign-CA": f.sign, "verify-CA": f.verifyCA,
		} {
			b.Run(name+"/"+part, func(b *testing.B) {
				for b.Loop() {
					run(b)
				}
			})
		}
	}
}

// floor holds keys and signatures for the operations of one issuance.
type floor struct {
	provider       *rsa.PrivateKey
	client, ca     *ecdsa.PrivateKey
	token256       [sha256.Size]byte
	caDigest       []byte
	providerSig    []byte
	clientSig, sig []byte
}

func newFloor(b *testing.B, curve elliptic.Curve) *floor {
	b.Helper()
	f := &floor{token256: sha256.Sum256(make([]byte, 1200))}
	f.caDigest = f.token256[:]
	if curve == elliptic.P384() {
		sum := sha512.Sum384(make([]byte, 1200))
		f.caDigest = sum[:]
	}
	var err error
	check := func() {
		if err != nil {
			b.Fatal(err)
		}
	}
	f.provider, err = rsa.GenerateKey(rand.Reader, 2048)
	check()
	f.client, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check()
	f.ca, err = ecdsa.GenerateKey(curve, rand.Reader)
	check()
	f.providerSig, err = rsa.SignPKCS1v15(rand.Reader, f.provider, crypto.SHA256, f.token256[:])
	check()
	f.clientSig, err = ecdsa.SignASN1(rand.Reader, f.client, f.token256[:])
	check()
	f.sig, err = ecdsa.SignASN1(rand.Reader, f.ca, f.caDigest)
	check()
	return f
}

func (f *floor) token(b *testing.B) {
	if err := rsa.VerifyPKCS1v15(&f.provider.PublicKey, crypto.SHA256, f.token256[:], f.providerSig); err != nil {
		b.Fatal(err)
	}
}

func (f *floor) verifyP256(b *testing.B) {
	if !ecdsa.VerifyASN1(&f.client.PublicKey, f.token256[:], f.clientSig) {
		b.Fatal("the signature does not verify")
	}
}

func (f *floor) sign(b *testing.B) {
	if _, err := ecdsa.SignASN1(rand.Reader, f.ca, f.caDigest); err != nil {
		b.Fatal(err)
	}
}

func (f *floor) verifyCA(b *testing.B) {
	if !ecdsa.VerifyASN1(&f.ca.PublicKey, f.caDigest, f.sig) {
		b.Fatal("the signature does not verify")
	}
}
