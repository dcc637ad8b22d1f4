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
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

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
	ctPublicKey  = "ctlog.pub"
	rekorFolder  = "rekor"
	rekorKey     = "rekor.key"
	tsaChain     = "tsa-chain.pem"
	tsaKey       = "tsa.key"
	tufFolder    = "tuf"
	tufKey       = "tuf.key"
	providerKey  = "oidc.key"
	issuersFile  = "issuers.yaml"
	settingsFile = "mayfly.yaml"
	absentSocket = "absent.sock" // of a signer that does not run
)

// The name and the origin of the embedded log. The origin never changes, but the address may.
const (
	ctName   = "dev"
	ctOrigin = "mayfly.invalid/ctlog/" + ctName
)

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

// makeFiles creates the missing files of the directory, and writes the settings with the address.
func (w *World) makeFiles(ctx context.Context) error {
	// An RSA key takes longer than all the others together.
	var provider errgroup.Group
	provider.Go(func() (err error) {
		w.providerKey, err = loadOrMakeKey(w.path(providerKey), newProviderKey)
		return err
	})
	err := w.makeServices(ctx)
	if err := errors.Join(err, provider.Wait()); err != nil {
		return err
	}
	return w.writeSettings(ctx)
}

func newProviderKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// makeServices creates everything except the provider's key.
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
		_, err := embedded.Init(ctx, embedded.Config{Name: ctName, Dir: w.path(ctFolder), Guard: w.path(ctGuard), Key: w.path(ctKey), Origin: ctOrigin})
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
	caDir := filepath.Dir(w.chain)
	insecure := "" // no other host than those of allow_loopback
	if !httputil.IsLoopback(w.host) {
		insecure = strconv.Quote(w.host)
	}
	ca := fmt.Sprintf("{file: {chain: %q, key: %q, password_file: %q}}", w.chain, filepath.Join(caDir, "key.pem"), filepath.Join(caDir, "pass"))
	if w.fails(failAuthority) {
		ca = fmt.Sprintf("{set: %q, signer_socket: %q}", filepath.Join(caFolder, "ca.yaml"), absentSocket)
	}
	log := fmt.Sprintf("{embedded: {name: %s, dir: %s, guard: %s, key: %s, origin: %q, checkpoint_interval: 100ms}}", ctName, ctFolder, ctGuard, ctKey, ctOrigin)
	if w.fails(failCT) {
		log = fmt.Sprintf("{url: %q, public_key: %s}", w.url+failingLogPath, ctPublicKey)
		if err := w.writeLogKey(); err != nil {
			return err
		}
	}
	settings := writtenLine + fmt.Sprintf(`listen: {http: %[1]q, grpc: %[1]q, ops: "127.0.0.1:0"}
public_url: %[2]q
issuers: %[3]s
oidc: {allow_loopback: true, insecure_hosts: [%[10]s]}
ca: %[4]s
ct:
  logs:
    - %[5]s
trust:
  timestamp_authorities: [%[6]s]
  tlogs: [%[7]s]
certificate: {lifetime: %[8]s}
log: {format: text, level: %[9]q}
`, w.listener.Addr(), w.url, issuersFile, ca, log, w.authority, w.log, w.config.CertificateLifetime, w.config.LogLevel, insecure)
	if err := w.write(settingsFile, settings); err != nil {
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
