// SPDX-License-Identifier: Apache-2.0

// Package signertest is the conformance suite of everything below ca/signer: what every Key must
// do, and how a Signer must handle a place with a fault.
//
// Only tests import it.
package signertest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

// Place holds keys of one kind, with one key in it.
type Place struct {
	// Public is the public key of that key.
	Public crypto.PublicKey
	// Open opens the key. InMemory states that Close of the key has nothing to release.
	Open     func(ctx context.Context) (signer.Key, error)
	InMemory bool
	// Secrets must not be in any error: a PIN, a token.
	Secrets []string
	// Faults are the faults that the place can have.
	Faults []Fault
	// Mistakes are the mistakes that its settings can have.
	Mistakes []Mistake
}

// Fault is one fault of a place.
type Fault struct {
	Name string
	// Begin starts the fault, which lasts until the caller calls mend.
	Begin func(t *testing.T) (mend func())
	// Wants are texts that the operator's error must hold: the setting, and the fix.
	Wants []string
	// Transient is whether a Signer retries.
	Transient bool
	// Silent is whether no caller gets an answer: the suite then does not wait long for one.
	Silent bool
}

// Mistake is a wrong setting.
type Mistake struct {
	Name string
	// Open opens the key with the wrong setting. It may succeed if only a signature shows the
	// mistake.
	Open func(ctx context.Context) (signer.Key, error)
	// Wants are texts that the operator's error must hold: the setting, and the fix.
	Wants []string
}

// Run runs the suite. The subtests run one after another, since a fault affects all of them.
func Run(t *testing.T, p Place) {
	t.Run("signs", p.signs)
	t.Run("closes", p.closes)
	t.Run("refuses another key", func(t *testing.T) {
		other, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		p.demand(t, p.signer(t, patience, other, p.Open).SelfTest(t.Context()), "it is not the key of the authority's certificate")
	})
	for _, f := range p.Faults {
		t.Run("fault/"+f.Name, func(t *testing.T) { p.survives(t, f) })
	}
	for _, m := range p.Mistakes {
		t.Run("mistake/"+m.Name, func(t *testing.T) {
			p.demand(t, p.signer(t, patience, p.Public, m.Open).SelfTest(t.Context()), m.Wants...)
		})
	}
}

func (p Place) mustOpen(t *testing.T) signer.Key {
	t.Helper()
	key, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	return key
}

// verify signs message with key and verifies the signature with the standard library.
func (p Place) verify(ctx context.Context, key signer.Key, message []byte) error {
	signature, err := key.Sign(ctx, message)
	if err != nil {
		return err
	}
	algorithm, err := certs.SignatureAlgorithmFor(p.Public)
	if err != nil {
		return err
	}
	return algorithm.Verify(p.Public, message, signature)
}

// signs signs messages of all sizes, at a time, and none for a caller that has gone.
func (p Place) signs(t *testing.T) {
	key := p.mustOpen(t)
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(p.Public) {
		t.Fatalf("the public key is %v, want %v", key.Public(), p.Public)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if signature, err := key.Sign(ctx, []byte("late")); err == nil || signature != nil {
		t.Errorf("it signed for a caller that had gone: %x, error %v", signature, err)
	}
	var clients sync.WaitGroup
	for range 12 {
		for _, size := range []int{0, 1, 31, 32, 33, 1500, 64 << 10} {
			clients.Go(func() {
				if err := p.verify(t.Context(), key, []byte(strings.Repeat("m", size))); err != nil {
					t.Errorf("a message of %d bytes: %v", size, err)
				}
			})
		}
	}
	clients.Wait()
}

// closes closes one of two keys, which affects the other not, and opens a third.
func (p Place) closes(t *testing.T) {
	first, second := p.mustOpen(t), p.mustOpen(t)
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if signature, err := first.Sign(t.Context(), []byte("closed")); !p.InMemory && (err == nil || signature != nil) {
		t.Errorf("a closed key signed: %x, error %v", signature, err)
	}
	for _, key := range []signer.Key{second, p.mustOpen(t)} {
		if err := p.verify(t.Context(), key, []byte("open")); err != nil {
			t.Errorf("after another key was closed: %v", err)
		}
	}
}

// patience is how long a Signer of the suite waits for an expected answer, on any machine.
// noPatience is how long it waits for an answer that does not come.
const (
	patience   = 10 * time.Second
	noPatience = 200 * time.Millisecond
)

// signer returns a Signer. Each of its attempts takes patience at most.
func (p Place) signer(t *testing.T, patience time.Duration, public crypto.PublicKey, open func(context.Context) (signer.Key, error)) *signer.Signer {
	t.Helper()
	s, err := signer.New(signer.Config{Name: "test", Kind: "test", Public: public, Open: open, Timeout: 5 * patience / 2, Attempt: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// survives checks that a fault gives an error that helps the operator. After the mend everything
// must work again without any other action.
func (p Place) survives(t *testing.T, f Fault) {
	patience := patience
	if f.Silent {
		patience = noPatience
	}
	s, late := p.signer(t, patience, p.Public, p.Open), p.signer(t, patience, p.Public, p.Open)
	if err := s.Prove(t.Context()); err != nil {
		t.Fatalf("before the fault: %v", err)
	}
	mend := sync.OnceFunc(f.Begin(t))
	defer mend()
	signature, err := s.SignVerified(t.Context(), []byte("fault"))
	if signature != nil {
		t.Errorf("it signed: %x", signature)
	}
	p.demand(t, err, f.Wants...)
	if signer.IsTransient(err) != f.Transient {
		t.Errorf("transient is %t: %v", !f.Transient, err)
	}
	var tests sync.WaitGroup
	for range 5 {
		tests.Go(func() { _ = s.SelfTest(t.Context()) })
	}
	tests.Wait()
	if err := s.Check(t.Context()); err == nil {
		t.Error("readiness does not show it")
	}
	p.demand(t, late.SelfTest(t.Context())) // a Signer that begins during the fault
	mend()
	for _, s := range []*signer.Signer{s, late} {
		Await(t, "a self-test after the fault", func() error { return s.SelfTest(t.Context()) })
		_, err := s.Sign(t.Context(), []byte("mended"))
		if err := errors.Join(err, s.Check(t.Context())); err != nil {
			t.Errorf("after the fault: %v", err)
		}
	}
}

// demand checks that err holds wants and no secret.
func (p Place) demand(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Error("there is no error")
		return
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q; it should hold %q", err, want)
		}
	}
	for _, secret := range p.Secrets {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows a secret: %q", err)
		}
	}
}

// Await calls try for some seconds until it returns nil.
func Await(t *testing.T, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
