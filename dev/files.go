// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/dev/rekor"
	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// The files in a world's directory, beside the marker and the lock.
const (
	caFolder     = "ca"
	ctFolder     = "ctlog"
	ctGuard      = "ctlog-guard.json"
	ctKey        = "ctlog.key"
	ctPublicKey  = "ctlog.pub" // for settings without the log itself
	rekorFolder  = "rekor"
	rekorKey     = "rekor.key"
	tsaChain     = "tsa-chain.pem"
	tsaKey       = "tsa.key"
	tufFolder    = "tuf"
	tufKey       = "tuf.key"
	providerKey  = "oidc.key"
	issuersFile  = "issuers.yaml"
	settingsFile = "mayfly.yaml"
)

// The name and the origin of the embedded log. The origin never changes, but the address may.
const (
	ctName   = "dev"
	ctOrigin = "mayfly.invalid/ctlog/" + ctName
)

// settingsYAML is a template for settingsFile.
//
//go:embed settings.yaml
var settingsYAML string

// content is what was created in a directory, or found in it.
type content struct {
	providerKey    *rsa.PrivateKey
	tufKey         *ecdsa.PrivateKey
	tsa            *tsa.Authority
	rekor          *rekor.Log
	chain          string // the path of the CA's chain, relative to the directory
	authority, log json.RawMessage
}

func (w *World) path(name string) string { return filepath.Join(w.dir, name) }

func newProviderKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// makeServices creates the missing files of the services, except the provider's key.
func (w *World) makeServices(ctx context.Context) error {
	var errs [3]error
	var keys [3]*ecdsa.PrivateKey
	for i, name := range []string{tsaKey, rekorKey, tufKey} {
		keys[i], errs[i] = loadOrMakeKey(w.path(name), newKey)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	w.tufKey = keys[2]
	if err := w.makeCA(); err != nil {
		return fmt.Errorf("making the CA: %w", err)
	}
	if _, err := os.Stat(w.path(ctFolder)); errors.Is(err, fs.ErrNotExist) {
		cfg := embedded.Config{Name: ctName, Dir: w.path(ctFolder), Guard: w.path(ctGuard), Key: w.path(ctKey), Origin: ctOrigin}
		created, err := embedded.Init(ctx, cfg)
		if err == nil {
			err = os.WriteFile(w.path(ctPublicKey), created.PublicKey, 0o600)
		}
		if err != nil {
			return fmt.Errorf("making the Certificate Transparency log: %w", err)
		}
	}
	if err := w.openRekor(ctx, keys[1]); err != nil {
		return err
	}
	return w.makeTSA(keys[0])
}

func (w *World) makeCA() error {
	chains, err := filepath.Glob(filepath.Join(w.path(caFolder), "*", "chain.pem"))
	if err != nil {
		return err
	}
	if len(chains) == 0 {
		result, err := ceremony.Init(ceremony.InitConfig{
			Dir: w.path(caFolder), Organization: "mayfly development", Algorithm: "ecdsa-p256", Now: time.Now,
		})
		if err != nil {
			return err
		}
		chains = []string{result.ChainFile}
	}
	w.chain, err = filepath.Rel(w.dir, chains[len(chains)-1])
	return err
}

// openRekor also creates the log's entry in the trusted root.
func (w *World) openRekor(ctx context.Context, key *ecdsa.PrivateKey) error {
	u, err := url.Parse(w.url)
	if err != nil {
		return err
	}
	if w.rekor, err = rekor.Open(ctx, rekor.Config{Dir: w.path(rekorFolder), Origin: u.Hostname(), Key: key}); err != nil {
		return err
	}
	w.undo = append(w.undo, w.rekor.Close)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // before the first entry of every world
	entry, err := trustroot.NewTransparencyLog(w.RekorURL(), spki, begin)
	if err != nil {
		return err
	}
	w.log, err = trustroot.Marshal(entry)
	return err
}

// makeTSA also creates the timestamp authority's entry in the trusted root.
func (w *World) makeTSA(key *ecdsa.PrivateKey) error {
	file := w.path(tsaChain)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		chain, err := tsa.NewChain(key, time.Now())
		if err != nil {
			return err
		}
		if err := writePEM(file, "CERTIFICATE", chain...); err != nil {
			return err
		}
	}
	text, err := files.Read(file, maxFile)
	if err != nil {
		return err
	}
	chain, err := pem.Certificates(text)
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	if w.tsa, err = tsa.New(chain, key, time.Now); err != nil {
		return err
	}
	w.authority, err = trustroot.Marshal(trustroot.NewCertificateAuthority(w.TimestampURL(), chain))
	return err
}

// writeSettings writes the files that `mayfly serve` would read.
func (w *World) writeSettings(ctx context.Context) error {
	settings, err := render(settingsYAML, map[string]any{
		"listen": w.listener.Addr(), "url": w.url, "host": w.host, "loopback": httputil.IsLoopback(w.host), "chain": w.chain,
		"ct_fails": w.fails(failCT), "authority_fails": w.fails(failAuthority),
		"timestamp_authority": string(w.authority), "rekor": string(w.log),
		"lifetime": w.config.CertificateLifetime, "level": w.config.LogLevel,
	})
	if err == nil {
		err = w.write(settingsFile, settings)
	}
	if err != nil {
		return err
	}
	return w.writeIssuers(ctx)
}

// loadOrMakeKey returns the key of type K in a file, PKCS#8 PEM. It creates the key if the file
// does not exist.
func loadOrMakeKey[K crypto.Signer](file string, generate func() (K, error)) (key K, err error) {
	text, err := files.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = generate(); err != nil {
			return key, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return key, err
		}
		return key, writePEM(file, "PRIVATE KEY", der)
	}
	if err != nil {
		return key, err
	}
	if der, err := pem.One(text, "PRIVATE KEY"); err == nil {
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if key, ok := parsed.(K); ok && err == nil {
			return key, nil
		}
	}
	return key, fmt.Errorf("%s is not the key that mayfly dev has written there: delete the directory of the development world and start again", file)
}

func writePEM(file, kind string, ders ...[]byte) error {
	var text []byte
	for _, der := range ders {
		text = append(text, pem.Encode(kind, der)...)
	}
	return os.WriteFile(file, text, 0o600)
}
