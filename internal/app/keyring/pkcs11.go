// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo

package keyring

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const builtWithPKCS11 = true

// Modules are those of PKCS#11, of which a process has each once, with one login to each token:
// servers in one process share them.
type Modules struct{ loaded *pkcs11.Modules }

// NewModules returns none yet: each is loaded when a key first wants it.
func NewModules() *Modules { return &Modules{pkcs11.NewModules()} }

func configOf(named *config.SignerPKCS11) (pkcs11.Config, error) {
	id, err := hex.DecodeString(named.ID)
	if err != nil {
		return pkcs11.Config{}, keypath.Errorf([]string{"id"}, "%w", err)
	}
	return pkcs11.Config{Module: named.Module, Token: named.Token, Label: named.Label, PINFile: named.PINFile, ID: id}, nil
}

// check finds what is wrong without a call to the module.
func (*Modules) check(named *config.SignerPKCS11) (warnings []error, err error) {
	cfg, err := configOf(named)
	if err != nil {
		return nil, err
	}
	return pkcs11.Check(cfg)
}

func (m *Modules) open(ctx context.Context, named *config.SignerPKCS11) (signer.Key, error) {
	cfg, err := configOf(named)
	if err != nil {
		return nil, err
	}
	return m.loaded.Open(ctx, cfg)
}

// NoKey tells whether err, of Ring.Open, says that all is well but the key, which Ring.Make makes.
func NoKey(err error) bool { return errors.Is(err, pkcs11.ErrNoKey) }

// make opens the key, or makes it.
func (m *Modules) make(ctx context.Context, named *config.SignerPKCS11, algorithm string) (key signer.Key, made bool, err error) {
	key, err = m.open(ctx, named)
	if !NoKey(err) {
		return key, false, err
	}
	cfg, err := configOf(named)
	if err != nil {
		return nil, false, err
	}
	if key, err = m.loaded.Generate(ctx, cfg, algorithm); err != nil {
		// The whole sentence has a key path: it may say that the key was made, and yet fails.
		return nil, false, keypath.Errorf([]string{"label"}, "making the key: %w", err)
	}
	return key, true, nil
}
