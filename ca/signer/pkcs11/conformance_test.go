//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// conform runs the suite for an existing key.
func (p *place) conform(t *testing.T, faults ...signertest.Fault) {
	modules := pkcs11.NewModules()
	opens := func(change func(*pkcs11.Config)) func(context.Context) (signer.Key, error) {
		cfg := p.Config
		change(&cfg)
		return func(ctx context.Context) (signer.Key, error) { return modules.Open(ctx, cfg) }
	}
	right := opens(func(*pkcs11.Config) {})
	key, err := right(t.Context())
	must(t, err)
	must(t, key.Close())
	text, wrong, nothing := pinFile(t, "text"), pinFile(t, "guessed"), pinFile(t, "\n")
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: right, Secrets: []string{p.pin, "guessed"}, Faults: faults,
		Mistakes: []signertest.Mistake{
			{Name: "no module", Open: opens(func(c *pkcs11.Config) { c.Module = filepath.Join(t.TempDir(), "hsm.so") }), Wants: []string{"module", "hsm.so", "no such file", "install it"}},
			{Name: "another file", Open: opens(func(c *pkcs11.Config) { c.Module = text }), Wants: []string{"module", "is not a PKCS#11 module", "ldd"}},
			{Name: "no token", Open: opens(func(c *pkcs11.Config) { c.Token = "tokem" }), Wants: []string{"token", `there are: `}},
			{Name: "no key", Open: opens(func(c *pkcs11.Config) { c.Label = "car" }), Wants: []string{"label", `no private key labelled "car"`, `are labelled: ["ca"]`}},
			{Name: "wrong PIN", Open: opens(func(c *pkcs11.Config) { c.PINFile = wrong }), Wants: []string{"pin_file", wrong}},
			{Name: "empty PIN file", Open: opens(func(c *pkcs11.Config) { c.PINFile = nothing }), Wants: []string{"pin_file", nothing, "should hold the user PIN"}},
			{Name: "no PIN", Open: opens(func(c *pkcs11.Config) { c.PINFile = "" }), Wants: []string{"pin_file", "requires a login"}},
		},
	})
}

func TestConformance(t *testing.T) {
	for name, make := range map[string]func(*testing.T, *place){
		"P-384": func(t *testing.T, p *place) { p.ec(t, "ca", 1, p384) },
		"P-521": func(t *testing.T, p *place) { p.ec(t, "ca", 1, "\x06\x05\x2b\x81\x04\x00\x23") },
		"RSA":   func(t *testing.T, p *place) { p.rsa(t, "ca", 1, 2048) },
	} {
		p := newToken(t)
		make(t, p)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.conform(t)
		})
	}
}

// Not parallel: the faults affect all users of the faulty module.
func TestConformanceP256WithFaults(t *testing.T) {
	p := newToken(t)
	p.ec(t, "ca", 1, p256)
	p.Module = softHSM.faulty
	fault := func(name, line string, transient bool, wants ...string) signertest.Fault {
		return signertest.Fault{Name: name, Transient: transient, Wants: wants, Begin: func(t *testing.T) func() { return misbehave(t, line) }}
	}
	hang := fault("hang", "hang C_Sign", true, "there was no answer in time")
	hang.Silent = true
	p.conform(t,
		fault("device error", "fail C_Sign 30", true, "C_Sign answered CKR_DEVICE_ERROR", "pkcs11.token"),
		fault("not logged in", "fail C_SignInit 101", true, "CKR_USER_NOT_LOGGED_IN"),
		fault("session lost", "lose", true, "CKR_SESSION_HANDLE_INVALID"),
		fault("token removed", "absent", true, "token"),
		fault("wrong signature", "flip", false, "does not verify"),
		hang,
	)
}
