//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
)

// A loss between two signatures costs the next signature at most one more attempt.
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

// The keys of two authorities in one token both sign again after the login was lost.
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
	must(t, second.Prove(t.Context()), first.Prove(t.Context()))
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
