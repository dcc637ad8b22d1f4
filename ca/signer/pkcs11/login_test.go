//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
)

// The answers to C_Login that the faulty module writes.
const (
	ok             = "0"
	functionFailed = "6"
	pinIncorrect   = "a0"
	vendor         = "80000001"
)

// A token locks itself after a few wrong PINs, so each is tried once. Some modules answer otherwise
// to a wrong PIN; the flags of the token then show it.
func TestRefusedPINIsNotTriedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		pin, line string
		want      []string
		ends      bool // whether the PIN is accepted in the end
	}{
		"wrong":                        {"guessed", "", []string{pinIncorrect}, false},
		"wrong, of two lines":          {"guessed\n\n", "", []string{pinIncorrect}, false},
		"a fault is tried again":       {"", "fail C_Login " + functionFailed, []string{functionFailed, functionFailed, ok}, true},
		"an unknown answer is not":     {"", "fail C_Login " + vendor, []string{vendor}, false},
		"nor is one before the last":   {"", "flags 20000", []string{ok}, true}, // CKF_USER_PIN_FINAL_TRY, until it is gone
		"what the token counts is not": {"", "refuse " + functionFailed, []string{functionFailed}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, modules := faultyToken(t), pkcs11.NewModules()
			cfg, since := p.Config, calls(t)
			if test.pin != "" {
				cfg = p.with(t, test.pin)
			}
			mend := misbehave(t, test.line)
			for range 2 {
				_, err := modules.Open(t.Context(), cfg)
				p.states(t, err)
			}
			mend()
			key, err := modules.Open(t.Context(), cfg)
			if (err == nil) != test.ends {
				t.Errorf("error %v", err)
			}
			if err == nil {
				must(t, key.Close())
			}
			if diff := cmp.Diff(test.want, since()); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
			if test.pin != "" { // the right PIN is tried nevertheless
				open(t, modules, p.with(t, p.pin))
			}
		})
	}
}

// C_Login checks no PIN while the process is logged in. Another PIN is refused without a call, and
// the keys that are open go on.
func TestAnotherPINWhileLoggedIn(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s, since := p.relied(t, modules), calls(t)
	for range 3 {
		_, err := modules.Open(t.Context(), p.with(t, "guessed"))
		p.states(t, err, "pin_file: ", "restart mayfly")
		must(t, s.Prove(t.Context()))
	}
	open(t, modules, p.Config)
	if got := since(); len(got) > 0 {
		t.Errorf("logins %v, want none", got)
	}
}

// A PIN that was changed on the token takes effect when the process logs in again.
func TestChangedPIN(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	s := p.relied(t, modules)
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.SetPIN(session, p.pin, "s3cret and new"))
	})
	must(t, s.Prove(t.Context())) // the login is still valid
	p.pin = "s3cret and new"
	must(t, os.WriteFile(p.PINFile, []byte(p.pin), 0o600))
	must(t, s.Prove(t.Context()), softHSM.lib.CloseAllSessions(p.slot(t)), s.Prove(t.Context()))
}

// A loss between two signatures costs the next signature of each key at most one more attempt.
func TestWhatWasLostIsFoundAgain(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	p.ec(t, "ca", 1, p256)
	p.ec(t, "next", 2, p384)
	first := p.relied(t, modules)
	p.Label = "next"
	second := p.relied(t, modules)
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
			_, err := first.Sign(t.Context(), []byte("next"))
			_, err2 := second.Sign(t.Context(), []byte("next"))
			must(t, err, err2)
		})
	}
}

// A module that reports a login, and answers as if there were none, gets a new login.
func TestDoubtedLogin(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s, since := p.relied(t, modules), calls(t)
	p.ec(t, "next", 2, p384)
	p.Label = "next"
	next := p.relied(t, modules)
	mend := misbehave(t, "fail C_SignInit 101")
	if err := s.SelfTest(t.Context()); err == nil {
		t.Error("it signs without a login")
	}
	mend()
	must(t, next.Prove(t.Context()), s.Prove(t.Context()))
	if got := since(); len(got) == 0 {
		t.Error("there was no new login")
	}
}
