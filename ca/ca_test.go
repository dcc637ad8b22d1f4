// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testca"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

const person = "person@example.com"

// refused requires that err is a refusal for reason, and returns it.
func refused(t *testing.T, err error, reason refusal.Reason) *refusal.Error {
	t.Helper()
	var e *refusal.Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Fatalf("got error %v, want a refusal for %s", err, reason)
	}
	return e
}

// hook is a signer that calls before in place of each signature, and signs the digest that it
// returns.
type hook struct {
	crypto.Signer
	before func(digest []byte) ([]byte, error)
}

func (h hook) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	digest, err := h.before(digest)
	if err != nil {
		return nil, err
	}
	return h.Signer.Sign(rand, digest, opts)
}

func hooked(before func(digest []byte) ([]byte, error)) func(crypto.Signer) crypto.Signer {
	return func(inner crypto.Signer) crypto.Signer { return hook{inner, before} }
}

// wrongAfter returns a hook that makes every signature wrong after the first n.
func wrongAfter(n int32) func(crypto.Signer) crypto.Signer {
	var signatures atomic.Int32
	return hooked(func(digest []byte) ([]byte, error) {
		if signatures.Add(1) > n {
			digest = append([]byte{digest[0] ^ 1}, digest[1:]...)
		}
		return digest, nil
	})
}

// The world proves each certificate again at the end of the test.
func TestIssue(t *testing.T) {
	t.Parallel()
	begin := time.Now().Truncate(time.Second)
	for name, builder := range map[string]testca.Builder{
		"P-256":         {},
		"P-384":         {Curve: elliptic.P384()},
		"P-521":         {Curve: elliptic.P521()},
		"without a log": {CTDisabled: true},
		"a new CA":      {Issuing: func(c *x509.Certificate) { c.NotBefore = begin }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, builder)
			issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(issued.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != person {
				t.Errorf("the certificate names %v, want %s", leaf.EmailAddresses, person)
			}
			if got := leaf.NotAfter.Sub(leaf.NotBefore); got != 10*time.Minute {
				t.Errorf("the certificate is valid for %s, want 10m", got)
			}
			ago := time.Since(leaf.NotBefore)
			if isNew := builder.Issuing != nil; isNew && leaf.NotBefore.Before(begin) || !isNew && ago < 4*time.Second || ago > time.Minute {
				t.Errorf("the certificate begins %s ago, want a few seconds, and not before its CA", ago)
			}
			if issued.SCTEmbedded == builder.CTDisabled || (w.Log.Size() == 1) == builder.CTDisabled {
				t.Errorf("an SCT is embedded (%t), and the log has %d entries", issued.SCTEmbedded, w.Log.Size())
			}
		})
	}
}

// Each step refuses with its own reason, and later steps do not run: no precertificate reaches the
// log.
func TestIssueRefusesBeforeLogging(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{})
	for name, test := range map[string]struct {
		request ca.Request
		reason  refusal.Reason
	}{
		"other audience":   {w.Request(t, w.Token(t, map[string]any{"aud": "other"}), person), refusal.AudienceMismatch},
		"unverified email": {w.Request(t, w.Token(t, map[string]any{"email_verified": false}), person), refusal.EmailUnverified},
		"other challenge":  {w.Request(t, w.Token(t, nil), "subject-1"), refusal.ProofInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Issue(t.Context(), test.request)
			refused(t, err, test.reason)
		})
	}
	if got := w.Log.Size(); got != 0 {
		t.Errorf("the log has %d entries after refusals", got)
	}
}

// A name outside the chain's name constraints is refused before anything is signed or logged.
func TestIssueUnderNameConstraints(t *testing.T) {
	t.Parallel()
	var signatures atomic.Int32
	w := testca.New(t, testca.Builder{
		Issuing: func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.PermittedDNSDomainsCritical = []string{"example.com"}, true
		},
		Wrap: hooked(func(digest []byte) ([]byte, error) { signatures.Add(1); return digest, nil }),
	})
	const other = "ada@other.example"
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, map[string]any{"email": other}), other))
	if e := refused(t, err, refusal.PolicyDenied); !strings.Contains(e.Message, `"example.com"`) {
		t.Errorf("the message %q does not name the subtree", e.Message)
	}
	if w.Log.Size() != 0 || signatures.Load() != 0 {
		t.Errorf("%d entries in the log and %d signatures", w.Log.Size(), signatures.Load())
	}
	if _, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
		t.Error(err)
	}
}

func TestLogDownMeansNoCertificate(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"answers 500":       testlog.Down(http.StatusInternalServerError),
		"answers 400":       testlog.Down(http.StatusBadRequest),
		"hangs":             testlog.Hang,
		"answers with HTML": func(w http.ResponseWriter, _ *http.Request) bool { _, _ = io.WriteString(w, "<html>"); return true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, testca.Builder{Budget: 300 * time.Millisecond})
			w.Log.Fail(fail)
			issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
			refused(t, err, refusal.CTUnavailable)
			if issued != nil {
				t.Error("there is a certificate")
			}
		})
	}
}

func TestWrongSCTMeansNoCertificate(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(*ct.AddChainResponse){
		"signature": func(r *ct.AddChainResponse) { r.Signature[len(r.Signature)-1] ^= 1 },
		"log ID":    func(r *ct.AddChainResponse) { r.ID[0] ^= 1 },
		"timestamp": func(r *ct.AddChainResponse) { r.Timestamp++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, testca.Builder{})
			w.Log.Alter(alter)
			_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
			refused(t, err, refusal.CTUnavailable)
		})
	}
}

func TestNoCertificateOutlivesACA(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{Issuing: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(9 * time.Minute).Truncate(time.Second) }})
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	if refused(t, err, refusal.CAExpiring); w.Log.Size() != 0 {
		t.Error("a precertificate is in the log")
	}
}

func TestExpiredCASignsNothing(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	w := testca.New(t, testca.Builder{Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }})
	if _, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
		t.Fatal(err)
	}
	offset.Store(int64(4 * 365 * 24 * time.Hour))
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	refused(t, err, refusal.CAExpiring)
}

func TestSignerFailureTellsNothingOfTheKey(t *testing.T) {
	t.Parallel()
	cause := errors.New("key projects/secret-project/keys/ca: permission denied")
	w := testca.New(t, testca.Builder{Wrap: hooked(func([]byte) ([]byte, error) { return nil, cause })})
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	if e := refused(t, err, refusal.SignerUnavailable); strings.Contains(e.Message, "secret") {
		t.Errorf("the client learns of the key: %s", e.Message)
	}
	if !errors.Is(err, cause) {
		t.Error("the operator does not learn the cause")
	}
}

// A signature that does not verify is never returned. With a log, the log refuses the
// precertificate's signature, and this CA the certificate's; both are failures of the key.
func TestWrongSignatureDoesNotLeave(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ctDisabled bool
		right      int32 // signatures
		reason     refusal.Reason
	}{
		"of the precertificate":          {false, 0, refusal.SignerUnavailable},
		"of the certificate":             {false, 1, refusal.SignerUnavailable},
		"of a certificate without a log": {true, 0, refusal.SignerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, testca.Builder{CTDisabled: test.ctDisabled, Wrap: wrongAfter(test.right)})
			issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
			refused(t, err, test.reason)
			if issued != nil {
				t.Error("there is a certificate")
			}
		})
	}
}

// Our own log accepts entries unverified, so it gets no signature that does not verify.
func TestWrongSignatureDoesNotEnterOurLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := embedded.Config{Name: "ours", Dir: filepath.Join(dir, "log"), Guard: filepath.Join(dir, "guard.json"), Key: filepath.Join(dir, "key.pem"), Origin: "log.example/ours"}
	if _, err := embedded.Init(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	log, err := embedded.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	w := testca.New(t, testca.Builder{CT: log, CTPublicKey: log.PublicKey(), Wrap: wrongAfter(0)})
	_, err = w.CA.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	refused(t, err, refusal.SignerUnavailable)
	if status := log.Status(); status.TreeSize != 0 || status.Pending != 0 {
		t.Errorf("the log holds %d entries, and %d wait", status.TreeSize, status.Pending)
	}
}

// Neither the clock nor a new set can come between the two signatures of one certificate. The test
// world checks that the certificate corresponds to the precertificate in the log.
func TestSwitchBetweenTwoSignatures(t *testing.T) {
	t.Parallel()
	for _, byClock := range []bool{true, false} {
		var offset atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		meddle := func() {} // is called once, while the first signature is created
		w := testca.New(t, testca.Builder{Now: clock, Wrap: hooked(func(digest []byte) ([]byte, error) { meddle(); meddle = func() {}; return digest, nil })})
		other := testca.New(t, testca.Builder{}).Authority
		begin := w.Authority.Chain().NotBefore
		// replace puts a set in force in which the other authority begins to sign at a time.
		replace := func(generation uint64, at time.Time) {
			next, err := set.New(generation, []set.Member{
				{ID: "old", Chain: w.Authority.Chain(), Authority: w.Authority, PublishAt: begin, ActivateAt: begin},
				{ID: "next", Chain: other.Chain(), Authority: other, PublishAt: begin, ActivateAt: at},
			})
			if err != nil {
				t.Error(err)
			}
			w.Set.Store(next)
		}
		replace(2, time.Now().Add(2*time.Minute))
		meddle = func() { offset.Store(int64(3 * time.Minute)) }
		if !byClock {
			meddle = func() { replace(3, other.Chain().NotBefore.Add(time.Second)) }
		}
		issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(issued.Chain.DER[0], w.Authority.Chain().DER[0]) {
			t.Error("the certificate comes with another authority's chain")
		}
		if active, err := w.Set.Load().Active(clock()); err != nil || active != other {
			t.Errorf("there was no switch (by the clock: %t): %v", byClock, err)
		}
	}
}
