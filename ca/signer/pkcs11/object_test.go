//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// object returns the one object of a class in the token.
func (p *place) object(t *testing.T, session p11.SessionHandle, class uint) p11.ObjectHandle {
	t.Helper()
	must(t, softHSM.lib.FindObjectsInit(session, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_LABEL, p.Label)}))
	found, _, err := softHSM.lib.FindObjects(session, 2)
	must(t, err, softHSM.lib.FindObjectsFinal(session))
	if len(found) != 1 {
		t.Fatalf("found %d objects, want one", len(found))
	}
	return found[0]
}

// dropPublic deletes the key's public half.
func (p *place) dropPublic(t *testing.T) {
	t.Helper()
	p.within(t, func(session p11.SessionHandle) {
		must(t, softHSM.lib.DestroyObject(session, p.object(t, session, p11.CKO_PUBLIC_KEY)))
	})
}

func TestUnusableKeys(t *testing.T) {
	const edwardsKeyPairGen = 0x1055 // CKM_EC_EDWARDS_KEY_PAIR_GEN of version 3.0
	for name, test := range map[string]struct {
		make func(*testing.T, *place)
		path string
		want string
	}{
		"no public key": {func(t *testing.T, p *place) { p.ec(t, "ca", 1, p256); p.dropPublic(t) }, "label", "--write-object"},
		"may not sign": {func(t *testing.T, p *place) {
			p.ec(t, "ca", 1, p256, p11.NewAttribute(p11.CKA_SIGN, false), p11.NewAttribute(p11.CKA_DERIVE, true))
		}, "label", "CKA_SIGN"},
		"PIN for each signature": {func(t *testing.T, p *place) {
			p.ec(t, "ca", 1, p256, p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_ALWAYS_AUTHENTICATE, true))
		}, "label", "CKA_ALWAYS_AUTHENTICATE"},
		"another curve": {func(t *testing.T, p *place) { p.ec(t, "ca", 1, "\x06\x05\x2b\x81\x04\x00\x0a") }, "label", "elliptic curve"},
		"Edwards": {func(t *testing.T, p *place) {
			p.pair(t, "ca", 1, edwardsKeyPairGen, p11.NewAttribute(p11.CKA_EC_PARAMS, []byte("\x06\x03\x2b\x65\x70")))
		}, "label", "elliptic curve"},
		"two of one label": {func(t *testing.T, p *place) { p.ec(t, "ca", 1, p256); p.ec(t, "ca", 0xb2, p384) }, "label", `["01" "b2"]`},
		"others": {func(t *testing.T, p *place) {
			for i := range 2 {
				p.ec(t, fmt.Sprintf("key %d", i), byte(i), p256)
			}
		}, "label", `"key 0" "key 1"`},
		"none":          {func(*testing.T, *place) {}, "label", "the token has no private key"},
		"another token": {func(_ *testing.T, p *place) { p.Token = "tokem" }, "token", "there are: "},
		"two tokens":    {func(t *testing.T, p *place) { initialize(t, p.Token) }, "token", "2 tokens"},
		"no user PIN":   {func(t *testing.T, p *place) { p.Token += " new"; initialize(t, p.Token) }, "token", "--init-pin"},
		"no library":    {func(t *testing.T, p *place) { p.Module = t.TempDir() }, "module", "is not a PKCS#11 module"},
		"a program":     {func(_ *testing.T, p *place) { p.Module = "/proc/self/exe" }, "module", "is not a PKCS#11 module"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newToken(t)
			test.make(t, p)
			_, err := pkcs11.NewModules().Open(t.Context(), p.Config)
			p.states(t, err, test.want)
			if all := keypath.All(err); len(all) != 1 || strings.Join(all[0].Path, ".") != test.path {
				t.Errorf("errors %v, want one at %s", all, test.path)
			}
			if no := name == "none" || name == "others"; errors.Is(err, pkcs11.ErrNoKey) != no {
				t.Errorf("ErrNoKey is %t", !no)
			}
		})
	}
}

// Two keys of one label have IDs; a pair without an ID has one label; an RSA key needs no public
// key object, and ignores several with its ID.
func TestFind(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ec(t, "ca", 1, p256)
	p.ec(t, "ca", 2, p256)
	p.ID = []byte{1}
	first := open(t, modules, p.Config)
	p.ID = []byte{2}
	if second := open(t, modules, p.Config); cmp.Equal(first.Public(), second.Public()) {
		t.Error("it is one key")
	}
	p.ID, p.Label = nil, "no ID"
	p.ec(t, p.Label, 3, p256)
	p.within(t, func(session p11.SessionHandle) {
		none := []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, []byte{})}
		must(t, softHSM.lib.SetAttributeValue(session, p.object(t, session, p11.CKO_PUBLIC_KEY), none),
			softHSM.lib.SetAttributeValue(session, p.object(t, session, p11.CKO_PRIVATE_KEY), none))
	})
	open(t, modules, p.Config)
	p.Label = "RSA"
	p.rsa(t, p.Label, 4, 2048)
	p.dropPublic(t)
	p.ec(t, "another", 4, p256)
	p.ec(t, "a third", 4, p256)
	_, err := open(t, modules, p.Config).Sign(t.Context(), []byte("m"))
	must(t, err)
}

// A generated key cannot leave the token, can only sign, and is never replaced.
func TestGenerate(t *testing.T) {
	for algorithm, kind := range map[string]string{
		"ecdsa-p256": "an ECDSA key on P-256", "ecdsa-p384": "an ECDSA key on P-384", "rsa-4096": "an RSA key of 4096 bits",
	} {
		p, modules := newToken(t), pkcs11.NewModules()
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			key, err := modules.Generate(t.Context(), p.Config, algorithm)
			must(t, err)
			_, err = key.Sign(t.Context(), []byte("m"))
			must(t, err, key.Close())
			if diff := cmp.Diff(kind, signer.Describe(key.Public())); diff != "" {
				t.Errorf("kind (-want +got):\n%s", diff)
			}
			_, err = modules.Generate(t.Context(), p.Config, algorithm)
			p.states(t, err, "already")
			open(t, modules, p.Config)
			p.holdsTheKeyFast(t)
		})
	}
	p := newToken(t)
	_, err := pkcs11.NewModules().Generate(t.Context(), p.Config, "ed25519")
	p.states(t, err, `unknown algorithm "ed25519"`)
}

func (p *place) holdsTheKeyFast(t *testing.T) {
	p.within(t, func(session p11.SessionHandle) {
		for attribute, want := range map[uint]bool{
			p11.CKA_TOKEN: true, p11.CKA_PRIVATE: true, p11.CKA_SENSITIVE: true, p11.CKA_ALWAYS_SENSITIVE: true, p11.CKA_NEVER_EXTRACTABLE: true, p11.CKA_SIGN: true,
			p11.CKA_EXTRACTABLE: false, p11.CKA_MODIFIABLE: false, p11.CKA_DECRYPT: false, p11.CKA_UNWRAP: false, p11.CKA_DERIVE: false,
		} {
			got, err := softHSM.lib.GetAttributeValue(session, p.object(t, session, p11.CKO_PRIVATE_KEY), []*p11.Attribute{p11.NewAttribute(attribute, nil)})
			must(t, err)
			if (got[0].Value[0] != 0) != want {
				t.Errorf("attribute %#x is %x, want %t", attribute, got[0].Value, want)
			}
		}
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	requireSoftHSM(t)
	cfg := pkcs11.Config{Module: softHSM.module, Token: "t", Label: "l", PINFile: pinFile(t, "s3cret")}
	warnings, err := pkcs11.Check(cfg)
	must(t, err, errors.Join(warnings...))
	cfg.Module, cfg.PINFile = cfg.Module+".not", cfg.PINFile+".not"
	if _, err = pkcs11.Check(cfg); len(keypath.All(err)) != 2 {
		t.Errorf("error %v, want one of the module and one of the PIN", err)
	}
}
