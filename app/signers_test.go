// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo && hashivault

package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/vault"
)

// softHSM returns the path of SoftHSM2's module.
func softHSM(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("MAYFLY_SOFTHSM") == "required" {
		t.Fatal("SoftHSM2 is not installed")
	}
	t.Skip("SoftHSM2 is not installed")
	return ""
}

// newToken creates a token of SoftHSM2 and returns a signer in it. The key does not exist yet.
func newToken(t *testing.T) config.Signer {
	t.Helper()
	module, dir := softHSM(t), t.TempDir()
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "tokens"), 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nlog.level = ERROR\n"), 0o600),
		os.WriteFile(pin, []byte("7391-pin\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "mayfly", "--pin", "7391-pin", "--so-pin", "so-7391-pin").CombinedOutput()
	if err != nil {
		t.Fatalf("making a token: %v: %s", err, out)
	}
	return config.Signer{PKCS11: &signer.PKCS11{Module: module, Token: "mayfly", Label: "next", PINFile: pin}}
}

// addElsewhere adds an authority. named opens its key.
func (r *rotationWorld) addElsewhere(named config.Signer) string {
	r.t.Helper()
	ring := keyring.New(keyring.Config{Modules: r.modules})
	parent, _, err := ring.Open(r.t.Context(), config.Signer{File: &config.SignerFile{Key: filepath.Join(filepath.Dir(r.set), "root", "key.pem"), PasswordFile: filepath.Join(filepath.Dir(r.set), "root", "pass")}})
	r.must(err)
	key, made, err := ring.Make(r.t.Context(), named, "ecdsa-p256")
	r.must(err)
	result, err := ceremony.NewAuthority(ceremony.AuthorityConfig{
		Dir: filepath.Join(filepath.Dir(r.set), "next"),
		PlannedCertificate: ceremony.PlannedCertificate{
			Subject: ceremony.Subject{CommonName: "next intermediate", Organization: "mayfly demo"}, NotBefore: r.now(),
			Signer: &ceremony.ExternalKey{Signer: signer.Crypto(r.t.Context(), key), Made: made, Block: named.Flow},
		},
		Parent: ceremony.Parent{Chain: []*x509.Certificate{r.Root}, Signer: signer.Crypto(r.t.Context(), parent)},
	})
	r.must(err)
	r.must(key.Close())
	_, err = r.editor().Add(r.t.Context(), config.CASetAuthority{ID: "next", Chain: result.ChainFile, Signer: named}, nil)
	r.must(err)
	return "next"
}

// The keys move from files into a hardware module under load, and no request fails.
func TestSignerRotationFromFileToPKCS11(t *testing.T) {
	named := newToken(t)
	newRotationWorld(t).rotateUnderLoad(func(r *rotationWorld) string { return r.addElsewhere(named) })
}

// vaultWorld is a server with its one active key at a Vault.
type vaultWorld struct {
	*rotationWorld
	vault *vault.Vault
}

func newVaultWorld(t *testing.T) *vaultWorld {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w := &vaultWorld{rotationWorld: newRotationWorld(t), vault: vault.New(t)}
	w.must(err)
	version := w.vault.Add("mayfly-secret-name", key)
	token := filepath.Join(t.TempDir(), "token")
	w.must(os.WriteFile(token, []byte(w.vault.Token()+"\n"), 0o600))
	named := config.Signer{KMS: &signer.KMS{URI: "hashivault://mayfly-secret-name", Version: uint64(version), Address: w.vault.URL(), TokenFile: token}}
	w.addElsewhere(named)
	editor := w.editor()
	editor.Force = true
	_, err = editor.Activate(t.Context(), "next", w.now().Add(time.Second))
	w.must(err)
	w.distribute(3)
	w.activated("next")
	return w
}

// activated waits until the authority id signs everywhere.
func (w *vaultWorld) activated(id string) {
	for _, rep := range w.replicas {
		await(w.t, id+" to sign", func() bool {
			return rep.metric(w.t, fmt.Sprintf("mayfly_ca_authority_state{authority=%q,state=\"active\"}", id)) == 1
		})
	}
}

// request requests one certificate.
func (w *vaultWorld) request() error {
	_, err := w.replicas[0].request(w.t.Context(), nil)
	return err
}

// Whatever error a service returns, the client is told to retry, the operator sees the cause, and
// no process needs a restart.
func TestSignerFaultsAsClientsSeeThem(t *testing.T) {
	w := newVaultWorld(t)
	down := func() (mend func()) { w.vault.Stop(); return w.vault.Start }
	status := func(status int) func() func() {
		return func() func() {
			return w.vault.Instead(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "{}", status) })
		}
	}
	hang := func() (mend func()) {
		return w.vault.Instead(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not see that the client goes
			<-r.Context().Done()
		})
	}
	for _, fault := range []struct {
		name, operator string
		begin          func() (mend func())
	}{
		{"down", "connection refused", down},
		{"slow", "no answer in time", hang},
		{"403", "kms.token_file", status(http.StatusForbidden)},
		{"429", "429", status(http.StatusTooManyRequests)},
		{"500", "500", status(http.StatusInternalServerError)},
	} {
		if err := w.request(); err != nil {
			t.Fatalf("before %s: %v", fault.name, err)
		}
		mend := fault.begin()
		err := w.request()
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Reason != "SIGNER_UNAVAILABLE" {
			t.Fatalf("%s: got error %v", fault.name, err)
		}
		for _, detail := range []string{"secret-name", "hashivault", "kms", w.vault.Token(), w.vault.URL(), "403", "429"} {
			if strings.Contains(refused.Message, detail) { // the request's ID may contain any number
				t.Errorf("%s: the client learns of %q: %v", fault.name, detail, err)
			}
		}
		signertest.Await(t, fault.name+": readiness that says why", func() error {
			_ = w.request()
			response, err := http.Get(w.replicas[0].ops + "/readyz?verbose")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err == nil && (response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), fault.operator)) {
				err = fmt.Errorf("%s %s", response.Status, body)
			}
			return err
		})
		mend()
		signertest.Await(t, fault.name+": certificates, once it is mended", w.request)
	}
}

// A service is killed and restarted under load. Requests are refused only until it is back.
func TestSignerServiceKilledUnderLoad(t *testing.T) {
	w := newVaultWorld(t)
	const before, down, after = 0, 1, 2
	var issued, refused [3]atomic.Int64
	var phase atomic.Int32
	ctx, end := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer end()
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				began := phase.Load()
				err := w.request()
				var e *client.Error
				switch {
				case phase.Load() != began: // it may have met either state
				case err == nil:
					issued[began].Add(1)
				case errors.As(err, &e) && e.Reason == "SIGNER_UNAVAILABLE":
					refused[began].Add(1)
				default:
					t.Errorf("a request failed otherwise: %v", err)
				}
			}
		})
	}
	reaches := func(what string, counter *atomic.Int64, n int64) {
		await(t, what, func() bool { return counter.Load() >= n })
	}
	reaches("certificates before", &issued[before], 200)
	phase.Store(down)
	w.vault.Stop()
	reaches("refusals", &refused[down], 200)
	n := issued[down].Load() // issued while the service stopped
	w.vault.Start()
	reaches("certificates again", &issued[down], n+1)
	phase.Store(after)
	reaches("certificates after", &issued[after], 200)
	if refused[before].Load() != 0 || refused[after].Load() != 0 {
		t.Errorf("%d requests were refused before, %d after", refused[before].Load(), refused[after].Load())
	}
}

// A set that replaces a service that is down is put in force meanwhile: by a server that runs, and
// by one that was started without the service.
func TestSignerWayOut(t *testing.T) {
	w := newVaultWorld(t)
	w.vault.Stop()
	w.start(1, 0, atomicRename)
	w.add("away")
	editor := w.editor()
	editor.Force = true
	_, err := editor.Activate(t.Context(), "away", w.now().Add(2*time.Second))
	w.must(err)
	w.distribute(5)
	w.activated("away")
	for i, rep := range w.replicas {
		if _, err := rep.request(t.Context(), nil); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
}
