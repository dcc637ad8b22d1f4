//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	ok           = "0"
	pinIncorrect = "a0"
)

// faultyToken returns a token with a key, behind the faulty module.
func faultyToken(t testing.TB) *place {
	t.Helper()
	p := newToken(t)
	p.ec(t, "ca", 1, p256)
	p.Module = softHSM.faulty
	return p
}

// with returns the Config with another PIN file.
func (p *place) with(t testing.TB, pin string) pkcs11.Config {
	t.Helper()
	cfg := p.Config
	cfg.PINFile = pinFile(t, pin)
	return cfg
}

// relied returns a Signer of a key.
func (p *place) relied(t testing.TB, m *pkcs11.Modules) *signer.Signer {
	t.Helper()
	cfg := p.Config
	key, err := m.Open(t.Context(), cfg)
	must(t, err)
	s, err := signer.New(signer.Config{
		Name: "ca", Kind: "pkcs11", Public: key.Public(), Open: func(ctx context.Context) (signer.Key, error) { return m.Open(ctx, cfg) },
		Timeout: 25 * time.Second, Attempt: 10 * time.Second, // for a busy machine
	})
	must(t, err, s.Prove(t.Context()), key.Close())
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// paths are the key paths of the errors in err.
func paths(err error) (all []string) {
	for _, e := range keypath.All(err) {
		all = append(all, strings.Join(e.Path, "."))
	}
	return all
}

// C_Login checks no PIN while there is a login. A wrong PIN must be found nevertheless, once, and
// without errors in the signatures meanwhile.
func TestWrongPINWhileSigning(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s := p.relied(t, modules)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	var made atomic.Int64
	begun := make(chan struct{}, 6)
	for range cap(begun) {
		clients.Go(func() {
			for first := true; ctx.Err() == nil; first = false {
				if _, err := s.Sign(t.Context(), []byte("load")); err != nil {
					t.Errorf("a signature meanwhile: %v", err)
				}
				made.Add(1)
				if first {
					begun <- struct{}{}
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	since, before := calls(t), made.Load()
	wrong := p.with(t, "guessed")
	_, err := modules.Open(t.Context(), wrong)
	p.tells(t, err, "pin_file: the PIN in "+wrong.PINFile, "CKR_PIN_INCORRECT", "put the right one into the file")
	for range 3 {
		_, err = modules.Open(t.Context(), wrong)
		p.tells(t, err, "pin_file: ", "has refused the PIN", "not tried a second time")
	}
	if signer.IsTransient(err) {
		t.Errorf("it passes by itself: %v", err)
	}
	must(t, s.Prove(t.Context()))
	stop()
	clients.Wait()
	if diff := cmp.Diff([]string{pinIncorrect, ok}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	if made.Load() == before {
		t.Error("nobody signed meanwhile")
	}
}

// A reload of the configuration with a wrong PIN in the file leaves the former configuration as it
// is: its key is not opened again, which would use the same file.
func TestWrongPINInTheFile(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s, since := p.relied(t, modules), calls(t)
	right := p.pin
	must(t, os.WriteFile(p.PINFile, []byte("guessed"), 0o600))
	for range 3 {
		_, err := modules.Open(t.Context(), p.Config)
		p.tells(t, err, "pin_file: ")
		must(t, s.Prove(t.Context()))
	}
	must(t, os.WriteFile(p.PINFile, []byte(right), 0o600))
	open(t, modules, p.Config)
	must(t, s.Prove(t.Context()))
	if diff := cmp.Diff([]string{pinIncorrect, ok}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	since := calls(t)
	for range 3 {
		_, err := modules.Open(t.Context(), p.with(t, "guessed"))
		p.tells(t, err, "pin_file: ")
	}
	_, err := modules.Open(t.Context(), p.with(t, "guessed\n\n"))
	p.tells(t, err, "more than one line, and all of them count")
	open(t, modules, p.Config)
	if diff := cmp.Diff([]string{pinIncorrect, pinIncorrect, ok}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}

// A module may answer otherwise to a wrong PIN; the flags of the token show it.
func TestPINThatTheTokenCounts(t *testing.T) {
	const functionFailed, vendor = "6", "80000001"
	for name, test := range map[string]struct {
		line string
		want []string
	}{
		"a fault is tried again":       {"fail C_Login " + functionFailed, []string{functionFailed, functionFailed, ok}},
		"what nobody knows is not":     {"fail C_Login " + vendor, []string{vendor}},
		"what the token counts is not": {"refuse " + functionFailed, []string{functionFailed}},
	} {
		t.Run(name, func(t *testing.T) {
			p, modules := faultyToken(t), pkcs11.NewModules()
			since := calls(t)
			mend := misbehave(t, test.line)
			for range 2 {
				_, err := modules.Open(t.Context(), p.Config)
				p.tells(t, err)
			}
			mend()
			if key, err := modules.Open(t.Context(), p.Config); err == nil {
				must(t, key.Close())
			}
			if diff := cmp.Diff(test.want, since()); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPINChangedOnTheToken(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	s := p.relied(t, modules)
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.SetPIN(session, p.pin, "s3cret and new"))
	})
	must(t, s.Prove(t.Context())) // the login is still valid
	open(t, modules, p.Config)    // and the module checks no PIN
	p.pin = "s3cret and new"
	must(t, os.WriteFile(p.PINFile, []byte(p.pin), 0o600))
	open(t, modules, p.Config)
	must(t, s.Prove(t.Context()))
	must(t, softHSM.lib.CloseAllSessions(p.slot(t)))
	_, err := s.Sign(t.Context(), []byte("after all sessions have ended"))
	must(t, err)
}

// The PIN was changed on the token, and the file has a third one: neither is valid.
func TestNeitherPINIsGood(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s := p.relied(t, modules)
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.SetPIN(session, p.pin, "s3cret and new"))
	})
	since := calls(t)
	for range 2 {
		_, err := modules.Open(t.Context(), p.with(t, "guessed"))
		p.tells(t, err, "put the right one into the file")
	}
	if err := s.SelfTest(t.Context()); err == nil {
		t.Error("it signs without a login")
	} else {
		p.tells(t, err, "has refused the PIN")
	}
	if diff := cmp.Diff([]string{pinIncorrect, pinIncorrect}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	must(t, os.WriteFile(p.PINFile, []byte("s3cret and new"), 0o600))
	must(t, s.Prove(t.Context()))
}

func TestPINIsNotTriedWhereThatMayLock(t *testing.T) {
	p := faultyToken(t)
	for name, test := range map[string]struct {
		flags string
		wants []string
		tried bool
	}{
		"locked":        {"flags 40000", []string{"token: the user PIN", "is locked", "security officer has to set a new PIN", "--init-pin"}, false},
		"final try":     {"flags 20000", []string{"token: one wrong PIN more locks the token", "pkcs11.pin_file", "log in by hand once"}, false},
		"to be changed": {"flags 80000", []string{"token: the token", "wants its user PIN changed", "--change-pin", "pkcs11.pin_file"}, false},
		"count low":     {"flags 10000", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			since := calls(t)
			misbehave(t, test.flags)
			key, err := pkcs11.NewModules().Open(t.Context(), p.Config)
			if test.tried {
				must(t, err, key.Close())
			} else {
				p.tells(t, err, test.wants...)
			}
			if tried := len(since()) > 0; tried != test.tried {
				t.Errorf("the PIN was tried: %t", tried)
			}
		})
	}
}

// Where one more wrong PIN locks the token, not even the former PIN is tried: it may have been
// changed.
func TestFormerPINIsNotTriedWhereThatMayLock(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	s := p.relied(t, modules)
	mend := misbehave(t, "refuse a0")
	since := calls(t)
	_, err := modules.Open(t.Context(), p.with(t, "guessed"))
	p.tells(t, err, "put the right one into the file", "one wrong PIN more would lock the token")
	if diff := cmp.Diff([]string{"pin_file", "pin_file"}, paths(err)); diff != "" {
		t.Errorf("key paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{pinIncorrect}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	mend()
	must(t, s.Prove(t.Context()))
}

// Another Modules, or other code, has logged in: its PIN is unknown, so ours is tried.
func TestSomebodyElseIsLoggedIn(t *testing.T) {
	p, others, modules := faultyToken(t), pkcs11.NewModules(), pkcs11.NewModules()
	theirs := p.relied(t, others)
	since := calls(t)
	_, err := modules.Open(t.Context(), p.with(t, "guessed"))
	p.tells(t, err, "CKR_PIN_INCORRECT")
	ours := open(t, modules, p.Config)
	_, err = ours.Sign(t.Context(), []byte("ours"))
	must(t, err, theirs.Prove(t.Context()))
	if diff := cmp.Diff([]string{pinIncorrect, ok}, since()[:2]); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}
