// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ca"
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

func TestIssue(t *testing.T) {
	t.Parallel()
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, testca.Builder{Curve: curve})
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
			if ago := time.Since(leaf.NotBefore); ago < 4*time.Second || ago > time.Minute {
				t.Errorf("the certificate begins %s ago, want a few seconds", ago)
			}
			if w.Log.Size() != 1 {
				t.Errorf("the log has %d entries, want 1", w.Log.Size())
			}
		})
	}
}

func TestIssueConcurrently(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{})
	const clients, each = 8, 5
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				if _, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := w.Log.Size(); got != clients*each {
		t.Errorf("the log has %d entries, want %d", got, clients*each)
	}
}

func TestIssueWithoutLog(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{CTDisabled: true})
	issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	if err != nil {
		t.Fatal(err)
	}
	if issued.SCTEmbedded || w.Log.Size() != 0 {
		t.Errorf("an SCT is embedded (%t), or the log has entries (%d), though there is no log", issued.SCTEmbedded, w.Log.Size())
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
		"no token":         {w.Request(t, "", person), refusal.TokenMissing},
		"no JWT":           {w.Request(t, "hello", person), refusal.TokenMalformed},
		"expired":          {w.Request(t, w.Token(t, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), person), refusal.TokenExpired},
		"other audience":   {w.Request(t, w.Token(t, map[string]any{"aud": "other"}), person), refusal.AudienceMismatch},
		"unverified email": {w.Request(t, w.Token(t, map[string]any{"email_verified": false}), person), refusal.EmailUnverified},
		"no email":         {w.Request(t, w.Token(t, map[string]any{"email": nil}), person), refusal.ClaimMissing},
		"other challenge":  {w.Request(t, w.Token(t, nil), "subject-1"), refusal.ProofInvalid},
	} {
		_, err := w.Issue(t.Context(), test.request)
		var e *refusal.Error
		if !errors.As(err, &e) || e.Reason != test.reason {
			t.Errorf("%s: got error %v, want a refusal for %s", name, err, test.reason)
		}
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
		Wrap: func(s crypto.Signer) crypto.Signer { return countingSigner{s, &signatures} },
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

type countingSigner struct {
	crypto.Signer
	signatures *atomic.Int32
}

func (s countingSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.signatures.Add(1)
	return s.Signer.Sign(rand, digest, opts)
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
	now := time.Now()
	for name, builder := range map[string]testca.Builder{
		"intermediate ends": {NotAfter: now.Add(9 * time.Minute).Truncate(time.Second), RootNotAfter: now.Add(time.Hour).Truncate(time.Second)},
		"root ends":         {NotAfter: now.Add(9 * time.Minute).Truncate(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, builder)
			_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
			refused(t, err, refusal.CAExpiring)
			if w.Log.Size() != 0 {
				t.Error("a precertificate is in the log")
			}
		})
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

func TestLeafDoesNotPrecedeItsCA(t *testing.T) {
	t.Parallel()
	begin := time.Now().Truncate(time.Second)
	w := testca.New(t, testca.Builder{NotBefore: begin})
	issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(issued.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.NotBefore.Before(begin) || leaf.NotAfter.Sub(leaf.NotBefore) != 10*time.Minute {
		t.Errorf("the leaf is valid from %s to %s, the CA from %s", leaf.NotBefore, leaf.NotAfter, begin)
	}
}

// flakySigner is a signer that can be set to fail or to sign another message.
type flakySigner struct {
	crypto.Signer
	err   *atomic.Pointer[error]
	wrong *atomic.Bool
	skip  *atomic.Int32
}

func (s flakySigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := s.err.Load(); err != nil {
		return nil, *err
	}
	if s.wrong.Load() && s.skip.Add(-1) < 0 {
		digest = append([]byte(nil), digest...)
		digest[0] ^= 1
	}
	return s.Signer.Sign(rand, digest, opts)
}

func TestSignerFailureTellsNothingOfTheKey(t *testing.T) {
	t.Parallel()
	s := flakySigner{err: new(atomic.Pointer[error]), wrong: new(atomic.Bool), skip: new(atomic.Int32)}
	w := testca.New(t, testca.Builder{Wrap: func(inner crypto.Signer) crypto.Signer { s.Signer = inner; return s }})
	cause := errors.New("key projects/secret-project/keys/ca: permission denied")
	s.err.Store(&cause)
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	e := refused(t, err, refusal.SignerUnavailable)
	if strings.Contains(e.Message, "secret") {
		t.Errorf("the client learns of the key: %s", e.Message)
	}
	if !errors.Is(err, cause) {
		t.Error("the operator does not learn the cause")
	}
	s.err.Store(nil)
	if _, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
		t.Errorf("after recovery: %v", err)
	}
}

// A signature that does not verify is never returned. With a log, the log refuses the
// precertificate's signature, and this CA the certificate's.
func TestWrongSignatureDoesNotLeave(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ctDisabled bool
		skip       int32
		reason     refusal.Reason
	}{
		"of the precertificate":          {false, 0, refusal.CTUnavailable},
		"of the certificate":             {false, 1, refusal.SignerUnavailable},
		"of a certificate without a log": {true, 0, refusal.SignerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := flakySigner{err: new(atomic.Pointer[error]), wrong: new(atomic.Bool), skip: new(atomic.Int32)}
			w := testca.New(t, testca.Builder{
				CTDisabled: test.ctDisabled,
				Wrap:       func(inner crypto.Signer) crypto.Signer { s.Signer = inner; return s },
			})
			s.skip.Store(test.skip)
			s.wrong.Store(true)
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
	init := embedded.Config{Name: "ours", Dir: filepath.Join(dir, "log"), Guard: filepath.Join(dir, "guard.json"), Key: filepath.Join(dir, "key.pem"), Origin: "log.example/ours"}
	if _, err := embedded.Init(t.Context(), init); err != nil {
		t.Fatal(err)
	}
	log, err := embedded.Open(t.Context(), embedded.Config{Name: init.Name, Dir: init.Dir, Guard: init.Guard, Key: init.Key, Origin: init.Origin})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	s := flakySigner{err: new(atomic.Pointer[error]), wrong: new(atomic.Bool), skip: new(atomic.Int32)}
	w := testca.New(t, testca.Builder{CT: log, CTPublicKey: log.PublicKey(), Wrap: func(inner crypto.Signer) crypto.Signer { s.Signer = inner; return s }})
	s.wrong.Store(true)
	_, err = w.CA.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	refused(t, err, refusal.SignerUnavailable)
	if status := log.Status(); status.TreeSize != 0 || status.Pending != 0 {
		t.Errorf("the log holds %d entries, and %d wait", status.TreeSize, status.Pending)
	}
	s.wrong.Store(false)
	if _, err := w.CA.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
		t.Error(err)
	}
	if size := log.Status().TreeSize; size != 1 {
		t.Errorf("the log holds %d entries after a certificate", size)
	}
}

func TestIssueStopsWhenTheClientGoes(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{})
	ctx, cancel := context.WithCancel(t.Context())
	w.Log.Fail(func(rw http.ResponseWriter, r *http.Request) bool {
		cancel()
		return testlog.Hang(rw, r)
	})
	if _, err := w.Issue(ctx, w.Request(t, w.Token(t, nil), person)); err == nil {
		t.Error("there is a certificate that nobody waits for")
	}
}
