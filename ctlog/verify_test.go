// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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
	authority, err := testlog.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
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

func (f *fixture) draft(t testing.TB) *testlog.Draft {
	t.Helper()
	d, err := f.authority.Draft()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	f, other := newFixture(t, nil), newFixture(t, nil)
	sub := f.draft(t).Submission
	good, err := f.log.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	other.log.AddRoot(f.authority.Root)
	foreign, err := other.log.Submit(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := f.log.Submit(t.Context(), f.draft(t).Submission)
	if err != nil {
		t.Fatal(err)
	}

	type input struct {
		sct ctlog.SCT
		sub ctlog.Submission
		now time.Time
	}
	for name, test := range map[string]struct {
		change func(*input)
		want   string // "" if the input is good
	}{
		"nothing":                      {func(*input) {}, ""},
		"clock 2 min ahead of the log": {func(in *input) { in.now = in.now.Add(2 * time.Minute) }, ""},
		"clock 10 s behind the log":    {func(in *input) { in.now = in.now.Add(-10 * time.Second) }, ""},
		"stale by a millisecond":       {func(in *input) { in.now = in.now.Add(2*time.Minute + time.Millisecond) }, "more than 2m0s before"},
		"future by a millisecond":      {func(in *input) { in.now = in.now.Add(-10*time.Second - time.Millisecond) }, "more than 10s after"},
		"timestamp zero":               {func(in *input) { in.sct.Timestamp = 0 }, "more than 2m0s before"},
		"timestamp over 63 bits":       {func(in *input) { in.sct.Timestamp = math.MaxUint64 }, "more than 10s after"},
		"timestamp changed":            {func(in *input) { in.sct.Timestamp++ }, "not the log's"},
		"SCT of another log":           {func(in *input) { in.sct = foreign }, "its log ID is"},
		"other log's under our ID":     {func(in *input) { in.sct = foreign; in.sct.LogID = good.LogID }, "not the log's"},
		"SCT of another certificate":   {func(in *input) { in.sct = elsewhere }, "not the log's"},
		"signature changed":            {func(in *input) { in.sct.Signature[20] ^= 1 }, "not the log's"},
		"signature with a tail":        {func(in *input) { in.sct.Signature = append(in.sct.Signature, 0) }, "its signature"},
		"signature missing":            {func(in *input) { in.sct.Signature = nil }, "has 0 bytes"},
		"signature too long":           {func(in *input) { in.sct.Signature = make([]byte, 73) }, "has 73 bytes"},
		"TBS changed":                  {func(in *input) { in.sub.TBS[100] ^= 1 }, "not the log's"},
		"TBS missing":                  {func(in *input) { in.sub.TBS = nil }, "TBSCertificate has 0 bytes"},
		"TBS of 2^24 bytes":            {func(in *input) { in.sub.TBS = make([]byte, 1<<24) }, "TBSCertificate has 16777216 bytes"},
		"issuer key hash changed":      {func(in *input) { in.sub.IssuerKeyHash[0] ^= 1 }, "not the log's"},
		"leaf index that is unsigned":  {func(in *input) { in.sct.Extensions = leafIndex(0) }, "not the log's"},
		"unknown extension":            {func(in *input) { in.sct.Extensions = []byte{1, 0, 0} }, "only one leaf_index"},
		"leaf index of 4 bytes":        {func(in *input) { in.sct.Extensions = []byte{0, 0, 4, 0, 0, 0, 0} }, "only one leaf_index"},
		"two leaf indexes":             {func(in *input) { in.sct.Extensions = append(leafIndex(1), leafIndex(1)...) }, "only one leaf_index"},
		"leaf index and another":       {func(in *input) { in.sct.Extensions = append(leafIndex(1), 1, 0, 0) }, "only one leaf_index"},
		"extension cut short":          {func(in *input) { in.sct.Extensions = []byte{0, 0, 5, 0} }, "end early"},
		"half an extension":            {func(in *input) { in.sct.Extensions = []byte{0} }, "end early"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input{sct: good, sub: sub, now: now()}
			in.sct.Signature, in.sub.TBS = bytes.Clone(good.Signature), bytes.Clone(sub.TBS)
			test.change(&in)
			want := test.want
			err := f.key.Verify(in.sct, in.sub, in.now)
			var invalid *ctlog.InvalidSCTError
			switch {
			case want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("error %v, want one with %q", err, want)
			case want != "" && !errors.As(err, &invalid):
				t.Errorf("error of type %T, want *InvalidSCTError", err)
			}
		})
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
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
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
	for name, test := range map[string]struct {
		in   []byte
		want string
	}{
		"missing":      {[]byte(" \n"), "is missing"},
		"not PEM":      {block.Bytes, "holds no PEM"},
		"P-384":        {spkiPEM(t, p384.Public()), "ECDSA P-384; it must be ECDSA P-256"},
		"RSA":          {spkiPEM(t, rsaKey.Public()), "*rsa.PublicKey; it must be ECDSA P-256"},
		"Ed25519":      {spkiPEM(t, edKey), "it must be ECDSA P-256"},
		"private key":  {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), `"PRIVATE KEY"; it must hold one of type PUBLIC KEY`},
		"hidden":       {append([]byte(" "), append(bytes.Clone(good), good...)...), "the PEM block at line 1"},
		"two keys":     {append(bytes.Clone(good), good...), "more than one PEM block"},
		"garbage":      {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "parsing the log's public key"},
		"trailing DER": {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append(bytes.Clone(block.Bytes), 0)}), "public key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := ctlog.ParsePublicKey(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// No input from a log may crash the verification.
func FuzzVerify(f *testing.F) {
	fix := newFixture(f, nil)
	sub := fix.draft(f).Submission
	sct, err := fix.log.Submit(f.Context(), sub)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, sct))
	sct.Extensions = leafIndex(1)
	f.Add(marshal(f, sct))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ctlog.ParseSCT(b)
		if err != nil {
			return
		}
		got.LogID = fix.key.LogID()
		if err := fix.key.Verify(got, sub, now()); err == nil && (got.Timestamp != sct.Timestamp || len(got.Extensions) > 0) {
			t.Errorf("an SCT that the log did not sign was accepted: %x", b)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFixture(b, nil)
	sub := f.draft(b).Submission
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
