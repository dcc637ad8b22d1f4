// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo && awskms && gcpkms && azurekms && hashivault

package keyring_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/config"
)

func TestMain(m *testing.M) { kmstest.Main(m) }

// services returns a root's and an intermediate's key at each key-management service.
func services(t *testing.T) map[string][2]config.Signer {
	t.Helper()
	internet, vault := kmstest.NewInternet(t), kmstest.NewVault(t)
	aws, google, azure := kmstest.NewAWS(internet, "eu-north-1"), kmstest.NewGoogle(internet), kmstest.NewAzure(internet, "mayfly.vault.azure.net")
	aws.Setenv(t)
	google.Setenv(t, true)
	azure.Setenv(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(vault.Token()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(uri string) config.Signer { return config.Signer{KMS: &config.SignerKMS{URI: uri}} }
	all := map[string][2]config.Signer{}
	for kind, add := range map[string]func(name string, key crypto.Signer) config.Signer{
		"awskms":   func(_ string, key crypto.Signer) config.Signer { return at("awskms:///" + aws.Add(key, "")) },
		"gcpkms":   func(name string, key crypto.Signer) config.Signer { return at("gcpkms://" + google.Add(name, key)) },
		"azurekms": func(name string, key crypto.Signer) config.Signer { return at(azure.Add(name, key)) },
		"openbao": func(name string, key crypto.Signer) config.Signer {
			version := vault.Add(name, key)
			return config.Signer{KMS: &config.SignerKMS{URI: "openbao://" + name, Version: uint64(version), Address: vault.URL(), TokenFile: token}}
		},
	} {
		all[kind] = [2]config.Signer{add("root", kmstest.ECDSA(t, elliptic.P384())), add("intermediate", kmstest.ECDSA(t, elliptic.P256()))}
	}
	return all
}

// A CA whose keys are at each service: created, requested, and loaded as a server does. A
// transcript of the commands tests a token, which creates keys too.
func TestSignerCeremonies(t *testing.T) {
	for kind, named := range services(t) {
		t.Run(kind, func(t *testing.T) {
			ring := keyring.New(keyring.Config{})
			external := func(named config.Signer) *ceremony.ExternalKey {
				key, made, err := ring.Make(t.Context(), named, "ecdsa-p256")
				if err != nil || made {
					t.Fatalf("made %t, error %v", made, err)
				}
				return &ceremony.ExternalKey{Signer: signer.Crypto(t.Context(), key), Block: named.Flow}
			}
			root, intermediate := external(named[0]), external(named[1])
			dir := filepath.Join(t.TempDir(), "ca")
			made, err := ceremony.Init(ceremony.InitConfig{Dir: dir, Now: time.Now, RootSigner: root, Signer: intermediate})
			if err != nil {
				t.Fatal(err)
			}
			set, _, err := config.LoadCASet(made.SetFile)
			if err != nil || set.Authorities[0].Signer.Kind() != kind {
				t.Fatalf("the set names %+v, error %v", set, err)
			}
			s, _, err := ring.Signer("a", set.Authorities[0].Signer, made.Intermediate.PublicKey)
			if err == nil {
				err = s.Prove(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
			request, err := ceremony.NewRequest(ceremony.RequestConfig{Dir: filepath.Join(t.TempDir(), "r"), Subject: ceremony.Subject{CommonName: "b", Organization: "o"}, Signer: intermediate})
			if err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(request)
			if err != nil {
				t.Fatal(err)
			}
			parent := ceremony.Parent{Chain: []*x509.Certificate{made.Root}, Signer: root.Signer}
			if _, _, err := ceremony.SignRequest(ceremony.SignRequestConfig{Request: content, Parent: parent, NotBefore: time.Now()}); err != nil {
				t.Error(err)
			}
			plan := ceremony.Plan{
				Dir: filepath.Join(t.TempDir(), "plan"), Parent: &parent, Now: time.Now(),
				Intermediates: []ceremony.PlannedIntermediate{{ID: "c", PlannedCertificate: ceremony.PlannedCertificate{Subject: ceremony.Subject{CommonName: "c", Organization: "o"}, Signer: intermediate}}},
			}
			if transcript, err := ceremony.Run(plan); err != nil || !strings.Contains(transcript, "an ECDSA key on P-256, it was there before") {
				t.Errorf("%s: %v", transcript, err)
			}
			if err := ring.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if got := keyring.Kinds(); !slices.Equal(got, []string{"file", "pkcs11", "awskms", "gcpkms", "azurekms", "hashivault", "openbao"}) {
		t.Errorf("this binary was built with %q", got)
	}
}
