// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	stdasn1 "encoding/asn1"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
)

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
	chain, err := ParseChain(newChainBuilder(t).make(t))
	if err != nil {
		t.Fatal(err)
	}
	return benchOf(t, chain)
}

func benchOf(t testing.TB, chain *Chain) *policyBench {
	t.Helper()
	issuing := chain.Certificates[0]
	algorithm, err := certs.SignatureAlgorithmFor(issuing.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
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

func newPolicy(t testing.TB, unlogged bool) *LeafPolicy {
	t.Helper()
	p, err := NewLeafPolicy(unlogged)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func spkiOf(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func (b *policyBench) tbs(t testing.TB) *certs.TBS {
	t.Helper()
	tbs, err := certs.NewTBS(b.template)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

func (b *policyBench) sctList(t testing.TB) []byte {
	t.Helper()
	list, err := ctlog.MarshalSCTList(slices.Repeat([]ctlog.SCT{b.sct}, b.scts)...)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *policyBench) precertificate(t testing.TB) []byte { return b.tbs(t).Precertificate() }
func (b *policyBench) certificate(t testing.TB) []byte    { return b.tbs(t).Certificate(b.sctList(t)) }
func (b *policyBench) unlogged(t testing.TB) []byte       { return b.tbs(t).Certificate(nil) }

// elements are the DER elements of a TBS before the extensions, and those of the extensions.
type elements struct{ fields, extensions [][]byte }

const (
	version = iota
	serial
	algorithm
	issuer
	validity
	subject
	publicKey
)

// The profile's extensions in their order; the last one is poison or SCT list.
const (
	extKeyUsage = iota
	extExtKeyUsage
	extSubjectKeyID
	extAuthorityKeyID
	extSAN
	extFirstClaim
)

func split(t testing.TB, tbs []byte) *elements {
	t.Helper()
	in, e := cryptobyte.String(tbs), &elements{}
	var content, explicit, list cryptobyte.String
	ok := in.ReadASN1(&content, asn1.SEQUENCE) && in.Empty()
	next := func(from *cryptobyte.String) []byte {
		var element cryptobyte.String
		var tag asn1.Tag
		ok = ok && from.ReadAnyASN1Element(&element, &tag)
		return element
	}
	for range publicKey + 1 {
		e.fields = append(e.fields, next(&content))
	}
	ok = ok && content.ReadASN1(&explicit, asn1.Tag(3).ContextSpecific().Constructed()) && explicit.ReadASN1(&list, asn1.SEQUENCE)
	for ok && !list.Empty() {
		e.extensions = append(e.extensions, next(&list))
	}
	if !ok {
		t.Fatal("the TBS does not split")
	}
	return e
}

func (e *elements) join() []byte {
	explicit := der(asn1.Tag(3).ContextSpecific().Constructed(), der(asn1.SEQUENCE, e.extensions...))
	if len(e.extensions) == 0 {
		explicit = nil
	}
	return der(asn1.SEQUENCE, append(slices.Clone(e.fields), explicit)...)
}

// der is one element of DER that holds contents, concatenated.
func der(tag asn1.Tag, contents ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(contents, nil)) })
	return b.BytesOrPanic()
}

func ext(id stdasn1.ObjectIdentifier, critical bool, value ...byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(value)
	})
	return b.BytesOrPanic()
}

func (e *elements) drop(i int)              { e.extensions = slices.Delete(e.extensions, i, i+1) }
func (e *elements) insert(i int, el []byte) { e.extensions = slices.Insert(e.extensions, i, el) }
func (e *elements) last() []byte            { return e.extensions[len(e.extensions)-1] }
func (e *elements) setLast(el []byte)       { e.extensions[len(e.extensions)-1] = el }

// eku is an extended key usage extension with id-kp purposes.
func eku(purposes ...byte) []byte {
	var ids [][]byte
	for _, purpose := range purposes {
		ids = append(ids, []byte{6, 8, 0x2b, 6, 1, 5, 5, 7, 3, purpose})
	}
	return ext(stdasn1.ObjectIdentifier{2, 5, 29, 37}, false, der(asn1.SEQUENCE, ids...)...)
}

// critical returns an extension that was not critical as critical.
func critical(element []byte) []byte {
	in := cryptobyte.String(element)
	var content, id cryptobyte.String
	if !in.ReadASN1(&content, asn1.SEQUENCE) || !content.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER) {
		return nil
	}
	return der(asn1.SEQUENCE, id, []byte{1, 1, 0xff}, content)
}
