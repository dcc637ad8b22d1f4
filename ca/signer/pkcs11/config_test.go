//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
)

func TestPINFile(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	for name, test := range map[string]struct{ content, want string }{
		"as it is":               {p.pin, ""},
		"with a newline":         {p.pin + "\n", ""},
		"with a DOS line ending": {p.pin + "\r\n", ""},
		"with two newlines":      {p.pin + "\n\n", "more than one line, and all of them count"},
		"with a space":           {p.pin + " ", "put the right one into the file"},
		"empty":                  {"", "is empty; it should hold the user PIN"},
		"far too long":           {strings.Repeat("x", 20000), "more than 16384 bytes; is it the right file?"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := modules.Open(t.Context(), p.with(t, test.content))
			if test.want == "" {
				must(t, err, key.Close())
				return
			}
			p.tells(t, err, test.want)
			if diff := cmp.Diff([]string{"pin_file"}, paths(err)); diff != "" {
				t.Errorf("key paths (-want +got):\n%s", diff)
			}
		})
	}
}

// A program that writes the file again may have set the token to this PIN. A program that writes it
// each minute must not lock the token.
func TestRefusedPINInAFileThatIsWrittenAnew(t *testing.T) {
	p, modules := faultyToken(t), pkcs11.NewModules()
	since, cfg, written := calls(t), p.with(t, "guessed"), time.Now()
	for range 3 {
		for range 2 {
			_, err := modules.Open(t.Context(), cfg)
			p.tells(t, err, "pin_file: ")
		}
		written = written.Add(time.Minute)
		must(t, os.Chtimes(cfg.PINFile, written, written))
	}
	other := p.with(t, "s3cret and new")
	_, err := modules.Open(t.Context(), other)
	p.tells(t, err, "pin_file: ")
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.SetPIN(session, p.pin, "s3cret and new"))
	})
	must(t, softHSM.lib.CloseAllSessions(p.slot(t)), os.Chtimes(other.PINFile, written, written))
	for range 2 {
		open(t, modules, other)
		must(t, softHSM.lib.CloseAllSessions(p.slot(t)))
	}
	if diff := cmp.Diff([]string{pinIncorrect, pinIncorrect, pinIncorrect, ok, ok}, since()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	requireSoftHSM(t)
	cfg := pkcs11.Config{Module: softHSM.module, Token: "t", Label: "l", PINFile: pinFile(t, "s3cret")}
	warnings, err := pkcs11.Check(cfg)
	must(t, err, errors.Join(warnings...))
	must(t, os.Chmod(cfg.PINFile, 0o644))
	warnings, err = pkcs11.Check(cfg)
	must(t, err)
	if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "has mode 0644") {
		t.Errorf("warnings %v, want one of the mode", warnings)
	}
	_, err = pkcs11.Check(pkcs11.Config{PINFile: cfg.PINFile + ".not-there"})
	if diff := cmp.Diff([]string{"token", "label", "module", "pin_file"}, paths(err)); diff != "" {
		t.Errorf("key paths (-want +got):\n%s", diff)
	}
}
