// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func service() kms.Service {
	return kms.Service{Name: "the service", URI: "kms://key", Judge: func(error) kms.Verdict { return kms.Verdict{} }}
}

// local is sigstore's client of a service in this process.
type local struct{ signature.ECDSASignerVerifier }

func (l local) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, crypto.SHA384, nil
}

func TestConformance(t *testing.T) {
	t.Parallel()
	key := newKey(t, elliptic.P384())
	client, err := signature.LoadECDSASignerVerifier(key, crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	signertest.Run(t, signertest.Place{Public: key.Public(), Open: func(ctx context.Context) (signer.Key, error) {
		cfg, err := kms.FromSigstore(ctx, local{*client}, service())
		if err != nil {
			return nil, err
		}
		return kms.New(cfg)
	}})
}

func TestOtherHash(t *testing.T) {
	t.Parallel()
	client, err := signature.LoadECDSASignerVerifier(newKey(t, elliptic.P256()), crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kms.FromSigstore(t.Context(), local{*client}, service())
	want := "uri: kms://key is an ECDSA key on P-256 that signs with SHA-384, and certificates of such a key take SHA-256; make a key that signs with that"
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func TestUnsupportedKeys(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, public := range []crypto.PublicKey{public, newKey(t, elliptic.P224()).Public(), nil} {
		_, err := kms.New(kms.Config{Public: public, Service: service()})
		var mistake *keypath.Error
		if !errors.As(err, &mistake) {
			t.Fatalf("the error is %v", err)
		}
		got = append(got, err.Error())
	}
	want := []string{
		"uri: kms://key is an Ed25519 key, which is not supported at key-management services; make it an ECDSA key on P-256 or P-384, or an RSA key",
		"uri: kms://key: no signature algorithm for an ECDSA key on a curve other than P-256, P-384 and P-521; make the key an ECDSA or RSA key",
		"uri: kms://key: no signature algorithm for a key of type <nil>; make the key an ECDSA or RSA key",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// TestClose checks that Close stops a signature that is under way, and that the key is released
// once.
func TestClose(t *testing.T) {
	t.Parallel()
	asked, released := make(chan struct{}), 0
	key, err := kms.New(kms.Config{
		Public: newKey(t, elliptic.P256()).Public(), Service: service(),
		Sign: func(ctx context.Context, _ []byte, _ crypto.Hash) ([]byte, error) {
			close(asked)
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Release: func() error {
			released++
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
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
	if _, err := key.Sign(t.Context(), nil); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("a signature after it ends with %v", err)
	}
}
