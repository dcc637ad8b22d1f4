// SPDX-License-Identifier: Apache-2.0

package hashivault_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sigstore "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/hashivault"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/kmstest"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// clear removes Vault's variables from the environment.
func clear(t *testing.T) {
	t.Helper()
	for _, variable := range []string{"VAULT_ADDR", "BAO_ADDR", "VAULT_TOKEN", "BAO_TOKEN", "VAULT_CACERT", "VAULT_SKIP_VERIFY", "VAULT_AGENT_ADDR"} {
		t.Setenv(variable, "")
	}
}

// TestSettings checks that all mistakes are reported at once, each with its key.
func TestSettings(t *testing.T) {
	clear(t)
	long := write(t, strings.Repeat("t", 17<<10))
	for _, c := range []struct {
		name string
		cfg  hashivault.Config
		want []string
	}{
		{"nothing", hashivault.Config{}, []string{"uri", "version", "address", "token_file"}},
		{"foreign URI", hashivault.Config{URI: "awskms:///ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "t")}, []string{"uri"}},
		{"addresses", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "vault.example:8200", TokenFile: write(t, "t")}, []string{"address"}},
		{"password in address", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://user:secret@vault.example", TokenFile: write(t, "t")}, []string{"address"}},
		{"http", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "http://10.0.0.1:8200", TokenFile: write(t, "t")}, []string{"address"}},
		{"socket", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "unix:///run/vault.sock", TokenFile: write(t, "t")}, []string{"address"}},
		{"mounts", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "t"), Mount: "a/../sys"}, []string{"mount"}},
		{"slash", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "t"), Mount: "transit/"}, []string{"mount"}},
		{"empty token", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "\n")}, []string{"token_file"}},
		{"two tokens", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: write(t, "a\nb\n")}, []string{"token_file"}},
		{"large token", hashivault.Config{URI: "hashivault://ca", Version: 1, Address: "https://vault.example", TokenFile: long}, []string{"token_file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := hashivault.Open(t.Context(), c.cfg)
			var got []string
			for _, mistake := range keypath.All(err) {
				got = append(got, strings.Join(mistake.Path, ": "))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s\n%v", diff, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	clear(t)
	vault := kmstest.NewVault(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	open := opener(hashivault.Config{URI: "hashivault://ca", Version: vault.Add("ca", key)})
	kmstest.SelfTest(t, key.Public(), open, "address: no address is given", "VAULT_ADDR or BAO_ADDR", "token_file: no token is given", "VAULT_TOKEN or BAO_TOKEN")
	t.Setenv("BAO_ADDR", vault.URL())
	t.Setenv("BAO_TOKEN", vault.Token())
	kmstest.SelfTest(t, key.Public(), open)
	t.Setenv("VAULT_TOKEN", "hvs.another")
	kmstest.SelfTest(t, key.Public(), open, "the token of VAULT_TOKEN")
	t.Setenv("VAULT_ADDR", "http://vault.example")
	kmstest.SelfTest(t, key.Public(), open, "address: VAULT_ADDR is http://vault.example, and the token would go in clear")
}

// TestReplacedToken checks that a token may be replaced in its file, also after it has expired.
func TestReplacedToken(t *testing.T) {
	t.Parallel()
	vault := kmstest.NewVault(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	cfg := hashivault.Config{URI: "hashivault://ca", Version: vault.Add("ca", key), Address: vault.URL(), TokenFile: write(t, vault.Token())}
	s, err := signer.New(signer.Config{Name: "test", Kind: "hashivault", Public: key.Public(), Open: opener(cfg)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for range 3 {
		if _, err := s.Sign(t.Context(), []byte("message")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.TokenFile, []byte(vault.ReplaceToken()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLS(t *testing.T) {
	clear(t)
	vault := kmstest.NewVault(t)
	server := httptest.NewTLSServer(vault)
	t.Cleanup(server.Close)
	key := kmstest.ECDSA(t, elliptic.P256())
	open := opener(hashivault.Config{URI: "hashivault://ca", Version: vault.Add("ca", key), Address: server.URL, TokenFile: write(t, vault.Token())})
	kmstest.SelfTest(t, key.Public(), open, "the certificate of Vault at "+server.URL+" is not trusted", "VAULT_CACERT")
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	kmstest.SelfTest(t, key.Public(), open, "address: VAULT_SKIP_VERIFY is set", "unset it")
	t.Setenv("VAULT_SKIP_VERIFY", "")
	t.Setenv("VAULT_CACERT", write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))))
	kmstest.SelfTest(t, key.Public(), open)
	t.Setenv("VAULT_CACERT", "/none")
	kmstest.SelfTest(t, key.Public(), open, "address: ", "VAULT_", "/none")
}

// TestRedirect checks that the token is sent nowhere else in clear.
func TestRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("somebody else gets the token %q", r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	open := opener(hashivault.Config{URI: "hashivault://ca", Version: 1, Address: server.URL, TokenFile: write(t, "t")})
	kmstest.SelfTest(t, kmstest.ECDSA(t, elliptic.P256()).Public(), open, "307 Temporary Redirect", "kms.uri")
}

// TestSigstoreAgrees checks that sigstore's client accepts the tests' Vault, and that both
// clients send the same requests.
func TestSigstoreAgrees(t *testing.T) {
	t.Parallel()
	vault := kmstest.NewVault(t)
	for name, key := range map[string]crypto.Signer{"ecdsa": kmstest.ECDSA(t, elliptic.P256()), "rsa": kmstest.RSA(t, 2048)} {
		vault.Add(name, key)
		auth := options.WithRPCAuthOpts(options.RPCAuth{Address: vault.URL(), Token: vault.Token(), Path: "transit"})
		client, err := sigstore.LoadSignerVerifier("hashivault://"+name, crypto.SHA256, auth, options.WithKeyVersion("1"))
		if err != nil {
			t.Fatal(err)
		}
		algorithm, err := certs.SignatureAlgorithmFor(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("message"))
		signature, err := client.SignMessage(nil, options.WithDigest(digest[:]), options.WithCryptoSignerOpts(crypto.SHA256))
		if err != nil {
			t.Fatal(err)
		}
		if err := algorithm.Verify(key.Public(), []byte("message"), signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRemedies checks how answers are classified.
func TestRemedies(t *testing.T) {
	t.Parallel()
	vault := kmstest.NewVault(t)
	key := kmstest.ECDSA(t, elliptic.P256())
	open := opener(hashivault.Config{URI: "hashivault://ca", Version: vault.Add("ca", key), Address: vault.URL(), TokenFile: write(t, vault.Token())})
	for status, want := range map[int]signer.Failure{
		http.StatusBadRequest:          {},
		http.StatusForbidden:           {Remedy: signer.Reopen},
		http.StatusNotFound:            {},
		http.StatusPreconditionFailed:  {Remedy: signer.Retry}, // a standby that lags behind
		http.StatusTooManyRequests:     {Remedy: signer.Retry, RetryAfter: 3 * time.Second},
		http.StatusInternalServerError: {Remedy: signer.Retry, RetryAfter: 3 * time.Second},
		http.StatusServiceUnavailable:  {Remedy: signer.Retry, RetryAfter: 3 * time.Second}, // sealed
	} {
		mend := vault.Begin(kmstest.Trouble{Status: status, RetryAfter: 3})
		_, err := open(t.Context())
		mend()
		var got signer.Failure
		if f := (*signer.Failure)(nil); errors.As(err, &f) {
			got = signer.Failure{Remedy: f.Remedy, RetryAfter: f.RetryAfter}
		}
		if err == nil || got != want {
			t.Errorf("%d: got %+v, want %+v: %v", status, got, want, err)
		}
	}
}
