// SPDX-License-Identifier: Apache-2.0

package hashivault_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/hashivault"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// write puts content in a new file and returns its path.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func opener(cfg hashivault.Config) func(context.Context) (signer.Key, error) {
	return func(ctx context.Context) (signer.Key, error) { return hashivault.Open(ctx, cfg) }
}

func TestConformance(t *testing.T) {
	t.Parallel()
	vault := kmstest.NewVault(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	vault.Add("ca", kmstest.ECDSA(t, elliptic.P256()))
	version := vault.Add("ca", key)
	vault.Add("ca", kmstest.ECDSA(t, elliptic.P256())) // a rotation, which changes nothing
	vault.Add("rsa", kmstest.RSA(t, 2048))
	right := hashivault.Config{URI: "hashivault://ca", Version: version, Address: vault.URL(), TokenFile: write(t, vault.Token()+"\n")}
	wrong := func(change func(*hashivault.Config)) func(context.Context) (signer.Key, error) {
		cfg := right
		change(&cfg)
		return opener(cfg)
	}
	wrongToken := write(t, "hvs.another")
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: opener(right), Secrets: []string{vault.Token(), "hvs.another"},
		Faults: []signertest.Fault{
			vault.Down("Vault at "+vault.URL(), "is not reached", "connection refused", "kms.address"),
			vault.Fault("slow", kmstest.Trouble{Hangs: true}, true, "there was no answer in time"),
			vault.Fault("forbidden", kmstest.Trouble{Status: 403}, true, right.TokenFile, "kms.token_file", "update on transit/sign/ca/*", "read on transit/keys/ca"),
			vault.Fault("overloaded", kmstest.Trouble{Status: 429, RetryAfter: 1}, true, " fails: ", "kms.uri"),
			vault.Fault("broken", kmstest.Trouble{Status: 500}, true, " fails: ", "Code: 500"),
			vault.Fault("sealed", kmstest.Trouble{Status: 503}, true, " fails: ", "Code: 503"),
			vault.Fault("lies", kmstest.Trouble{Lies: true}, false, "it signed", "does not verify"),
		},
		Mistakes: []signertest.Mistake{
			{Name: "unknown key", Open: wrong(func(c *hashivault.Config) { c.URI = "openbao://none" }), Wants: []string{"knows no key openbao://none", "kms.uri", "kms.mount"}},
			{Name: "wrong mount", Open: wrong(func(c *hashivault.Config) { c.Mount = "pki/ca" }), Wants: []string{"kms.mount", `"pki/ca"`}},
			{Name: "other version", Open: wrong(func(c *hashivault.Config) { c.Version = 1 }), Wants: []string{"it is not the key of the authority's certificate"}},
			{Name: "unknown version", Open: wrong(func(c *hashivault.Config) { c.Version = 7 }), Wants: []string{"version: the key has no version 7; it has 1, 2, 3"}},
			{Name: "no version", Open: wrong(func(c *hashivault.Config) { c.Version = 0 }), Wants: []string{"version: no version is given", "from 1"}},
			{Name: "other type", Open: wrong(func(c *hashivault.Config) { c.URI, c.Version = "hashivault://rsa", 1 }), Wants: []string{"an RSA key of 2048 bits", "an ECDSA key on P-256"}},
			{Name: "malformed URI", Open: wrong(func(c *hashivault.Config) { c.URI = "hashivault://a/b" }), Wants: []string{`uri: "hashivault://a/b" should be hashivault://NAME`}},
			{Name: "wrong token", Open: wrong(func(c *hashivault.Config) { c.TokenFile = wrongToken }), Wants: []string{"invalid token", wrongToken, "kms.token_file"}},
			{Name: "no token file", Open: wrong(func(c *hashivault.Config) { c.TokenFile += ".none" }), Wants: []string{"token_file: ", "no such file"}},
			{Name: "plain http", Open: wrong(func(c *hashivault.Config) { c.Address = "http://vault.example:8200" }), Wants: []string{"address: ", "the token would go in clear", "https"}},
			{Name: "nobody there", Open: wrong(func(c *hashivault.Config) { c.Address = "https://127.0.0.1:1" }), Wants: []string{"is not reached", "https://127.0.0.1:1"}},
			{Name: "no TLS there", Open: wrong(func(c *hashivault.Config) { c.Address = "https" + vault.URL()[len("http"):] }), Wants: []string{"server gave HTTP response to HTTPS client"}},
		},
	})
}

func TestOtherKeys(t *testing.T) {
	t.Parallel()
	vault := kmstest.NewVault(t)
	token := write(t, vault.Token())
	for name, key := range map[string]crypto.Signer{
		"p384": kmstest.ECDSA(t, elliptic.P384()), "p521": kmstest.ECDSA(t, elliptic.P521()),
		"rsa2048": kmstest.RSA(t, 2048), "rsa3072": kmstest.RSA(t, 3072),
	} {
		cfg := hashivault.Config{URI: "openbao://" + name, Version: vault.Add(name, key), Address: vault.URL(), TokenFile: token, Mount: "transit"}
		kmstest.SelfTest(t, key.Public(), opener(cfg))
	}
}
