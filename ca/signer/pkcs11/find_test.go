//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
)

const (
	secp256k1         = "\x06\x05\x2b\x81\x04\x00\x0a"
	edwardsKeyPairGen = 0x1055 // CKM_EC_EDWARDS_KEY_PAIR_GEN of version 3.0
)

// refuses checks that the key does not open, and that the error has the key path.
func (p *place) refuses(t *testing.T, path string, wants ...string) {
	t.Helper()
	_, err := pkcs11.NewModules().Open(t.Context(), p.Config)
	p.tells(t, err, wants...)
	if diff := cmp.Diff([]string{path}, paths(err)); diff != "" {
		t.Errorf("key paths (-want +got):\n%s", diff)
	}
}

// dropPublic deletes the key's public half.
func (p *place) dropPublic(t *testing.T) {
	t.Helper()
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.DestroyObject(session, p.object(t, session, p11.CKO_PUBLIC_KEY)))
	})
}

func TestKeysThatDoNot(t *testing.T) {
	for name, test := range map[string]struct {
		make  func(*testing.T, *place)
		wants []string
	}{
		"have a public key": {
			func(t *testing.T, p *place) { p.ec(t, "ca", 1, p256); p.dropPublic(t) },
			[]string{"its public key is not in the token", "pkcs11-tool", "--write-object public.der", "--id 01"},
		},
		"sign": {
			func(t *testing.T, p *place) {
				p.ec(t, "ca", 1, p256, p11.NewAttribute(p11.CKA_SIGN, false), p11.NewAttribute(p11.CKA_DERIVE, true))
			},
			[]string{"may not sign", "CKA_SIGN"},
		},
		"sign without the PIN": {
			func(t *testing.T, p *place) {
				p.ec(t, "ca", 1, p256, p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_ALWAYS_AUTHENTICATE, true))
			},
			[]string{"wants the PIN for each signature", "CKA_ALWAYS_AUTHENTICATE"},
		},
		"have 2048 bits":          {func(t *testing.T, p *place) { p.rsa(t, "ca", 1, 1024) }, []string{"RSA key of 1024 bits; it should have 2048 to 8192"}},
		"lie on a curve of these": {func(t *testing.T, p *place) { p.ec(t, "ca", 1, secp256k1) }, []string{"CKA_EC_PARAMS 06052b8104000a", "is not P-256, P-384 or P-521"}},
		"belong to these kinds": {
			func(t *testing.T, p *place) {
				p.pair(t, "ca", 1, edwardsKeyPairGen, p11.NewAttribute(p11.CKA_EC_PARAMS, []byte("\x06\x03\x2b\x65\x70")))
			},
			[]string{"of the kind CKK 0x40", "an ECDSA key on P-256, P-384 or P-521, or an RSA key"},
		},
		"stand alone": {func(t *testing.T, p *place) { p.ec(t, "ca", 1, p256); p.ec(t, "ca", 0xb2, p384) }, []string{"2 private keys", `choose one by its ID (the setting id): "01", "b2"`}},
		"differ":      {func(t *testing.T, p *place) { p.ec(t, "ca", 1, p256); p.ec(t, "ca", 1, p384) }, []string{`all with the ID "01"; give each an ID of its own`}},
		"exist": {
			func(t *testing.T, p *place) {
				for i := range 10 {
					p.ec(t, fmt.Sprintf("key %d", i), byte(i), p256)
				}
			},
			[]string{`labelled: "key 0", "key 1", `, `"key 7" and 2 more`},
		},
		"exist at all": {func(*testing.T, *place) {}, []string{"shows no private key at all"}},
	} {
		p := newToken(t)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.make(t, p)
			p.refuses(t, "label", test.wants...)
		})
	}
}

func TestIDChooses(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	p.ec(t, "ca", 2, p256)
	p.ID = []byte{1}
	first := open(t, modules, p.Config)
	p.ID = []byte{2}
	second := open(t, modules, p.Config)
	if first.Public() == second.Public() || cmp.Equal(first.Public(), second.Public()) {
		t.Error("it is one key")
	}
}

// An RSA key needs no public key object.
func TestRSAWithoutPublicKey(t *testing.T) {
	p := newToken(t)
	t.Parallel()
	p.rsa(t, "ca", 1, 2048)
	p.dropPublic(t)
	key := open(t, pkcs11.NewModules(), p.Config)
	_, err := key.Sign(t.Context(), []byte("m"))
	must(t, err)
}

// A pair that was created without an ID is matched by its label.
func TestPairWithoutID(t *testing.T) {
	p := newToken(t)
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	p.within(t, func(session p11.SessionHandle) {
		none := []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, []byte{})}
		must(t, softHSM.lib.SetAttributeValue(session, p.object(t, session, p11.CKO_PUBLIC_KEY), none),
			softHSM.lib.SetAttributeValue(session, p.object(t, session, p11.CKO_PRIVATE_KEY), none))
	})
	open(t, pkcs11.NewModules(), p.Config)
}

func TestTokens(t *testing.T) {
	p := newToken(t)
	initialize(t, p.Token)
	t.Parallel()
	p.refuses(t, "token", fmt.Sprintf("2 tokens are labelled %q", p.Token), "serial numbers")
	p.Token = "tokem"
	p.refuses(t, "token", `no token is labelled "tokem"; there are: `, "1 not initialized yet", "--init-token")
}

func TestTokenWithoutUserPIN(t *testing.T) {
	p := newToken(t)
	p.Token += " half made"
	initialize(t, p.Token)
	t.Parallel()
	p.refuses(t, "token", "has no user PIN yet", "--init-pin")
}

func TestModuleThatIsNone(t *testing.T) {
	p := newToken(t)
	t.Parallel()
	p.Module = t.TempDir()
	p.refuses(t, "module", "is not a file", "ends in .so")
	p.Module = "/proc/self/exe"
	p.refuses(t, "module", "is not a PKCS#11 module")
	_, err := pkcs11.NewModules().Open(t.Context(), pkcs11.Config{Module: softHSM.module})
	if diff := cmp.Diff([]string{"token", "label"}, paths(err)); diff != "" {
		t.Errorf("key paths (-want +got):\n%s", diff)
	}
	if errors.Is(err, pkcs11.ErrNoKey) {
		t.Error("a key that is not named is not there")
	}
}
