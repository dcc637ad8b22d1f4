// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
)

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// policyBench is a chain, a certificate that it may sign, and a clock. A test changes one thing and
// calls the policy.
type policyBench struct {
	chain    *Chain
	now      time.Time
	template certs.Template
	sct      ctlog.SCT
	scts     int // how often the list holds sct
}

func newPolicyBench(t testing.TB) *policyBench {
	t.Helper()
	return benchOf(t, parsed(t, newChainBuilder(t)))
}

func benchOf(t testing.TB, chain *Chain) *policyBench {
	t.Helper()
	issuing := chain.Certificates[0]
	algorithm := must(certs.SignatureAlgorithmFor(issuing.PublicKey))(t)
	now := chain.NotBefore.Add(time.Hour)
	b := &policyBench{
		chain: chain, now: now, scts: 1,
		sct: ctlog.SCT{Timestamp: uint64(now.UnixMilli()), Signature: make([]byte, 71)},
		template: certs.Template{
			SerialNumber: append([]byte{0x7f}, make([]byte, 19)...), SignatureAlgorithm: algorithm,
			Issuer: issuing.RawSubject, AuthorityKeyID: issuing.SubjectKeyId,
			NotBefore: now.Add(-backdate), NotAfter: now.Add(-backdate + DefaultLifetime), PublicKey: spkiOf(t, newKey(t).Public()),
			SAN: certs.SAN{Kind: certs.SANURI, Value: "https://github.com/owner/repo/.github/workflows/release.yml@refs/tags/v1.0.0"},
		},
	}
	for _, e := range certs.Table() {
		b.template.Extensions[e.Arc] = "https://github.com/owner/" + e.Name
	}
	return b
}

func newPolicy(t testing.TB, unlogged bool) *LeafPolicy { return must(NewLeafPolicy(unlogged))(t) }

func spkiOf(t testing.TB, public crypto.PublicKey) []byte {
	return must(x509.MarshalPKIXPublicKey(public))(t)
}

func (b *policyBench) tbs(t testing.TB) *certs.TBS { return must(certs.NewTBS(b.template))(t) }

func (b *policyBench) precertificate(t testing.TB) []byte { return b.tbs(t).Precertificate() }
func (b *policyBench) unlogged(t testing.TB) []byte       { return b.tbs(t).Certificate(nil) }
func (b *policyBench) certificate(t testing.TB) []byte {
	return b.tbs(t).Certificate(must(ctlog.MarshalSCTList(slices.Repeat([]ctlog.SCT{b.sct}, b.scts)...))(t))
}
