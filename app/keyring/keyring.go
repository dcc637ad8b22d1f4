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
	"log/slog"
	"maps"
	"slices"
	"strings"
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
	// closeTimeout is how long keys may take to close: a module that hangs must not keep a process from
	// stopping.
	closeTimeout = 2 * time.Second
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
	cfg Config

	mu        sync.Mutex // guards what follows
	open      map[[sha256.Size]byte]*signer.Signer
	lingering []*signer.Signer // no longer named, and not yet closed
}

// New returns a Ring.
func New(cfg Config) *Ring {
	if cfg.Modules == nil {
		cfg.Modules = NewModules()
	}
	return &Ring{cfg: cfg, open: map[[sha256.Size]byte]*signer.Signer{}}
}

// Signer returns the signer that authority name uses. public is the key of its certificate. Signer
// opens only a key in a file; every other is opened when it is proven or used. A key that is open
// already is returned again, so that a reload of a set interrupts nothing. Errors and warnings have
// key paths such as ["file", "key"].
func (r *Ring) Signer(name string, named config.Signer, public crypto.PublicKey) (s *signer.Signer, warnings []error, err error) {
	cfg := signer.Config{Name: name, Kind: named.Kind(), Public: public, Metrics: r.cfg.Metrics, Logger: r.cfg.Logger}
	switch {
	case r.cfg.Socket != "":
		cfg.Kind, cfg.Verified = "socket", true
		cfg.Open = func(ctx context.Context) (signer.Key, error) {
			return socket.Open(ctx, socket.Config{Path: r.cfg.Socket, Public: public})
		}
	case named.File != nil:
		key, warnings, err := openFile(named.File)
		if err != nil {
			return nil, warnings, err
		}
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
			found, has := signer.Describe(key.Public()), signer.Describe(public)
			if has == found {
				has = "another one"
			}
			return nil, warnings, keypath.Errorf([]string{"file", "key"}, "%s is not the key of the chain's first certificate: found %s, and the certificate has %s; give the key that belongs to it, and the issuing CA first in the chain",
				named.File.Key, found, has)
		}
		s, err := signer.Local(name, key, r.cfg.Metrics)
		return s, warnings, err
	default:
		if warnings, err = r.check(named); err != nil {
			return nil, warnings, err
		}
		cfg.Open = func(ctx context.Context) (signer.Key, error) { key, _, err := r.Open(ctx, named); return key, err }
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
	if s, err = signer.New(cfg); err == nil {
		r.open[id] = s
	}
	return s, warnings, err
}

// identify returns what distinguishes one opened key from another: all that names it, and the
// content of the files that open it. So a reload tries a changed PIN at once.
func (r *Ring) identify(name string, named config.Signer, public crypto.PublicKey) (id [sha256.Size]byte, err error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return id, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %x\n", name, spki)
	if r.cfg.Socket == "" { // otherwise only the process at the socket opens keys
		flow, err := named.Flow("")
		if err != nil {
			return id, err
		}
		fmt.Fprintf(h, "%q\n", flow)
		for _, path := range named.Files() {
			content, err := files.Read(path, maxSecret) // opening the key gives a better error
			fmt.Fprintf(h, "%q %q %v\n", path, content, err)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
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
		key, err := r.cfg.Modules.open(ctx, named.PKCS11)
		return key, warnings, at(err, "pkcs11")
	case named.KMS != nil:
		open, err := openerOf(named.KMS)
		if err == nil {
			key, err = open(ctx, named.KMS)
		}
		return key, nil, at(err, "kms")
	default:
		return nil, nil, errors.New("no signer is named")
	}
}

// Make opens a key, or creates it if it does not exist. It creates keys only in a PKCS#11 token,
// since services have their own means. algorithm is one of ceremony.Algorithms(). It returns no
// warnings: the caller has tried Open before.
func (r *Ring) Make(ctx context.Context, named config.Signer, algorithm string) (key signer.Key, made bool, err error) {
	if named.PKCS11 == nil {
		key, _, err := r.Open(ctx, named)
		return key, false, err
	}
	key, made, err = r.cfg.Modules.make(ctx, named.PKCS11, algorithm)
	return key, made, at(err, "pkcs11")
}

func openFile(named *config.SignerFile) (crypto.Signer, []error, error) {
	key, warnings, err := file.Open(named.Key, named.PasswordFile)
	return key, prefixed(warnings, "file"), keypath.Prefix(err, "file")
}

// check finds what is wrong with a key outside of this process without opening it: a kind that this
// binary was not built with, or an unreadable file.
func (r *Ring) check(named config.Signer) (warnings []error, err error) {
	if named.PKCS11 != nil {
		warnings, err = r.cfg.Modules.check(named.PKCS11)
		return prefixed(warnings, "pkcs11"), keypath.Prefix(err, "pkcs11")
	}
	_, err = openerOf(named.KMS)
	return nil, keypath.Prefix(err, "kms")
}

func prefixed(warnings []error, prefix string) []error {
	for i := range warnings {
		warnings[i] = keypath.Prefix(warnings[i], prefix)
	}
	return warnings
}

// at puts prefix before the key path of err. A Failure stays a Failure.
func at(err error, prefix string) error {
	var f *signer.Failure
	if errors.As(err, &f) {
		return &signer.Failure{Remedy: f.Remedy, RetryAfter: f.RetryAfter, Err: keypath.Prefix(err, prefix)}
	}
	return keypath.Prefix(err, prefix)
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
		time.AfterFunc(linger, func() {
			r.mu.Lock()
			r.lingering = slices.DeleteFunc(r.lingering, func(other *signer.Signer) bool { return other == s })
			r.mu.Unlock()
			_ = s.Close() // no longer used, so an error does not matter
		})
	}
}

// Close closes all keys, and does not wait longer than closeTimeout.
func (r *Ring) Close() error {
	r.mu.Lock()
	signers := append(slices.Collect(maps.Values(r.open)), r.lingering...)
	clear(r.open)
	r.lingering = nil
	r.mu.Unlock()
	closed := make(chan error, 1)
	go func() {
		var errs []error
		for _, s := range signers {
			errs = append(errs, s.Close())
		}
		closed <- errors.Join(errs...)
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTimeout):
		return fmt.Errorf("keys were still being closed after %s", closeTimeout)
	}
}

// opener opens the key of a key-management service.
type opener func(ctx context.Context, named *signer.KMS) (signer.Key, error)

// uriOpener opens the key of a service whose keys only a URI names.
type uriOpener func(ctx context.Context, uri string) (signer.Key, error)

func byURI(open uriOpener) opener {
	if open == nil {
		return nil
	}
	return func(ctx context.Context, named *signer.KMS) (signer.Key, error) { return open(ctx, named.URI) }
}

// built has the openers of this binary: a file with the build tag of a service declares the method
// that replaces the one of absent.
type built struct{ absent }

type absent struct{}

func (absent) AWSKMS() uriOpener   { return nil }
func (absent) GCPKMS() uriOpener   { return nil }
func (absent) AzureKMS() uriOpener { return nil }
func (absent) Hashivault() opener  { return nil }

// service is a key-management service, whether or not this binary was built with it.
type service struct {
	scheme, tag string
	open        opener // nil where the service was not built in
}

func services() []service {
	b := built{absent{}}
	return []service{
		{"awskms", "awskms", byURI(b.AWSKMS())},
		{"gcpkms", "gcpkms", byURI(b.GCPKMS())},
		{"azurekms", "azurekms", byURI(b.AzureKMS())},
		{"hashivault", "hashivault", b.Hashivault()},
		{"openbao", "hashivault", b.Hashivault()},
	}
}

// Kinds are the kinds of signers that this binary was built with.
func Kinds() []string {
	kinds := []string{"file"}
	if builtWithPKCS11 {
		kinds = append(kinds, "pkcs11")
	}
	for _, kind := range services() {
		if kind.open != nil {
			kinds = append(kinds, kind.scheme)
		}
	}
	return kinds
}

func notBuilt(tag string) error {
	return fmt.Errorf("this binary was built without %s; build one that has it: make build SIGNERS=%[1]s (docs/signers.md)", tag)
}

// openerOf returns the opener of the service that the URI of named selects. Package config knows the
// same services.
func openerOf(named *signer.KMS) (opener, error) {
	scheme, _, _ := strings.Cut(named.URI, "://")
	i := slices.IndexFunc(services(), func(s service) bool { return s.scheme == scheme })
	if i < 0 {
		return nil, keypath.Errorf([]string{"uri"}, "the service %.40q is not known", scheme)
	}
	found := services()[i]
	if found.open == nil {
		return nil, keypath.Prefix(notBuilt(found.tag), "uri")
	}
	return found.open, nil
}
