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
	"errors"
	"fmt"
	"io/fs"
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

// Files and folders in a world's directory. settings.yaml names most others.
const (
	ctFolder     = "ctlog"
	ctKey        = "ctlog.key"
	rekorKey     = "rekor.key"
	tsaChain     = "tsa-chain.pem"
	tufFolder    = "tuf"
	issuersFile  = "issuers.yaml"
	settingsFile = "mayfly.yaml"
)

// settingsYAML is a template for settingsFile.
//
//go:embed settings.yaml
var settingsYAML string

func (w *World) path(name string) string { return filepath.Join(w.dir, name) }

// makeKey begins to make the providers' key. An RSA key takes longer than all the rest, which does not
// need it.
func (w *World) makeKey(context.Context) error {
	w.keys.Go(func() (err error) {
		generate := func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }
		w.providerKey, err = loadOrMakeKey(w.path("oidc.key"), generate)
		return err
	})
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func (w *World) makeCA(context.Context) error {
	chains, _ := fs.Glob(os.DirFS(w.dir), "ca/*/chain.pem") // fails only for another pattern
	if len(chains) > 0 {
		w.chain = chains[len(chains)-1]
		return nil
	}
	result, err := ceremony.Init(ceremony.InitConfig{
		Dir: w.path("ca"), Organization: "mayfly development", Algorithm: "ecdsa-p256", Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("making the CA: %w", err)
	}
	w.chain, err = filepath.Rel(w.dir, result.ChainFile)
	return err
}

func (w *World) makeLog(ctx context.Context) error {
	if _, err := os.Stat(w.path(ctFolder)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	created, err := embedded.Init(ctx, embedded.Config{
		Name: "dev", Dir: w.path(ctFolder), Guard: w.path("ctlog-guard.json"), Key: w.path(ctKey),
		Origin: "mayfly.invalid/ctlog/dev", // it never changes, but the address may
	})
	if err != nil {
		return fmt.Errorf("making the Certificate Transparency log: %w", err)
	}
	return os.WriteFile(w.path("ctlog.pub"), created.PublicKey, 0o600)
}

// openRekor also creates the log's entry in the trusted root.
func (w *World) openRekor(ctx context.Context) error {
	key, err := loadOrMakeKey(w.path(rekorKey), newKey)
	if err != nil {
		return err
	}
	if w.rekor, err = rekor.Open(ctx, rekor.Config{Dir: w.path("rekor"), Origin: w.host, Key: key}); err != nil {
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
func (w *World) makeTSA(context.Context) error {
	key, err := loadOrMakeKey(w.path("tsa.key"), newKey)
	if err != nil {
		return err
	}
	file := w.path(tsaChain)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		chain, err := tsa.NewChain(key, time.Now())
		if err == nil {
			err = writePEM(file, "CERTIFICATE", chain...)
		}
		if err != nil {
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

// writeSettings writes the file that `mayfly serve` would read.
func (w *World) writeSettings(context.Context) error {
	settings, err := render(settingsYAML, map[string]any{
		"listen": w.listener.Addr(), "url": w.url, "host": w.host, "loopback": httputil.IsLoopback(w.host), "chain": w.chain,
		"ct_fails": w.fails("ct"), "authority_fails": w.fails("authority"),
		"timestamp_authority": string(w.authority), "rekor": string(w.log),
		"lifetime": w.config.CertificateLifetime, "level": w.config.LogLevel,
	})
	if err != nil {
		return err
	}
	return w.write(settingsFile, settings)
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
	der, _ := pem.One(text, "PRIVATE KEY")
	parsed, _ := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(K)
	if !ok {
		err = fmt.Errorf("%s is not the key that mayfly dev has written there: delete the directory of the development world and start again", file)
	}
	return key, err
}

func writePEM(file, kind string, ders ...[]byte) error {
	var text []byte
	for _, der := range ders {
		text = append(text, pem.Encode(kind, der)...)
	}
	return os.WriteFile(file, text, 0o600)
}
