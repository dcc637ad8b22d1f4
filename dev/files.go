// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/dev/rekor"
	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// The files in a world's directory, beside the marker and the lock.
const (
	caFolder     = "ca"
	ctFolder     = "ctlog"
	ctGuard      = "ctlog-guard.json"
	ctKey        = "ctlog.key"
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

// ctName is the name of the embedded log.
const ctName = "dev"

// content is what was created in a directory, or found in it.
type content struct {
	config      string
	tufDir      string
	providerKey *rsa.PrivateKey
	tufKey      *ecdsa.PrivateKey
	tsa         *tsa.Authority
	rekor       *rekor.Log
}

// makeFiles creates the missing files of the directory. It writes the settings again, since they
// contain the address.
func (w *World) makeFiles(ctx context.Context) (*content, error) {
	f := &content{config: filepath.Join(w.dir, settingsFile), tufDir: filepath.Join(w.dir, tufFolder)}
	// An RSA key takes longer than all the others together.
	var provider errgroup.Group
	provider.Go(func() (err error) {
		f.providerKey, err = loadOrMakeKey(filepath.Join(w.dir, providerKey), newRSA)
		return err
	})
	chain, authority, tlog, err := w.makeServices(ctx, f)
	if err := errors.Join(err, provider.Wait()); err != nil {
		return nil, err
	}
	return f, w.writeSettings(chain, authority, tlog)
}

// makeServices creates everything except the provider's key. It returns the path of the CA's chain,
// and the entries of the timestamp authority and the Rekor log in the trusted root.
func (w *World) makeServices(ctx context.Context, f *content) (chain string, authority, tlog json.RawMessage, err error) {
	key := func(name string) *ecdsa.PrivateKey {
		k, e := loadOrMakeKey(filepath.Join(w.dir, name), newP256)
		err = errors.Join(err, e)
		return k
	}
	timestampKey, logKey := key(tsaKey), key(rekorKey)
	if f.tufKey = key(tufKey); err != nil {
		return "", nil, nil, err
	}
	if chain, err = w.makeCA(); err != nil {
		return "", nil, nil, fmt.Errorf("making the CA: %w", err)
	}
	if err = w.makeCTLog(ctx); err != nil {
		return "", nil, nil, err
	}
	if tlog, err = w.openRekor(ctx, f, logKey); err != nil {
		return "", nil, nil, err
	}
	authority, err = w.makeTSA(f, timestampKey)
	return chain, authority, tlog, err
}

// makeCA returns the path of the CA's chain, relative to the directory.
func (w *World) makeCA() (string, error) {
	chains, err := filepath.Glob(filepath.Join(w.dir, caFolder, "*", "chain.pem"))
	if err != nil {
		return "", err
	}
	if len(chains) > 0 {
		return filepath.Rel(w.dir, chains[len(chains)-1])
	}
	result, err := ceremony.Init(ceremony.InitConfig{
		Dir: filepath.Join(w.dir, caFolder), Organization: "mayfly development", Algorithm: "ecdsa-p256", Now: time.Now,
	})
	if err != nil {
		return "", err
	}
	return filepath.Rel(w.dir, result.ChainFile)
}

func (w *World) makeCTLog(ctx context.Context) error {
	dir := filepath.Join(w.dir, ctFolder)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := embedded.Init(ctx, embedded.Config{
		Name: ctName, Dir: dir, Guard: filepath.Join(w.dir, ctGuard), Key: filepath.Join(w.dir, ctKey), Origin: ctOrigin,
	})
	if err != nil {
		return fmt.Errorf("making the Certificate Transparency log: %w", err)
	}
	return nil
}

// ctOrigin never changes, but the address may.
const ctOrigin = "mayfly.invalid/ctlog/" + ctName

// openRekor returns the log's entry in the trusted root.
func (w *World) openRekor(ctx context.Context, f *content, key *ecdsa.PrivateKey) (json.RawMessage, error) {
	u, err := url.Parse(w.url)
	if err != nil {
		return nil, err
	}
	if f.rekor, err = rekor.Open(ctx, rekor.Config{Dir: filepath.Join(w.dir, rekorFolder), Origin: u.Hostname(), Key: key}); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, f.rekor.Close)
	entry, err := trustroot.NewTransparencyLog(w.RekorURL(), f.rekor.PublicKey(), worldBegin())
	if err != nil {
		return nil, err
	}
	return trustroot.Marshal(entry)
}

// worldBegin is before the first entry of every development world.
func worldBegin() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// makeTSA returns the timestamp authority's entry in the trusted root.
func (w *World) makeTSA(f *content, key *ecdsa.PrivateKey) (json.RawMessage, error) {
	file := filepath.Join(w.dir, tsaChain)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		chain, err := tsa.NewChain(key, time.Now())
		if err != nil {
			return nil, err
		}
		if err := writePEM(file, "CERTIFICATE", chain...); err != nil {
			return nil, err
		}
	}
	chain, err := readCertificates(file)
	if err != nil {
		return nil, err
	}
	if f.tsa, err = tsa.New(chain, key, nil); err != nil {
		return nil, err
	}
	return trustroot.Marshal(trustroot.NewCertificateAuthority(w.TimestampURL(), chain))
}

// writeSettings writes the files that `mayfly serve` would read.
func (w *World) writeSettings(chain string, authority, tlog json.RawMessage) error {
	caDir := filepath.Dir(chain)
	settings := fmt.Sprintf(`# Written by mayfly dev at each start.
listen: {http: %[1]q, grpc: %[1]q, ops: "127.0.0.1:0"}
public_url: %[2]q
issuers: %[3]s
oidc: {allow_loopback: true}
ca: {file: {chain: %[4]q, key: %[5]q, password_file: %[6]q}}
ct:
  logs:
    - embedded: {name: %[7]s, dir: %[8]s, guard: %[9]s, key: %[10]s, origin: %[11]q, checkpoint_interval: 100ms}
trust:
  timestamp_authorities: [%[12]s]
  tlogs: [%[13]s]
certificate: {lifetime: %[15]s}
log: {format: text, level: %[14]s}
`, w.listener.Addr(), w.url, issuersFile,
		chain, filepath.Join(caDir, "key.pem"), filepath.Join(caDir, "pass"),
		ctName, ctFolder, ctGuard, ctKey, ctOrigin, authority, tlog, w.config.LogLevel, w.config.CertificateLifetime)
	issuers := fmt.Sprintf("oidc-issuers:\n  %[1]q:\n    issuer-url: %[1]q\n    client-id: sigstore\n    type: email\n", w.IssuerURL())
	return errors.Join(
		os.WriteFile(filepath.Join(w.dir, issuersFile), []byte(issuers), 0o600),
		os.WriteFile(filepath.Join(w.dir, settingsFile), []byte(settings), 0o600))
}
