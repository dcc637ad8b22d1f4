// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

// keyFile writes key to a file and names it.
func keyFile(t *testing.T, key crypto.Signer) config.Signer {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key.pem")
	must(0, os.WriteFile(name, pem.Encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(t)), 0o644))(t)
	return config.Signer{File: &config.SignerFile{Key: name}}
}

func TestFile(t *testing.T) {
	t.Parallel()
	ring, key := keyring.New(keyring.Config{}), newKey(t)
	named := keyFile(t, key)
	s, warnings, err := ring.Signer("a", named, key.Public())
	must(0, err)(t)
	if err := s.Prove(t.Context()); err != nil || !s.Status().Local {
		t.Errorf("status %+v, error %v", s.Status(), err)
	}
	if len(warnings) != 2 || !slices.Equal(keypath.All(warnings[0])[0].Path, []string{"file", "key"}) {
		t.Errorf("warnings %v, want of the file's mode and of no encryption", warnings)
	}
	opened, made, err := ring.Make(t.Context(), named, "ecdsa-p256")
	if err != nil || made || !key.PublicKey.Equal(opened.Public()) {
		t.Errorf("made %t, error %v", made, err)
	}
	named.File.Key += ".not-there"
	for _, open := range []func() error{
		func() error { _, _, err := ring.Signer("a", named, key.Public()); return err },
		func() error { _, _, err := ring.Open(t.Context(), named); return err },
	} {
		if err := open(); err == nil || !slices.Equal(keypath.All(err)[0].Path, []string{"file", "key"}) || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("got error %v", err)
		}
	}
}

// A kind that this binary was not built with is refused with its place and the build tag.
func TestNotBuilt(t *testing.T) {
	t.Parallel()
	ring, key := keyring.New(keyring.Config{}), newKey(t)
	for kind, named := range map[string]config.Signer{
		"pkcs11":     {PKCS11: &signer.PKCS11{Module: "m", Token: "t", Label: "l"}},
		"awskms":     {KMS: &signer.KMS{URI: "awskms:///alias/a"}},
		"gcpkms":     {KMS: &signer.KMS{URI: "gcpkms://projects/p"}},
		"azurekms":   {KMS: &signer.KMS{URI: "azurekms://v/k"}},
		"hashivault": {KMS: &signer.KMS{URI: "hashivault://k", Version: 1}},
		"openbao":    {KMS: &signer.KMS{URI: "openbao://k", Version: 1}},
	} {
		if slices.Contains(keyring.Kinds(), kind) {
			continue
		}
		tag := strings.Replace(kind, "openbao", "hashivault", 1)
		_, _, err := ring.Signer("a", named, key.Public())
		_, _, errOpen := ring.Open(t.Context(), named)
		_, _, errMake := ring.Make(t.Context(), named, "ecdsa-p256")
		for _, err := range []error{err, errOpen, errMake} {
			if err == nil || !strings.Contains(err.Error(), "make build SIGNERS="+tag) || len(keypath.All(err)[0].Path) == 0 {
				t.Errorf("%s: got error %v", kind, err)
			}
		}
	}
	if _, _, err := ring.Open(t.Context(), config.Signer{}); err == nil {
		t.Error("no signer was opened")
	}
}

// An open key stays open while sets that name it the same way are replaced. It closes when no set
// names it.
func TestKeysStayOpen(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	ring, asked := socketRing(t, key)
	named := keyFile(t, key) // not read: the process at the socket has the key
	get := func(name string, public crypto.PublicKey) *signer.Signer {
		t.Helper()
		s, _, err := ring.Signer(name, named, public)
		return must(s, err)(t)
	}
	first := get("a", key.Public())
	if err := first.Prove(t.Context()); err != nil || first.Status().Local || first.Status().Kind != "socket" {
		t.Errorf("status %+v, error %v", first.Status(), err)
	}
	if again := get("a", key.Public()); again != first {
		t.Error("the same key was opened twice")
	}
	other := get("b", key.Public())
	if other == first || get("a", newKey(t).Public()) == first {
		t.Error("two keys are one")
	}
	ring.Retain([]*signer.Signer{other})
	if again := get("a", key.Public()); again == first {
		t.Error("what no set names is still there")
	}
	if _, err := first.Sign(t.Context(), []byte(signer.SelfTestMessage)); err != nil {
		t.Errorf("a request that began before: %v", err)
	}
	if err := errors.Join(ring.Close(), ring.Close()); err != nil {
		t.Error(err)
	}
	for _, s := range []*signer.Signer{first, other} {
		if _, err := s.Sign(t.Context(), []byte(signer.SelfTestMessage)); !errors.Is(err, signer.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	}
	if len(asked) == 0 {
		t.Error("nobody was asked")
	}
}

// socketRing returns a Ring that signs over a socket. The process at the socket has key.
func socketRing(t *testing.T, key crypto.Signer) (ring *keyring.Ring, asked chan struct{}) {
	t.Helper()
	dir := must(os.MkdirTemp("", "m"))(t) // the path of a socket must be short
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	asked = make(chan struct{}, 100)
	server := must(socket.NewServer(socket.ServerConfig{
		Path: filepath.Join(dir, "s"),
		Sign: func(ctx context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
			asked <- struct{}{}
			return signer.InMemory(key).Sign(ctx, message)
		},
	}))(t)
	must(0, server.Listen())(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return keyring.New(keyring.Config{Socket: filepath.Join(dir, "s")}), asked
}
