//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/certs"
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

func attribute(t *testing.T, session p11.SessionHandle, object p11.ObjectHandle, kind uint) []byte {
	t.Helper()
	got, err := softHSM.lib.GetAttributeValue(session, object, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	must(t, err)
	return got[0].Value
}

func TestGenerate(t *testing.T) {
	for algorithm, kind := range map[string]string{
		"ecdsa-p256": "an ECDSA key on P-256", "ecdsa-p384": "an ECDSA key on P-384", "rsa-4096": "an RSA key of 4096 bits",
	} {
		p, modules := newToken(t), pkcs11.NewModules()
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			if _, err := modules.Open(t.Context(), p.Config); !errors.Is(err, pkcs11.ErrNoKey) {
				t.Fatalf("before: %v, want ErrNoKey", err)
			}
			key, err := modules.Generate(t.Context(), p.Config, algorithm)
			must(t, err)
			signed, err := certs.SignatureAlgorithmFor(key.Public())
			must(t, err)
			signature, err := key.Sign(t.Context(), []byte("m"))
			must(t, err, signed.Verify(key.Public(), []byte("m"), signature), key.Close())
			if diff := cmp.Diff(kind, signer.Describe(key.Public())); diff != "" {
				t.Errorf("kind (-want +got):\n%s", diff)
			}
			if _, err := modules.Generate(t.Context(), p.Config, algorithm); !errors.Is(err, pkcs11.ErrKeyExists) {
				t.Errorf("a second one: %v, want ErrKeyExists", err)
			}
			open(t, modules, p.Config)
			p.holdsTheKeyFast(t)
		})
	}
}

// holdsTheKeyFast checks that a generated key cannot leave the token, and can only sign.
func (p *place) holdsTheKeyFast(t *testing.T) {
	p.within(t, func(session p11.SessionHandle) {
		private, public := p.object(t, session, p11.CKO_PRIVATE_KEY), p.object(t, session, p11.CKO_PUBLIC_KEY)
		got := map[string]bool{}
		for name, kind := range map[string]uint{
			"token": p11.CKA_TOKEN, "private": p11.CKA_PRIVATE, "sensitive": p11.CKA_SENSITIVE, "always sensitive": p11.CKA_ALWAYS_SENSITIVE,
			"never extractable": p11.CKA_NEVER_EXTRACTABLE, "sign": p11.CKA_SIGN, "extractable": p11.CKA_EXTRACTABLE, "modifiable": p11.CKA_MODIFIABLE,
			"decrypt": p11.CKA_DECRYPT, "unwrap": p11.CKA_UNWRAP, "derive": p11.CKA_DERIVE,
		} {
			got[name] = attribute(t, session, private, kind)[0] != 0
		}
		want := map[string]bool{
			"token": true, "private": true, "sensitive": true, "always sensitive": true, "never extractable": true, "sign": true,
			"extractable": false, "modifiable": false, "decrypt": false, "unwrap": false, "derive": false,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		id := attribute(t, session, private, p11.CKA_ID)
		if len(id) != 16 || !bytes.Equal(id, attribute(t, session, public, p11.CKA_ID)) {
			t.Errorf("the private key has the ID %x, and the public one another or none", id)
		}
	})
}

func TestGenerateRefuses(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	_, err := modules.Generate(t.Context(), p.Config, "ed25519")
	p.tells(t, err, `unknown algorithm "ed25519"; it should be ecdsa-p256, ecdsa-p384 or rsa-4096`)
	_, err = modules.Generate(t.Context(), p.with(t, "guessed"), "ecdsa-p256")
	p.tells(t, err, "pin_file: ", "CKR_PIN_INCORRECT")
	if _, err := modules.Open(t.Context(), p.Config); !errors.Is(err, pkcs11.ErrNoKey) {
		t.Errorf("it made a key: %v", err)
	}
}

func TestGenerateWithAnID(t *testing.T) {
	p, modules := newToken(t), pkcs11.NewModules()
	t.Parallel()
	p.ID = []byte{0xca, 1}
	key, err := modules.Generate(t.Context(), p.Config, "ecdsa-p256")
	must(t, err, key.Close())
	open(t, modules, p.Config)
	p.ID = []byte{0xca, 2}
	_, err = modules.Open(t.Context(), p.Config)
	p.tells(t, err, `labelled "ca" with the ID ca02`)
}
