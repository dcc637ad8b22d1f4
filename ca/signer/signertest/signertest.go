// SPDX-License-Identifier: Apache-2.0

// Package signertest is the conformance suite of everything below ca/signer: what every Key must
// do, and how a Signer must handle a place with a fault.
//
// Only tests import it.
package signertest

import (
	"context"
	"crypto"
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
	// Open opens the key.
	Open func(ctx context.Context) (signer.Key, error)
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
	t.Run("signs concurrently", p.signsConcurrently)
	t.Run("ends with its context", p.endsWithItsContext)
	t.Run("closes", p.closes)
	t.Run("opens anew", p.opensAnew)
	t.Run("refuses another key", p.refusesAnotherKey)
	for _, f := range p.Faults {
		t.Run("fault/"+f.Name, func(t *testing.T) { p.survives(t, f) })
	}
	for _, m := range p.Mistakes {
		t.Run("mistake/"+m.Name, func(t *testing.T) { p.tells(t, m) })
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

func (p Place) signs(t *testing.T) {
	key := p.mustOpen(t)
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(p.Public) {
		t.Fatalf("the public key is %v, want %v", key.Public(), p.Public)
	}
	for _, size := range []int{0, 1, 31, 32, 33, 1500, 64 << 10} {
		message := []byte(strings.Repeat("m", size))
		if err := p.verify(t.Context(), key, message); err != nil {
			t.Errorf("a message of %d bytes: %v", size, err)
		}
	}
}

func (p Place) signsConcurrently(t *testing.T) {
	key := p.mustOpen(t)
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			for range 4 {
				if err := p.verify(t.Context(), key, []byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
}

func (p Place) endsWithItsContext(t *testing.T) {
	key := p.mustOpen(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if signature, err := key.Sign(ctx, []byte("late")); err == nil || signature != nil {
		t.Errorf("it signed for somebody who had gone: %x, error %v", signature, err)
	}
	if err := p.verify(t.Context(), key, []byte("next")); err != nil {
		t.Errorf("the next signature: %v", err)
	}
}

func (p Place) closes(t *testing.T) {
	key := p.mustOpen(t)
	if err := errors.Join(key.Close(), key.Close()); err != nil {
		t.Error(err)
	}
	if _, memory := key.(interface{ InMemory() }); memory {
		return // nothing is released
	}
	if signature, err := key.Sign(t.Context(), []byte("closed")); err == nil || signature != nil {
		t.Errorf("a closed key signed: %x, error %v", signature, err)
	}
}

func (p Place) opensAnew(t *testing.T) {
	first, second := p.mustOpen(t), p.mustOpen(t)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := p.verify(t.Context(), second, []byte("second")); err != nil {
		t.Errorf("while the first one was open, and is closed: %v", err)
	}
	if err := p.verify(t.Context(), p.mustOpen(t), []byte("third")); err != nil {
		t.Errorf("opened anew: %v", err)
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

func (p Place) refusesAnotherKey(t *testing.T) {
	other, err := otherKey(p.Public)
	if err != nil {
		t.Fatal(err)
	}
	p.demand(t, p.signer(t, patience, other, p.Open).SelfTest(t.Context()), "it is not the key of the authority's certificate")
}

// survives checks that a fault gives an error that helps the operator. After the mend everything
// must work again without any other action.
func (p Place) survives(t *testing.T, f Fault) {
	patience := patience
	if f.Silent {
		patience = noPatience
	}
	s := p.signer(t, patience, p.Public, p.Open)
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
	if err != nil && signer.IsTransient(err) != f.Transient {
		t.Errorf("transient is %t: %v", !f.Transient, err)
	}
	var tests sync.WaitGroup
	for range 5 {
		tests.Go(func() { _ = s.SelfTest(t.Context()) })
	}
	tests.Wait()
	if err := s.Check(t.Context()); err == nil {
		t.Error("readiness knows nothing of it")
	}
	// late starts during the fault.
	late := p.signer(t, patience, p.Public, p.Open)
	if err := late.SelfTest(t.Context()); err == nil {
		t.Error("a signer that is new signs")
	} else {
		p.demand(t, err)
	}
	mend()
	for _, s := range []*signer.Signer{s, late} {
		Await(t, "a self-test after the fault", func() error { return s.SelfTest(t.Context()) })
		if _, err := s.Sign(t.Context(), []byte("mended")); err != nil {
			t.Errorf("a signature after the fault: %v", err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("readiness after the fault: %v", err)
		}
	}
}

func (p Place) tells(t *testing.T, m Mistake) {
	p.demand(t, p.signer(t, patience, p.Public, m.Open).SelfTest(t.Context()), m.Wants...)
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}
