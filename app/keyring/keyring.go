// SPDX-License-Identifier: Apache-2.0

// Package keyring opens the private keys that configuration names, with any kind of signer that
// this binary was built with. It keeps them open while sets that name them are replaced. It is
// between config, which defines how a key is named, and ca/signer, which defines what a key does.
//
// Build tags add the kinds beyond files, so that a binary contains only what its operator uses:
// pkcs11 (which needs cgo), awskms, gcpkms, azurekms, hashivault.
//
// It may be imported by app and cmd.
package keyring

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	// linger is how long a key stays open after the set in force no longer names it: requests that
	// began before may still sign with it.
	linger = 10 * time.Second
	// maxSecret bounds the files whose content distinguishes one opened key from another.
	maxSecret = 64 << 10
)

// Config configures a Ring. The zero value is valid for a command.
type Config struct {
	// Socket is the socket of a mayfly signer, which then has all keys; "" for none.
	Socket string
	// Modules are shared by all servers of a process; nil for a process with one server.
	Modules *Modules
	// Metrics and Logger are for processes that serve.
	Metrics *signer.Metrics
	Logger  *slog.Logger
}

// Ring opens keys. It is safe for concurrent use.
type Ring struct {
	cfg     Config
	modules *Modules

	mu        sync.Mutex // guards what follows
	open      map[[sha256.Size]byte]*signer.Signer
	lingering []*signer.Signer // no longer named, and not yet closed
}

// New returns a Ring.
func New(cfg Config) *Ring {
	r := &Ring{cfg: cfg, modules: cfg.Modules, open: map[[sha256.Size]byte]*signer.Signer{}}
	if r.modules == nil {
		r.modules = NewModules()
	}
	return r
}

// Signer returns the signer that authority name uses. public is the key of its certificate. Signer
// opens only a key in a file; every other is opened when it is proven or used. A key that is open
// already is returned again, so that a reload of a set interrupts nothing. Errors and warnings have
// key paths such as ["file", "key"].
func (r *Ring) Signer(name string, named config.Signer, public crypto.PublicKey) (s *signer.Signer, warnings []error, err error) {
	if r.cfg.Socket == "" && named.File != nil {
		key, warnings, err := openFile(named.File)
		if err != nil {
			return nil, warnings, err
		}
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
			return nil, warnings, keypath.Errorf([]string{"file", "key"}, "%s is not the key of the chain's first certificate: found %s, and the certificate has %s; give the key that belongs to it, and the issuing CA first in the chain",
				named.File.Key, signer.Describe(key.Public()), signer.Describe(public))
		}
		s, err := signer.Local(name, key, r.cfg.Metrics)
		return s, warnings, err
	}
	if r.cfg.Socket == "" {
		if warnings, err = r.check(named); err != nil {
			return nil, warnings, err
		}
	}
	id, err := r.identify(name, named, public)
	if err != nil {
		return nil, warnings, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.open[id]; s != nil {
		return s, warnings, nil
	}
	kind := named.Kind()
	open := func(ctx context.Context) (signer.Key, error) { key, _, err := r.Open(ctx, named); return key, err }
	if r.cfg.Socket != "" {
		kind, open = "socket", func(ctx context.Context) (signer.Key, error) {
			return socket.Open(ctx, socket.Config{Path: r.cfg.Socket, Public: public})
		}
	}
	s, err = signer.New(signer.Config{Name: name, Kind: kind, Public: public, Open: open, Verified: kind == "socket", Metrics: r.cfg.Metrics, Logger: r.cfg.Logger})
	if err != nil {
		return nil, warnings, err
	}
	r.open[id] = s
	return s, warnings, nil
}

// identify returns what distinguishes one opened key from another: all that names it, and the
// content of the files that open it. So a reload tries a changed PIN at once.
func (r *Ring) identify(name string, named config.Signer, public crypto.PublicKey) (id [sha256.Size]byte, err error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return id, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %x\n", name, r.cfg.Socket, spki)
	if r.cfg.Socket == "" {
		flow, err := named.Flow("")
		if err != nil {
			return id, err
		}
		fmt.Fprintf(h, "%q\n", flow)
		for _, path := range named.Files() {
			if err := addFile(h, path); err != nil {
				fmt.Fprintf(h, "%v\n", err) // opening the key gives a better error
			}
		}
	}
	h.Sum(id[:0])
	return id, nil
}

func addFile(h io.Writer, path string) error {
	content, err := files.Read(path, maxSecret)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(h, "%q %q\n", path, content)
	return err
}

// Open opens a key for a few signatures, as a command does. Errors and warnings have key paths such
// as ["pkcs11", "pin_file"]; there may be warnings beside an error. NoKey reports of an error
// whether Make would help.
func (r *Ring) Open(ctx context.Context, named config.Signer) (key signer.Key, warnings []error, err error) {
	switch {
	case named.File != nil:
		key, warnings, err := openFile(named.File)
		if err != nil {
			return nil, warnings, err
		}
		return signer.InMemory(key), warnings, nil
	case named.PKCS11 != nil:
		warnings, _ := r.check(named) // opening finds the same errors
		key, err := r.modules.open(ctx, named.PKCS11)
		return key, warnings, at(err, "pkcs11")
	case named.KMS != nil:
		key, err := openKMS(ctx, named.KMS)
		return key, nil, at(err, "kms")
	default:
		return nil, nil, errors.New("no signer is named")
	}
}

func openFile(named *config.SignerFile) (crypto.Signer, []error, error) {
	key, warnings, err := file.Open(named.Key, named.PasswordFile)
	for i := range warnings {
		warnings[i] = keypath.Prefix(warnings[i], "file")
	}
	return key, warnings, keypath.Prefix(err, "file")
}

// at puts prefix before the key path of err. A Failure stays a Failure.
func at(err error, prefix string) error {
	var f *signer.Failure
	wasFailure := errors.As(err, &f)
	err = keypath.Prefix(err, prefix)
	if wasFailure && !errors.As(err, new(*signer.Failure)) {
		return &signer.Failure{Remedy: f.Remedy, RetryAfter: f.RetryAfter, Err: err}
	}
	return err
}

// Make opens a key, or creates it if it does not exist. It creates keys only in a PKCS#11 token,
// since services have their own means. algorithm is one of ceremony.Algorithms(). It returns no
// warnings: the caller has tried Open before.
func (r *Ring) Make(ctx context.Context, named config.Signer, algorithm string) (key signer.Key, made bool, err error) {
	if named.PKCS11 == nil {
		key, _, err := r.Open(ctx, named)
		return key, false, err
	}
	key, made, err = r.modules.make(ctx, named.PKCS11, algorithm)
	return key, made, at(err, "pkcs11")
}

// Retain closes, after linger, all keys except those that used signs with.
func (r *Ring) Retain(used []*signer.Signer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.open {
		if slices.Contains(used, s) {
			continue
		}
		delete(r.open, id)
		r.lingering = append(r.lingering, s)
		time.AfterFunc(linger, func() { r.discard(s) })
	}
}

func (r *Ring) discard(s *signer.Signer) {
	r.mu.Lock()
	r.lingering = slices.DeleteFunc(r.lingering, func(other *signer.Signer) bool { return other == s })
	r.mu.Unlock()
	_ = s.Close() // no longer used, so an error does not matter
}

// closeTimeout is how long keys may take to close: a module that hangs must not keep a process from
// stopping.
const closeTimeout = 2 * time.Second

// Close closes all keys, and does not wait longer than closeTimeout.
func (r *Ring) Close() error {
	r.mu.Lock()
	signers := append(slices.Collect(maps.Values(r.open)), r.lingering...)
	clear(r.open)
	r.lingering = nil
	r.mu.Unlock()
	closed := make(chan error, len(signers))
	for _, s := range signers {
		go func() { closed <- s.Close() }()
	}
	timeout := time.After(closeTimeout)
	var errs []error
	for range signers {
		select {
		case err := <-closed:
			errs = append(errs, err)
		case <-timeout:
			return errors.Join(append(errs, fmt.Errorf("keys were still being closed after %s", closeTimeout))...)
		}
	}
	return errors.Join(errs...)
}
