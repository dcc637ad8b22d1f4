// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/proof"
)

// local returns the signer of a key in memory.
func local(t testing.TB, key crypto.Signer) *signer.Signer {
	return must(signer.Local("a", key, nil))(t)
}

func testDraft(t *testing.T) *draft { return must(draftAt(t, time.Hour))(t) }

// draftAt returns a draft at a time after the chain's beginning.
func draftAt(t *testing.T, after time.Duration) (*draft, error) {
	t.Helper()
	b := newChainBuilder(t)
	chain := parsed(t, b)
	authority := must(NewAuthority("a", chain, local(t, b.issuingKey)))(t)
	key := newKey(t).Public()
	id := &identity.Identity{SAN: email("person@example.com"), Extensions: certs.Extensions{certs.IssuerV1: "https://issuer.example", certs.IssuerV2: "https://issuer.example"}}
	return must(NewProfile(0))(t).draft(authority, chain.NotBefore.Add(after), id, &proof.PublicKey{Key: key, SPKI: spkiOf(t, key)})
}

func TestRefusesToFinalizeTwice(t *testing.T) {
	t.Parallel()
	pre := must(testDraft(t).precertificate(t.Context(), false))(t)
	sct := ctlog.SCT{Timestamp: 1, Signature: []byte{1}}
	if _, err := pre.finalize(t.Context(), sct); err != nil {
		t.Fatal(err)
	}
	if _, err := pre.finalize(t.Context(), sct); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a second certificate for one precertificate: error %v", err)
	}
}

// Both signatures come after the checks: of the TBS against the draft, and of the certificate against
// its precertificate. None is made if one fails.
func TestNothingIsSignedUnchecked(t *testing.T) {
	t.Parallel()
	sct := ctlog.SCT{Timestamp: 1, Signature: []byte{1}}
	signed := func(change func(*precertificate)) error {
		pre := must(testDraft(t).precertificate(t.Context(), false))(t)
		change(pre)
		_, err := pre.finalize(t.Context(), sct)
		return err
	}
	if err := signed(func(*precertificate) {}); err != nil {
		t.Error(err)
	}
	if err := signed(func(p *precertificate) { p.draft.template.SAN.Value = "other@example.com" }); err == nil {
		t.Error("a certificate that is not the draft's is signed")
	}
	if err := signed(func(p *precertificate) { p.tbs = testDraft(t).tbs.Precertificate() }); err == nil {
		t.Error("a certificate is signed that does not correspond to its precertificate")
	}
	d := testDraft(t)
	d.template.SAN.Value = "other@example.com"
	if _, err := d.precertificate(t.Context(), false); err == nil {
		t.Error("a precertificate that is not the draft's is signed")
	}
	if _, err := d.finish(t.Context(), nil, nil); err == nil {
		t.Error("an unlogged certificate that is not the draft's is signed")
	}
}

// A draft with another template than its TBS simulates an encoder with a bug. Each difference must
// be noticed before anything is signed.
func TestCheckNoticesEveryDifference(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*certs.Template){
		"serial number": func(t *certs.Template) { t.SerialNumber = append([]byte{0x7e}, make([]byte, 19)...) },
		"issuer":        func(t *certs.Template) { t.Issuer = []byte{0x30, 0} },
		"not before":    func(t *certs.Template) { t.NotBefore = t.NotBefore.Add(time.Second) },
		"not after":     func(t *certs.Template) { t.NotAfter = t.NotAfter.Add(time.Second) },
		"public key": func(t *certs.Template) {
			t.PublicKey = append([]byte(nil), t.PublicKey...)
			t.PublicKey[len(t.PublicKey)-1] ^= 1
		},
		"AKI":           func(t *certs.Template) { t.AuthorityKeyID = []byte{1} },
		"SAN":           func(t *certs.Template) { t.SAN.Value = "other@example.com" },
		"SAN kind":      func(t *certs.Template) { t.SAN.Kind = certs.SANUserName },
		"extension":     func(t *certs.Template) { t.Extensions[certs.IssuerV2] = "https://evil.example" },
		"new extension": func(t *certs.Template) { t.Extensions[certs.TokenSubject] = "x" },
	} {
		d := testDraft(t)
		change(&d.template)
		if err := d.check(d.tbs.Precertificate(), true, nil); err == nil {
			t.Errorf("%s: the difference is not noticed", name)
		}
	}
}

func TestCheckWantsTheLastExtension(t *testing.T) {
	t.Parallel()
	d, list, other := testDraft(t), []byte{0, 3, 0, 1, 7}, []byte{0, 3, 0, 1, 8}
	if d.check(d.tbs.Certificate(nil), false, list) == nil || d.check(d.tbs.Certificate(nil), true, nil) == nil || d.check(d.tbs.Precertificate(), false, nil) == nil ||
		d.check(d.tbs.Precertificate(), false, list) == nil || d.check(d.tbs.Certificate(list), false, nil) == nil || d.check(d.tbs.Certificate(list), false, other) == nil {
		t.Error("a certificate passes with another last extension than expected")
	}
	for name, err := range map[string]error{
		"a precertificate": d.check(d.tbs.Precertificate(), true, nil), "a certificate": d.check(d.tbs.Certificate(list), false, list),
		"a certificate without a log": d.check(d.tbs.Certificate(nil), false, nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewAuthorityRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	if _, err := NewAuthority("a", parsed(t, b), local(t, b.rootKey)); err == nil || !strings.Contains(err.Error(), "not the key of the chain's first certificate") {
		t.Errorf("got error %v", err)
	}
}

func TestNewProfileBoundsTheLifetime(t *testing.T) {
	t.Parallel()
	for _, lifetime := range []time.Duration{59 * time.Second, 61 * time.Minute, 90*time.Second + time.Millisecond, -time.Minute} {
		if _, err := NewProfile(lifetime); err == nil {
			t.Errorf("a lifetime of %s is accepted", lifetime)
		}
	}
	if _, err := draftAt(t, -time.Second); err == nil {
		t.Error("a CA that is not valid yet issues a certificate")
	}
	if p, err := NewProfile(0); err != nil || p.Lifetime() != 10*time.Minute {
		t.Errorf("the default is %v (%v), want ten minutes", p, err)
	}
}
