//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// What was lost between two signatures costs the next one no more than another attempt.
func TestWhatWasLostIsFoundAgain(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	p.ec(t, "ca", 1, p256)
	s := p.relied(t, modules)
	for name, lose := range map[string]func() error{
		"sessions": func() error { return softHSM.lib.CloseAllSessions(p.slot(t)) },
		"module":   func() error { return softHSM.lib.Finalize() },
		"login": func() error {
			session, err := softHSM.lib.OpenSession(p.slot(t), p11.CKF_SERIAL_SESSION)
			return errors.Join(err, softHSM.lib.Logout(session), softHSM.lib.CloseSession(session))
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, lose())
			_, err := s.Sign(t.Context(), []byte("next"))
			must(t, err)
		})
	}
}

// The keys of two authorities in one token are opened anew for each other.
func TestTwoKeysInOneToken(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	first := p.relied(t, modules)
	p.ec(t, "next", 2, p384)
	p.Label = "next"
	second := p.relied(t, modules)
	mend := misbehave(t, "fail C_SignInit 101")
	if err := first.SelfTest(t.Context()); err == nil {
		t.Error("it signs without a login")
	}
	mend()
	must(t, second.SelfTest(t.Context()), first.SelfTest(t.Context()))
}

func TestNoSessionIsLeft(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	key := open(t, modules, p.Config)
	mend := misbehave(t, "fail C_OpenSession b1")
	_, err := key.Sign(t.Context(), []byte("no session"))
	p.tells(t, err, "C_OpenSession answered CKR_SESSION_COUNT", "up to 9 for each key", "pkcs11.token")
	if !signer.IsTransient(err) {
		t.Errorf("it does not pass by itself: %v", err)
	}
	mend()
	_, err = key.Sign(t.Context(), []byte("session"))
	must(t, err)
}

// Those who wait for a session leave with their context, and a key that is closed meanwhile
// signs no more, while calls in the token hang.
func TestHangingCalls(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	key, err := modules.Open(t.Context(), p.Config)
	must(t, err)
	since, mend := calls(t), misbehave(t, "hang")
	ended := make(chan error)
	for range 8 {
		go func() {
			_, err := key.Sign(t.Context(), []byte("hangs"))
			ended <- err
		}()
	}
	signertest.Await(t, "calls that hang", func() error {
		if got := since(); len(got) != 8 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	_, err = key.Sign(ctx, []byte("waits"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for a session has the error %v", err)
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

func TestOpenDuringAnOutage(t *testing.T) {
	p := faultyToken(t)
	for name, line := range map[string]string{
		"no slots":        "absent",
		"module":          "fail C_GetSlotList 5",
		"token info":      "fail C_GetTokenInfo e0",
		"no session":      "fail C_OpenSession b1",
		"device error":    "fail C_OpenSession 30",
		"login":           "fail C_Login 30",
		"attribute value": "fail C_GetAttributeValue 30",
	} {
		t.Run(name, func(t *testing.T) {
			misbehave(t, line)
			_, err := pkcs11.NewModules().Open(t.Context(), p.Config)
			p.tells(t, err)
			if !signer.IsTransient(err) {
				t.Errorf("it does not pass by itself: %v", err)
			}
		})
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	p := newToken(t)
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pkcs11.NewModules().Open(ctx, p.Config); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}
