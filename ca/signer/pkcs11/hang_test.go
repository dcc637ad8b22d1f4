//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

const hangs = "hangs"

// awaitHangs waits until n calls hang.
func awaitHangs(t *testing.T, since func() []string, n int) {
	t.Helper()
	signertest.Await(t, "calls that hang", func() error {
		if got := logins(since); len(since())-len(got) != n {
			return fmt.Errorf("%v", since())
		}
		return nil
	})
}

// logins returns only the answers to C_Login.
func logins(since func() []string) []string {
	return slices.DeleteFunc(since(), func(line string) bool { return line == hangs })
}

// hang makes one call of do hang until the test's end, but no other call. It ends the context of do
// and does not wait for the call.
func hang(t *testing.T, function string, do func(ctx context.Context) error) error {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	ended := make(chan error, 1)
	sign := function == "C_Sign" // Sign returns when the call returns, Open before that
	t.Cleanup(func() {           // after the calls have returned
		if sign {
			<-ended
		}
	})
	since := calls(t)
	misbehave(t, "hung", "hang "+function) // "hung" keeps earlier calls hanging
	go func() { ended <- do(ctx) }()
	awaitHangs(t, since, 1)
	misbehave(t, "hung")
	leave()
	if sign {
		return nil
	}
	return <-ended
}

// letGo waits until hung openings have returned, and no longer use the token.
func letGo(t *testing.T, modules *pkcs11.Modules) {
	t.Helper()
	misbehave(t)
	signertest.Await(t, "the end of openings", func() error {
		if n := modules.Openings(); n > 0 {
			return fmt.Errorf("%d are under way", n)
		}
		return nil
	})
}

// awaited is a context that ends as soon as a caller waits for its end.
type awaited struct {
	context.Context
	end context.CancelFunc
}

func endsWhenAwaited(parent context.Context) context.Context {
	ctx, end := context.WithCancel(parent)
	return awaited{ctx, end}
}

func (a awaited) Done() <-chan struct{} {
	a.end()
	return a.Context.Done()
}

// While calls in the token hang, callers that wait for a session return when their context ends. A
// key that is closed meanwhile no longer signs.
func TestHangingCalls(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	key, err := modules.Open(t.Context(), p.Config)
	must(t, err)
	since, mend := calls(t), misbehave(t, "hang C_Sign")
	ended := make(chan error)
	for range 8 {
		go func() {
			_, err := key.Sign(t.Context(), []byte("hangs"))
			ended <- err
		}()
	}
	awaitHangs(t, since, 8)
	_, err = key.Sign(endsWhenAwaited(t.Context()), []byte("waits"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for a session has the error %v", err)
	}
	var f *signer.Failure
	if !errors.As(err, &f) || f.Remedy != signer.Wait {
		t.Errorf("a wait for a session is held against the key: %v", err)
	}
	must(t, key.Close())
	mend()
	for range 8 {
		if err := <-ended; err != nil {
			t.Errorf("a signature that was under way: %v", err)
		}
	}
	if _, err := key.Sign(t.Context(), []byte("closed")); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("a closed key: %v", err)
	}
	session, err := softHSM.lib.OpenSession(p.slot(t), p11.CKF_SERIAL_SESSION)
	must(t, err)
	if info, err := softHSM.lib.GetSessionInfo(session); err != nil || info.State != p11.CKS_RO_PUBLIC_SESSION {
		t.Errorf("sessions are left, as there is still a login: %+v, %v", info, err)
	}
	must(t, softHSM.lib.CloseSession(session))
}

// Calls that hang, however many, delay no other signature, of their key or another one.
func TestSigningBesideHungCalls(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	p.ec(t, "next", 2, p256)
	key := open(t, modules, p.Config)
	p.Label = "next"
	next := open(t, modules, p.Config)
	for range 20 {
		_ = hang(t, "C_Sign", func(ctx context.Context) error {
			_, err := key.Sign(ctx, []byte("hangs"))
			return err
		})
		for _, k := range []signer.Key{key, next} {
			_, err := k.Sign(t.Context(), []byte("beside"))
			must(t, err)
		}
	}
}

// Whatever else fails while a call hangs: afterwards all keys of the token sign.
func TestRecoveryBesideAHungCall(t *testing.T) {
	for name, line := range map[string]string{
		"device error":  "fail C_SignInit 30",
		"general error": "fail C_Sign 5",
		"login lost":    "fail C_SignInit 101",
		"sessions lost": "lose",
		"token removed": "absent",
	} {
		t.Run(name, func(t *testing.T) {
			p, modules := faultyToken(t), pkcs11.NewModules()
			s := p.relied(t, modules)
			p.ec(t, "next", 2, p256)
			p.Label = "next"
			next := p.relied(t, modules)
			key := open(t, modules, p.Config)
			_ = hang(t, "C_Sign", func(ctx context.Context) error {
				_, err := key.Sign(ctx, []byte("hangs"))
				return err
			})
			for _, s := range []*signer.Signer{s, next} {
				misbehave(t, "hung", line)
				if err := s.SelfTest(t.Context()); err == nil {
					t.Error("there is no fault")
				}
				misbehave(t, "hung")
				must(t, s.Prove(t.Context()), next.Prove(t.Context()))
			}
		})
	}
}

// A device that has recovered does not cost the keys of the token their login.
func TestDoubtIsNoLogout(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	open(t, modules, p.Config) // keeps the login
	key, since := open(t, modules, p.Config), calls(t)
	mend := misbehave(t, "fail C_Sign 30")
	if _, err := key.Sign(t.Context(), []byte("fault")); err == nil {
		t.Error("there is no fault")
	}
	mend()
	open(t, modules, p.Config)
	if got := since(); len(got) != 0 {
		t.Errorf("logins %v, want none", got)
	}
	misbehave(t, "fail C_Sign 30")
	_, _ = open(t, modules, p.Config).Sign(t.Context(), []byte("fault"))
	open(t, modules, p.Config)
	if diff := cmp.Diff([]string{ok}, since()); diff != "" {
		t.Errorf("logins for a doubt that stays (-want +got):\n%s", diff)
	}
}

func TestWrongPINWhileACallHangs(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s, since := p.relied(t, modules), calls(t)
	key := open(t, modules, p.Config)
	_ = hang(t, "C_Sign", func(ctx context.Context) error {
		_, err := key.Sign(ctx, []byte("hangs"))
		return err
	})
	wrong := p.with(t, "guessed")
	for range 2 {
		_, err := modules.Open(t.Context(), wrong)
		p.tells(t, err, "pin_file: ", "put the right one into the file")
		must(t, s.Prove(t.Context()))
	}
	if diff := cmp.Diff([]string{pinIncorrect, ok}, logins(since)); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}

// An opening with a call that hangs is abandoned, and the next opening does not wait for it.
func TestOpeningBesideAHungOne(t *testing.T) {
	for _, function := range []string{"C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_GetAttributeValue"} {
		t.Run(function, func(t *testing.T) {
			p, modules := faultyToken(t), pkcs11.NewModules()
			for range 3 {
				err := hang(t, function, func(ctx context.Context) error {
					_, err := modules.Open(ctx, p.Config)
					return err
				})
				p.tells(t, err, "module: a call of", "hangs while the key is opened")
				must(t, p.relied(t, modules).Prove(t.Context()))
			}
			letGo(t, modules)
		})
	}
}

// The result of an unanswered login is unknown, so its PIN is not tried again.
func TestHungLogin(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	since := calls(t)
	opens := func(ctx context.Context) error {
		_, err := modules.Open(ctx, p.Config)
		return err
	}
	p.tells(t, hang(t, "C_Login", opens), "hangs while the key is opened")
	ctx, leave := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- opens(ctx) }()
	leave()
	p.tells(t, <-waits)
	letGo(t, modules)
	must(t, p.relied(t, modules).Prove(t.Context()))
	if got := logins(since); slices.Contains(got, pinIncorrect) || len(got) > 2 {
		t.Errorf("logins %v", got)
	}
}

// A C_Logout that hangs delays no signature, and no opening with the valid PIN.
func TestHungLogout(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s := p.relied(t, modules)
	wrong := p.with(t, "guessed")
	opens := func(ctx context.Context) error {
		_, err := modules.Open(ctx, wrong)
		return err
	}
	p.tells(t, hang(t, "C_Logout", opens), "hangs while the key is opened")
	must(t, s.Prove(t.Context()))
	_, err := open(t, modules, p.Config).Sign(t.Context(), []byte("beside"))
	must(t, err)
	since := calls(t)
	letGo(t, modules) // C_Logout returns, and the former login is restored
	if diff := cmp.Diff([]string{ok}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	must(t, s.Prove(t.Context()))
}
