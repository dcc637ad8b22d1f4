// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/mayfly-ca/mayfly/test/testca"
)

func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

// forCurves runs a benchmark for each curve of the CA's key.
func forCurves(b *testing.B, run func(b *testing.B, curve elliptic.Curve)) {
	b.Run("CA=P256", func(b *testing.B) { run(b, elliptic.P256()) })
	b.Run("CA=P384", func(b *testing.B) { run(b, elliptic.P384()) })
}

// BenchmarkIssue measures a certificate on one core: from the raw RS256 token and a P-256
// proof to the chain, with a log that is called directly and that signs its SCT. The floor
// does not include the log's own signature, which BenchmarkLog measures.
func BenchmarkIssue(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true})
		req := w.Request(b, w.Token(b, nil), "person@example.com")
		must(w.CA.Issue(b.Context(), req))(b)
		b.ReportAllocs()
		for b.Loop() {
			must(w.CA.Issue(b.Context(), req))(b)
		}
	})
}

// BenchmarkIssueParallel is the same on every core.
func BenchmarkIssueParallel(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true})
		req := w.Request(b, w.Token(b, nil), "person@example.com")
		inParallel(b, 1, func() error {
			_, err := w.CA.Issue(b.Context(), req)
			return err
		})
	})
}

// inParallel measures do on every core, with a number of clients for each.
func inParallel(b *testing.B, clients int, do func() error) {
	b.ReportAllocs()
	b.SetParallelism(clients)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkFloor is the bare cryptography of one issuance: the minimum time to verify a token
// and a proof, sign twice, and verify an SCT and the CA's own last signature.
func BenchmarkFloor(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		parts := floor(b, curve)
		b.ReportAllocs()
		for b.Loop() {
			for _, part := range parts {
				part.run(b)
			}
		}
	})
}

// BenchmarkFloorParts measures the parts of the floor.
func BenchmarkFloorParts(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		for _, part := range floor(b, curve) {
			b.Run(part.name, func(b *testing.B) {
				for b.Loop() {
					part.run(b)
				}
			})
		}
	})
}

type part struct {
	name string
	run  func(testing.TB)
}

func floor(tb testing.TB, curve elliptic.Curve) []part {
	provider := must(rsa.GenerateKey(rand.Reader, 2048))(tb)
	digest := make([]byte, 32)
	signature := must(rsa.SignPKCS1v15(rand.Reader, provider, crypto.SHA256, digest))(tb)
	token := func(tb testing.TB) {
		if err := rsa.VerifyPKCS1v15(&provider.PublicKey, crypto.SHA256, digest, signature); err != nil {
			tb.Fatal(err)
		}
	}
	_, p256 := floorECDSA(tb, elliptic.P256())
	sign, verify := floorECDSA(tb, curve)
	return []part{{"token", token}, {"proof", p256}, {"precertificate", sign}, {"SCT", p256}, {"certificate", sign}, {"verify-certificate", verify}}
}

func floorECDSA(tb testing.TB, curve elliptic.Curve) (sign, verify func(testing.TB)) {
	key := must(ecdsa.GenerateKey(curve, rand.Reader))(tb)
	digest := make([]byte, curve.Params().BitSize/8)
	signature := must(ecdsa.SignASN1(rand.Reader, key, digest))(tb)
	sign = func(tb testing.TB) {
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest); err != nil {
			tb.Fatal(err)
		}
	}
	verify = func(tb testing.TB) {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) {
			tb.Fatal("the signature does not verify")
		}
	}
	return sign, verify
}
