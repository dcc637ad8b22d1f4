// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

func ecdsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[bits], rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaKey returns the key of the tests of that size: a new one takes long.
func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	rsaKeys.Lock()
	defer rsaKeys.Unlock()
	if rsaKeys.key[bits] == nil {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		rsaKeys.key[bits] = key
	}
	return rsaKeys.key[bits]
}

var rsaKeys = struct {
	sync.Mutex
	key map[int]crypto.Signer
}{key: map[int]crypto.Signer{}}

type openFunc = func(ctx context.Context, uri string) (signer.Key, error)

// place is a service with keys.
type place struct {
	open    openFunc
	uri     string
	key     crypto.Signer
	instead func(http.HandlerFunc) (mend func())
	down    func() (mend func())
	secrets []string
	others  []string // URIs of keys of other kinds
	// mistakes are URIs, with what the error holds when the key is opened in the place of key.
	mistakes map[string]string
}

// conform runs the conformance suite for a service, and lets each key sign a certificate.
func conform(t *testing.T, p place) {
	at := func(uri string) func(context.Context) (signer.Key, error) {
		return func(ctx context.Context) (signer.Key, error) { return p.open(ctx, uri) }
	}
	var mistakes []signertest.Mistake
	for uri, want := range p.mistakes {
		mistakes = append(mistakes, signertest.Mistake{Name: uri, Open: at(uri), Wants: []string{want}})
	}
	signertest.Run(t, signertest.Place{
		Public: p.key.Public(), Open: at(p.uri), Secrets: p.secrets, Faults: p.faults(), Mistakes: mistakes,
	})
	t.Run("403", func(t *testing.T) {
		defer p.instead(answer(403))()
		if _, err := p.open(t.Context(), p.uri); err == nil || signer.IsTransient(err) {
			t.Errorf("got error %v, want a permanent one", err)
		}
	})
	for _, uri := range append(p.others, p.uri) {
		t.Run("certificate of "+uri, func(t *testing.T) {
			key, err := p.open(t.Context(), uri)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), signer.Crypto(t.Context(), key)) // it verifies the signature
			if err != nil || len(der) == 0 {
				t.Error(err)
			}
			if err := key.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Wrong variables of the environment, and what the error holds. Not parallel.
func TestEnvironment(t *testing.T) {
	places := map[string]place{"AWS": newAWS(t), "AZURE": newAzure(t), "GOOGLE": newGoogle(t)}
	for _, test := range []struct{ variable, value, want string }{
		{"AWS_ACCESS_KEY_ID", "", "credentials"},
		{"AWS_ACCESS_KEY_ID", "AKIAANOTHER", "UnrecognizedClientException"},
		{"AWS_TLS_INSECURE_SKIP_VERIFY", "1", "unset it"},
		{"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_ID"},
		{"AZURE_CLIENT_SECRET", "another", "AADSTS7000215"},
		{"AZURE_TENANT_ID", "another", "Azure Key Vault"},
		{"GOOGLE_APPLICATION_CREDENTIALS", "/none.json", "/none.json"},
		{"AWS_REGION", "eu-north-1", ""},
	} {
		t.Run(test.variable, func(t *testing.T) {
			t.Setenv(test.variable, test.value)
			service, _, _ := strings.Cut(test.variable, "_")
			p := places[service]
			if test.variable == "AWS_REGION" {
				p.uri = "awskms:///alias/ca"
			}
			selfTest(t, p.key.Public(), p.open, p.uri, test.want)
		})
	}
}

// selfTest has a Signer open the key and sign with it. It must fail with want in the error, or
// succeed if that is empty.
func selfTest(t *testing.T, public crypto.PublicKey, open openFunc, uri, want string) {
	t.Helper()
	s, err := signer.New(signer.Config{Name: "test", Kind: "kms", Public: public, Open: func(ctx context.Context) (signer.Key, error) { return open(ctx, uri) }})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Prove(t.Context())
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: got error %v, want %q", uri, err, want)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Close stops a signature that is under way, and releases the key once.
func TestClose(t *testing.T) {
	t.Parallel()
	asked, released, errs := make(chan struct{}), 0, make(chan error, 1)
	key, err := kms.New(kms.Config{
		Public: ecdsaKey(t, 256).Public(),
		Sign: func(ctx context.Context, _ []byte, _ crypto.Hash) ([]byte, error) {
			close(asked)
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Release: func() error { released++; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := key.Sign(context.Background(), nil)
		errs <- err
	}()
	<-asked
	if err := errors.Join(key.Close(), key.Close()); err != nil || released != 1 {
		t.Errorf("closing: %v, released %d times", err, released)
	}
	if err := <-errs; !errors.Is(err, signer.ErrClosed) {
		t.Errorf("the signature under way ends with %v", err)
	}
	if _, err := kms.New(kms.Config{Public: ed25519.PublicKey(make([]byte, 32))}); err == nil {
		t.Error("an Ed25519 key is accepted")
	}
}

// A refusal means that the key must be opened again, and an outage that another attempt may
// succeed. The text of an error has one line and a bounded length.
func TestExplain(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for status, remedy := range map[int]signer.Remedy{
		0: signer.Reopen, 400: signer.Reopen, 403: signer.Reopen, 404: signer.Reopen, 501: signer.Reopen,
		408: signer.Retry, 429: signer.Retry, 500: signer.Retry, 502: signer.Retry, 503: signer.Retry, 504: signer.Retry,
	} {
		service := kms.Service{Name: "the service", URI: "kms://key", Status: func(error) (int, http.Header) { return status, http.Header{"Retry-After": {"7"}} }}
		boom := errors.New("one\n two\xff" + strings.Repeat("é", 1000))
		key, err := kms.New(kms.Config{Public: ecdsaKey(t, 256).Public(), Service: service, Sign: func(context.Context, []byte, crypto.Hash) ([]byte, error) { return nil, boom }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = key.Sign(t.Context(), nil)
		var f *signer.Failure
		if !errors.As(err, &f) || f.Remedy != remedy || f.RetryAfter != map[bool]time.Duration{true: 7 * time.Second}[remedy == signer.Retry] {
			t.Errorf("%d: got %v after %v, want %d", status, f, err, remedy)
		}
		if err != nil && (!strings.Contains(err.Error(), "one two?é") || len(err.Error()) > 1200) {
			t.Errorf("%d: error %v", status, err)
		}
		if err := service.Explain(ended, boom); !errors.Is(err, context.Canceled) || signer.IsTransient(err) {
			t.Errorf("after the end of the context, an error says something about the service: %v", err)
		}
	}
}
