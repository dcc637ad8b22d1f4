// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// now is the time of every fixture.
func now() time.Time { return time.Date(2026, 11, 5, 12, 0, 0, 250e6, time.UTC) }

// fixture is a log that accepts an authority, at a fixed time.
type fixture struct {
	log       *testlog.Log
	key       *ctlog.PublicKey
	authority *testlog.Authority
}

func newFixture(t testing.TB, change func(*testlog.Config)) *fixture {
	t.Helper()
	authority := testlog.NewAuthority(t, now)
	cfg := testlog.Config{Roots: []*x509.Certificate{authority.Root}, Now: now}
	if change != nil {
		change(&cfg)
	}
	log, err := testlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ctlog.ParsePublicKey(log.PublicKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{log: log, key: key, authority: authority}
}

func (f *fixture) submission(t testing.TB) ctlog.Submission {
	t.Helper()
	return f.authority.Draft(t).Submission
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	f, other := newFixture(t, nil), newFixture(t, nil)
	sub := f.submission(t)
	good, err := f.log.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	other.log.AddRoot(f.authority.Root)
	foreign, err := other.log.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := f.log.Submit(t.Context(), f.submission(t))
	if err != nil {
		t.Fatal(err)
	}

	type input struct {
		sct ctlog.SCT
		sub ctlog.Submission
		now time.Time
	}
	for name, change := range map[string]func(*input){
		"good":                               func(*input) {},
		"good, clock 2 min ahead of the log": func(in *input) { in.now = in.now.Add(2 * time.Minute) },
		"good, clock 10 s behind the log":    func(in *input) { in.now = in.now.Add(-10 * time.Second) },
		"stale by a millisecond":             func(in *input) { in.now = in.now.Add(2*time.Minute + time.Millisecond) },
		"future by a millisecond":            func(in *input) { in.now = in.now.Add(-10*time.Second - time.Millisecond) },
		"timestamp zero":                     func(in *input) { in.sct.Timestamp = 0 },
		"timestamp over 63 bits":             func(in *input) { in.sct.Timestamp = math.MaxUint64 },
		"timestamp changed":                  func(in *input) { in.sct.Timestamp++ },
		"another log ID":                     func(in *input) { in.sct.LogID[0] ^= 1 },
		"SCT of another log":                 func(in *input) { in.sct = foreign },
		"other log's under our ID":           func(in *input) { in.sct = foreign; in.sct.LogID = good.LogID },
		"SCT of another certificate":         func(in *input) { in.sct = elsewhere },
		"signature changed":                  func(in *input) { in.sct.Signature[20] ^= 1 },
		"signature with a tail":              func(in *input) { in.sct.Signature = append(in.sct.Signature, 0) },
		"signature missing":                  func(in *input) { in.sct.Signature = nil },
		"TBS changed":                        func(in *input) { in.sub.TBS[100] ^= 1 },
		"TBS of 2^24 bytes":                  func(in *input) { in.sub.TBS = make([]byte, 1<<24) },
		"issuer key hash changed":            func(in *input) { in.sub.IssuerKeyHash[0] ^= 1 },
		"leaf index that is unsigned":        func(in *input) { in.sct.Extensions = leafIndex(0) },
	} {
		in := input{sct: good, sub: sub, now: now()}
		in.sct.Signature, in.sub.TBS = bytes.Clone(good.Signature), bytes.Clone(sub.TBS)
		change(&in)
		err := f.key.Verify(in.sct, in.sub, in.now)
		if wrong := !strings.HasPrefix(name, "good"); errors.As(err, new(*ctlog.InvalidError)) != wrong || (err != nil) != wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func spkiPEM(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := spkiPEM(t, p256.Public())
	key, err := ctlog.ParsePublicKey(append([]byte("the log's key:\n"), append(good, "\n\n"...)...))
	if err != nil {
		t.Fatal(err)
	}
	marked, err := ctlog.ParsePublicKey(append([]byte("\ufeff"), good...))
	if err != nil || marked.LogID() != key.LogID() {
		t.Errorf("behind a byte order mark: %v", err)
	}
	block, _ := pem.Decode(good)
	if key.LogID() != sha256.Sum256(block.Bytes) || !bytes.Equal(key.PEM(), pem.EncodeToMemory(block)) {
		t.Error("log ID and SPKI are not those of the key")
	}
	// crypto/x509 ignores octets after the parameters, which make another log ID of the same key.
	const parameters = 2 + 2 + 0x13
	odd := slices.Concat(block.Bytes[:parameters], []byte{5, 0}, block.Bytes[parameters:])
	odd[1], odd[3] = odd[1]+2, odd[3]+2
	if _, err := x509.ParsePKIXPublicKey(odd); err != nil {
		t.Fatalf("the key is not one that crypto/x509 reads: %v", err)
	}
	if _, err := ctlog.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: odd})); err == nil {
		t.Error("a key with two log IDs is accepted")
	}

	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][]byte{
		"missing":      []byte(" \n"),
		"not PEM":      block.Bytes,
		"P-384":        spkiPEM(t, p384.Public()),
		"Ed25519":      spkiPEM(t, edKey),
		"private key":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"hidden":       append([]byte(" "), append(bytes.Clone(good), good...)...),
		"two keys":     append(bytes.Clone(good), good...),
		"garbage":      pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		"trailing DER": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append(bytes.Clone(block.Bytes), 0)}),
	} {
		if _, err := ctlog.ParsePublicKey(in); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// No input from a log may crash the verification.
func FuzzVerify(f *testing.F) {
	fix := newFixture(f, nil)
	sub := fix.submission(f)
	sct, err := fix.log.Submit(f.Context(), sub)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, sct))
	f.Fuzz(func(t *testing.T, b []byte) {
		scts, err := ctlog.ParseSCTList(b)
		if err != nil {
			return
		}
		got := scts[0]
		got.LogID = fix.key.LogID()
		if err := fix.key.Verify(got, sub, now()); err == nil && (got.Timestamp != sct.Timestamp || len(got.Extensions) > 0) {
			t.Errorf("an SCT that the log did not sign was accepted: %x", b)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFixture(b, nil)
	sub := f.submission(b)
	sct, err := f.log.Submit(b.Context(), sub)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := f.key.Verify(sct, sub, now()); err != nil {
			b.Fatal(err)
		}
	}
}
