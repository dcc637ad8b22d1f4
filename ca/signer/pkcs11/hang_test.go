//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// hang makes one call of do hang until the test's end, but no other call. It ends the context of do
// and does not wait for the call.
func hang(t *testing.T, function string, do func(ctx context.Context) error) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	ended := make(chan error, 1)
	t.Cleanup(func() { <-ended })
	since := calls(t)
	misbehave(t, "hung", "hang "+function) // "hung" keeps earlier calls hanging
	go func() { ended <- do(ctx) }()
	signertest.Await(t, "a call that hangs", func() error {
		if !slices.Contains(since(), "hangs") {
			return errors.New("there is none")
		}
		return nil
	})
	misbehave(t, "hung")
}

func signs(key signer.Key) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := key.Sign(ctx, []byte("hangs"))
		return err
	}
}

// Calls that hang, however many, delay no other signature of their key or another one. Whatever
// else fails meanwhile, afterwards all keys of the token sign.
func TestHungSignatures(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s := p.relied(t, modules)
	p.ec(t, "next", 2, p256)
	key := open(t, modules, p.Config)
	p.Label = "next"
	next := p.relied(t, modules)
	for range 20 {
		hang(t, "C_Sign", signs(key))
		_, err := key.Sign(t.Context(), []byte("beside"))
		must(t, err, next.SelfTest(t.Context()))
	}
	for _, line := range []string{"fail C_SignInit 30", "fail C_Sign 5", "fail C_SignInit 101", "lose", "absent"} {
		for _, s := range []*signer.Signer{s, next} {
			misbehave(t, "hung", line)
			if err := s.SelfTest(t.Context()); err == nil {
				t.Errorf("%s: there is no fault", line)
			}
			misbehave(t, "hung")
			must(t, s.Prove(t.Context()), next.Prove(t.Context()))
		}
	}
}

// A caller that waits for a session returns when its context ends, which says nothing about the
// key. A key that is closed meanwhile no longer signs.
func TestWaitForASession(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	key, err := modules.Open(t.Context(), p.Config)
	must(t, err)
	since, mend := calls(t), misbehave(t, "hang C_Sign")
	ended := make(chan error)
	for range 8 {
		go func() { ended <- signs(key)(t.Context()) }()
	}
	signertest.Await(t, "calls that hang", func() error {
		if n := len(since()); n != 8 {
			return fmt.Errorf("%d hang", n)
		}
		return nil
	})
	ctx, leave := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- signs(key)(ctx) }()
	leave()
	err = <-waits
	var f *signer.Failure
	if !errors.Is(err, context.Canceled) || errors.As(err, &f) && f.Remedy != signer.Wait {
		t.Errorf("a wait ended with %v", err)
	}
	must(t, key.Close())
	mend()
	for range 8 {
		must(t, <-ended)
	}
	if err := signs(key)(t.Context()); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("a closed key: %v", err)
	}
}

// The next opening does not wait for a call that hangs. A PIN without an answer is not tried again
// until the call returns.
func TestHungOpenings(t *testing.T) {
	for _, function := range []string{"C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_GetAttributeValue", "C_Login"} {
		t.Run(function, func(t *testing.T) {
			p, modules := faultyToken(t), pkcs11.NewModules()
			since, ended := calls(t), make(chan struct{})
			hang(t, function, func(ctx context.Context) error {
				defer close(ended)
				key, err := modules.Open(ctx, p.Config)
				if err == nil {
					err = key.Close()
				}
				return err
			})
			if function == "C_Login" {
				_, err := modules.Open(t.Context(), p.Config)
				p.states(t, err, "C_Login has not returned")
			} else {
				must(t, p.relied(t, modules).Prove(t.Context()))
			}
			misbehave(t)
			<-ended
			must(t, p.relied(t, modules).Prove(t.Context()))
			if slices.Contains(since(), pinIncorrect) {
				t.Errorf("calls %v", since())
			}
		})
	}
}

func TestOpenDuringAnOutage(t *testing.T) {
	p := faultyToken(t)
	for _, line := range []string{
		"absent", "fail C_GetSlotList 5", "fail C_GetTokenInfo e0", "fail C_OpenSession b1", "fail C_OpenSession 30", "fail C_Login 30", "fail C_GetAttributeValue 30",
	} {
		misbehave(t, line)
		_, err := pkcs11.NewModules().Open(t.Context(), p.Config)
		p.states(t, err)
		if !signer.IsTransient(err) {
			t.Errorf("%s: it is permanent: %v", line, err)
		}
	}
}
