// SPDX-License-Identifier: Apache-2.0

package azurekms_test

import (
	"context"
	"crypto/elliptic"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/azurekms"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

func TestMain(m *testing.M) { kmstest.Main(m) }

func opener(uri string) func(context.Context) (signer.Key, error) {
	return func(ctx context.Context) (signer.Key, error) { return azurekms.Open(ctx, azurekms.Config{URI: uri}) }
}

func TestConformance(t *testing.T) {
	internet := kmstest.NewInternet(t)
	azure := kmstest.NewAzure(internet, "mayfly.vault.azure.net")
	azure.Setenv(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	uri := azure.Add("ca", key)
	rotated := azure.Add("ca", kmstest.ECDSA(t, elliptic.P256()))
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: opener(uri), Secrets: azure.Secrets(),
		Faults: []signertest.Fault{
			internet.Down("Azure Key Vault is not reached", "connection refused", "kms.uri"),
			azure.Fault("slow", kmstest.Trouble{Hangs: true}, true, "there was no answer in time"),
			azure.Fault("forbidden", kmstest.Trouble{Status: 403}, false, uri+" (kms.uri)", "Forbidden", "Key Vault Crypto User"),
			azure.Fault("overloaded", kmstest.Trouble{Status: 429, RetryAfter: 1}, true, "Azure Key Vault fails", "429", uri+" (kms.uri)"),
			azure.Fault("broken", kmstest.Trouble{Status: 500}, true, "Azure Key Vault fails", "500"),
			azure.Fault("lies", kmstest.Trouble{Lies: true}, false, "it signed", "does not verify"),
		},
		Mistakes: []signertest.Mistake{
			{Name: "unknown key", Open: opener(strings.Replace(uri, "/ca/", "/none/", 1)), Wants: []string{"Azure Key Vault knows no key", "KeyNotFound", "kms.uri"}},
			{Name: "other version", Open: opener(rotated), Wants: []string{"it is not the key of the authority's certificate"}},
			{Name: "other type", Open: opener(azure.Add("rsa", kmstest.RSA(t, 2048))), Wants: []string{"an RSA key of 2048 bits", "an ECDSA key on P-256"}},
			{Name: "no version", Open: opener("azurekms://mayfly.vault.azure.net/ca"), Wants: []string{"uri: ", "names no version", "add /VERSION"}},
			{Name: "empty version", Open: opener("azurekms://mayfly.vault.azure.net/ca/"), Wants: []string{"uri: ", "names no version", "add /VERSION"}},
			{Name: "vault without domain", Open: opener("azurekms://mayfly/ca/0"), Wants: []string{"uri: ", `names "mayfly"`, "NAME.vault.azure.net"}},
			{Name: "malformed URI", Open: opener("azurekms://ca"), Wants: []string{`uri: "azurekms://ca" should be azurekms://NAME.vault.azure.net/KEY/VERSION`}},
		},
	})
}

func TestOtherKeys(t *testing.T) {
	azure := kmstest.NewAzure(kmstest.NewInternet(t), "mayfly.managedhsm.azure.net")
	azure.Setenv(t)
	p384, p521, rsa2048, rsa3072 := kmstest.ECDSA(t, elliptic.P384()), kmstest.ECDSA(t, elliptic.P521()), kmstest.RSA(t, 2048), kmstest.RSA(t, 3072)
	kmstest.SelfTest(t, p384.Public(), opener(azure.Add("p384", p384)))
	kmstest.SelfTest(t, p521.Public(), opener(azure.Add("p521", p521)))
	kmstest.SelfTest(t, rsa2048.Public(), opener(azure.Add("rsa2048", rsa2048)))
	kmstest.SelfTest(t, rsa3072.Public(), opener(azure.Add("rsa3072", rsa3072)), "uri: ", "an RSA key of 3072 bits", "SHA-384", "SHA-256")
}

func TestLogin(t *testing.T) {
	azure := kmstest.NewAzure(kmstest.NewInternet(t), "mayfly.vault.azure.net")
	azure.Setenv(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	open := opener(azure.Add("ca", key))
	for _, c := range []struct {
		name, variable, value string
		wants                 []string
	}{
		{"no secret", "AZURE_CLIENT_SECRET", "", []string{"does not accept the credentials", "AZURE_CLIENT_SECRET"}},
		{"wrong secret", "AZURE_CLIENT_SECRET", "another", []string{"does not accept the credentials", "AADSTS7000215", "AZURE_CLIENT_SECRET"}},
		{"wrong tenant", "AZURE_TENANT_ID", "another", []string{"nobody vouches for us", "AZURE_TENANT_ID"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			kmstest.SelfTest(t, key.Public(), open, c.wants...)
		})
	}
	// Azure's client retries the login by itself, and only the context stops it.
	mend := azure.Login.Begin(kmstest.Trouble{Status: 503})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := open(ctx)
	if !signer.IsTransient(err) {
		t.Errorf("an outage of the login is permanent: %v", err)
	}
	mend()
	kmstest.SelfTest(t, key.Public(), open)
}
