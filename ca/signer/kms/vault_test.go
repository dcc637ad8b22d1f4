// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"context"
	"crypto"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/hashivault"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/vault"
)

// write puts content in a new file and returns its path.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// opener opens keys at a Vault. It takes the URI with ? and as many digits as the version's number.
func opener(cfg hashivault.Config) openFunc {
	return func(ctx context.Context, uri string) (signer.Key, error) {
		name, version, _ := strings.Cut(uri, "?")
		named := cfg
		named.URI, named.Version = name, uint64(len(version))
		return hashivault.Open(ctx, named)
	}
}

func TestVault(t *testing.T) {
	t.Parallel()
	v := vault.New(t)
	key, rsa := ecdsaKey(t, 256), rsaKey(t, 2048)
	for name, versions := range map[string][]crypto.Signer{"ca": {ecdsaKey(t, 256), key, ecdsaKey(t, 256)}, "p384": {ecdsaKey(t, 384)}, "p521": {ecdsaKey(t, 521)}, "rsa": {rsa}} {
		for _, key := range versions {
			v.Add(name, key)
		}
	}
	right := hashivault.Config{Address: v.URL(), TokenFile: write(t, v.Token()+"\n")}
	conform(t, place{
		open: opener(right), uri: "hashivault://ca?11", key: key, instead: v.Instead, down: func() func() { v.Stop(); return v.Start }, secrets: []string{v.Token(), "hvs.another"},
		others: []string{"openbao://p384?1", "hashivault://p521?1", "openbao://rsa?1"},
		mistakes: map[string]string{
			"openbao://none?1":        "look at kms.uri and kms.mount",
			"hashivault://ca?1":       "it is not the key of the authority's certificate",
			"hashivault://ca?1111111": "version: the key has no version 7",
			"hashivault://ca":         "version: no version is given",
			"hashivault://rsa?1":      "an RSA key of 2048 bits",
			"hashivault://a/b?1":      "should be hashivault://NAME",
		},
	})
	for name, change := range map[string]func(*hashivault.Config){
		"does not let mayfly use the key": func(c *hashivault.Config) { c.Mount = "pki/ca" },
		"invalid token":                   func(c *hashivault.Config) { c.TokenFile = write(t, "hvs.another") },
		"is not reached":                  func(c *hashivault.Config) { c.Address = "https://127.0.0.1:1" },
		"HTTP response to HTTPS client":   func(c *hashivault.Config) { c.Address = "https" + v.URL()[len("http"):] },
	} {
		cfg := right
		change(&cfg)
		selfTest(t, key.Public(), opener(cfg), "hashivault://ca?11", name)
	}
}

// All mistakes are reported at once, each with its key.
func TestVaultSettings(t *testing.T) {
	t.Parallel()
	right := hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "t")}
	for name, test := range map[string]struct {
		change func(*hashivault.Config)
		want   []string
	}{
		"nothing":             {func(c *hashivault.Config) { *c = hashivault.Config{} }, []string{"uri", "version", "address", "token_file"}},
		"foreign URI":         {func(c *hashivault.Config) { c.URI = "awskms:///ca" }, []string{"uri"}},
		"no scheme":           {func(c *hashivault.Config) { c.Address = "vault.example:8200" }, []string{"address"}},
		"password in address": {func(c *hashivault.Config) { c.Address = "https://user:secret@vault.example" }, []string{"address"}},
		"http":                {func(c *hashivault.Config) { c.Address = "http://10.0.0.1:8200" }, []string{"address"}},
		"socket":              {func(c *hashivault.Config) { c.Address = "unix:///run/vault.sock" }, []string{"address"}},
		"mount that leads up": {func(c *hashivault.Config) { c.Mount = "a/../sys" }, []string{"mount"}},
		"slash":               {func(c *hashivault.Config) { c.Mount = "transit/" }, []string{"mount"}},
		"empty token":         {func(c *hashivault.Config) { c.TokenFile = write(t, "\n") }, []string{"token_file"}},
		"two tokens":          {func(c *hashivault.Config) { c.TokenFile = write(t, "a\nb\n") }, []string{"token_file"}},
		"large token":         {func(c *hashivault.Config) { c.TokenFile = write(t, strings.Repeat("t", 17<<10)) }, []string{"token_file"}},
		"no token file":       {func(c *hashivault.Config) { c.TokenFile += ".none" }, []string{"token_file"}},
	} {
		cfg := right
		test.change(&cfg)
		_, err := hashivault.Open(t.Context(), cfg)
		var got []string
		for _, mistake := range keypath.All(err) {
			got = append(got, strings.Join(mistake.Path, ": "))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: keys (-want +got):\n%s\n%v", name, diff, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

// Only the certificates of ca_file verify the server, whatever the environment names.
func TestVaultUnderPrivateCA(t *testing.T) {
	v := vault.New(t)
	server := httptest.NewTLSServer(v)
	t.Cleanup(server.Close)
	key := ecdsaKey(t, 256)
	v.Add("ca", key)
	cfg := hashivault.Config{Address: server.URL, TokenFile: write(t, v.Token()), CAFile: write(t, string(pem.Encode("CERTIFICATE", server.Certificate().Raw)))}
	open := func(want string) {
		t.Helper()
		selfTest(t, key.Public(), opener(cfg), "hashivault://ca?1", want)
	}
	t.Setenv("VAULT_CACERT", os.Getenv("SSL_CERT_FILE"))
	open("")
	cfg.CAFile = os.Getenv("SSL_CERT_FILE")
	open("certificate")
	cfg.CAFile = write(t, "none")
	open("ca_file: ")
}

func TestVaultEnvironment(t *testing.T) {
	v := vault.New(t)
	server := httptest.NewTLSServer(v)
	t.Cleanup(server.Close)
	key := ecdsaKey(t, 256)
	v.Add("ca", key)
	open := func(want string) {
		t.Helper()
		selfTest(t, key.Public(), opener(hashivault.Config{}), "hashivault://ca?1", want)
	}
	t.Setenv("BAO_ADDR", v.URL())
	t.Setenv("BAO_TOKEN", v.Token())
	open("")
	t.Setenv("VAULT_TOKEN", "hvs.another")
	open("the token of VAULT_TOKEN")
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("VAULT_ADDR", server.URL)
	open("certificate")
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	open("address: VAULT_SKIP_VERIFY is set")
	t.Setenv("VAULT_SKIP_VERIFY", "")
	t.Setenv("VAULT_CACERT", write(t, string(pem.Encode("CERTIFICATE", server.Certificate().Raw))))
	open("")
	t.Setenv("VAULT_CACERT", "/none")
	open("address: ")
}

// A token may be replaced in its file, also after it has expired.
func TestVaultReplacedToken(t *testing.T) {
	t.Parallel()
	v := vault.New(t)
	key := ecdsaKey(t, 256)
	v.Add("ca", key)
	file := write(t, v.Token())
	open := opener(hashivault.Config{Address: v.URL(), TokenFile: file})
	s, err := signer.New(signer.Config{Name: "test", Kind: "hashivault", Public: key.Public(), Open: func(ctx context.Context) (signer.Key, error) { return open(ctx, "hashivault://ca?1") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for range 3 {
		if _, err := s.Sign(t.Context(), []byte("message")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(v.ReplaceToken()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Over http, no other host gets the token.
func TestVaultRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host gets the token %q", r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	selfTest(t, ecdsaKey(t, 256).Public(), opener(hashivault.Config{Address: server.URL, TokenFile: write(t, "t")}), "hashivault://ca?1", "307 Temporary Redirect")
}
