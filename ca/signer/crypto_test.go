// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// crypto/x509 creates certificates and requests with a key of each kind, by the key's own scheme
// and by no other.
func TestCrypto(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.Signer{
		"an ECDSA key on P-256": newKey(t), "an ECDSA key on P-384": p384, "an RSA key of 2048 bits": rsaKey, "an Ed25519 key": edwards,
	} {
		s := signer.Crypto(t.Context(), signer.InMemory(key))
		if got := signer.Describe(s.Public()); got != want {
			t.Errorf("it is described as %s, want %s", got, want)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, template, template, s.Public(), s)
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		certificate, err := x509.ParseCertificate(der)
		if err == nil {
			err = certificate.CheckSignatureFrom(certificate)
		}
		if err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s); err != nil {
			t.Errorf("%s: %v", want, err)
		} else if request, err := x509.ParseCertificateRequest(der); err != nil || request.CheckSignature() != nil {
			t.Errorf("%s: the request does not verify (%v)", want, err)
		}
		if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
			t.Errorf("%s: it signs a digest", want)
		}
	}
	s := signer.Crypto(t.Context(), signer.InMemory(rsaKey))
	for _, opts := range []crypto.SignerOpts{crypto.SHA512, &rsa.PSSOptions{Hash: crypto.SHA256}, crypto.Hash(0)} {
		if _, err := s.SignMessage(rand.Reader, message, opts); err == nil {
			t.Errorf("an RSA key signs by %v", opts)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.Crypto(ended, signer.InMemory(rsaKey)).SignMessage(rand.Reader, message, crypto.SHA256); err == nil {
		t.Error("it signs after its time")
	}
}

// A key in memory has no deadline and no breaker. Its signature is verified where the caller
// requires it.
func TestLocal(t *testing.T) {
	t.Parallel()
	s, err := signer.Local("2026-a", wrongSigner{newKey(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(t, s); err != nil {
		t.Errorf("what only a log sees, which verifies it: %v", err)
	}
	if signature, err := s.SignVerified(t.Context(), message); err == nil || signature != nil {
		t.Error("a wrong signature left")
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("readiness does not notice")
	}
	if status := s.Status(); !status.Local || status.Kind != "file" {
		t.Errorf("status %+v", status)
	}
}

// A place that verifies its own signatures is believed for a log, once it has signed and while it
// has not failed.
func TestVerified(t *testing.T) {
	t.Parallel()
	p := &place{}
	registry := prometheus.NewRegistry()
	s := p.signer(t, signer.Config{Verified: true, Metrics: signer.NewMetrics(registry)})
	invalid := func() float64 { return series(t, registry)["mayfly_signer_attempts_total 2026-a test invalid"] }
	p.wrong.Store(true)
	if err := sign(t, s); err == nil {
		t.Error("its first signature is wrong, and left")
	}
	p.wrong.Store(false)
	if err := s.SelfTest(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.wrong.Store(true)
	unverified, err := s.Sign(t.Context(), message)
	if err != nil {
		t.Errorf("what only a log sees, which verifies it: %v", err)
	}
	before := invalid()
	if s.Confirm(t.Context(), unverified, message) == nil || s.Status().Failures != 1 || invalid() != before+1 {
		t.Errorf("a signature that the log refused does not count against the key: %+v", s.Status())
	}
	if err := sign(t, s); err == nil {
		t.Error("a wrong signature left after a log had refused one")
	}
	p.wrong.Store(false)
	if err := s.SelfTest(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.wrong.Store(true)
	if _, err := s.SignVerified(t.Context(), message); err == nil {
		t.Error("a wrong signature left")
	}
	if err := sign(t, s); err == nil {
		t.Error("a wrong signature left after a failure")
	}
}

type wrongSigner struct{ *ecdsa.PrivateKey }

func (s wrongSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(random, append([]byte{digest[0] ^ 1}, digest[1:]...), opts)
}

// The metrics show an operator the attempts by their results.
func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	metrics := signer.NewMetrics(registry)
	p := &place{}
	errs := map[int]error{0: errTransient, 2: signer.Stale(errPermanent), 4: errPermanent}
	p.onSign = func(_ context.Context, n int) error { return errs[n] }
	s := p.signer(t, signer.Config{Metrics: metrics})
	for range 3 {
		_ = sign(t, s)
	}
	p.wrong.Store(true)
	_ = sign(t, s)
	got := series(t, registry)
	for name, want := range map[string]float64{
		"mayfly_signer_attempts_total 2026-a test ok": 2, "mayfly_signer_attempts_total 2026-a test transient": 1,
		"mayfly_signer_attempts_total 2026-a test lost": 1, "mayfly_signer_attempts_total 2026-a test refused": 1,
		"mayfly_signer_attempts_total 2026-a test invalid": 1, "mayfly_signer_duration_seconds 2026-a test": 2,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v; there are %v", name, got[name], want, got)
		}
	}
}

// series returns the values of counters, and the numbers of observations, by name and labels.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := []string{family.GetName()}
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			got[strings.Join(labels, " ")] = float64(metric.GetHistogram().GetSampleCount()) + metric.GetCounter().GetValue()
		}
	}
	return got
}
