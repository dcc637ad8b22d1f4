// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// rootFolder is a root as mayfly ca init creates it: root.pem, and key.pem and, unless a password
// file is named, pass; or signer.yaml, which names where its key is.
type rootFolder struct{ dir, passwordFile string }

func (r rootFolder) in(name string) string { return filepath.Join(r.dir, name) }

// check refuses a password that would be ignored.
func (r rootFolder) check() error {
	if r.passwordFile == "" {
		return nil
	}
	if _, err := os.Stat(r.in("signer.yaml")); err == nil {
		return fmt.Errorf("a password is given, and %s says that the root's key is in no file", r.in("signer.yaml"))
	}
	return nil
}

// parent reads the root's chain, and does not open its key.
func (r rootFolder) parent() (ceremony.Parent, error) {
	data, err := files.Read(r.in("root.pem"), maxInput)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("reading the root: %w", err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("%s: %w", r.in("root.pem"), err)
	}
	return ceremony.Parent{Chain: chain.Certificates}, nil
}

// open opens the key of parent. ctx bounds the signatures of the key.
func (r rootFolder) open(ctx context.Context, keys keys, parent *ceremony.Parent) error {
	named, err := r.signer()
	if err != nil {
		return fmt.Errorf("opening the root's key: %w", err)
	}
	key, warnings, err := keys.ring.Open(ctx, named)
	keys.warn(warnings...)
	if err != nil {
		return fmt.Errorf("opening the root's key: %w", err)
	}
	signs := signer.Crypto(ctx, key)
	if public, ok := signs.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(parent.Chain[0].PublicKey) {
		return fmt.Errorf("the root's key is %s, and not the key of %s; name the one that belongs to it", signer.Describe(signs.Public()), r.in("root.pem"))
	}
	parent.Signer = signs
	return nil
}

// signer is where the root's key is.
func (r rootFolder) signer() (config.Signer, error) {
	content, err := files.Read(r.in("signer.yaml"), maxInput)
	switch {
	case err == nil:
		return config.ParseSigner(r.in("signer.yaml"), content, r.dir)
	case !errors.Is(err, os.ErrNotExist):
		return config.Signer{}, err
	}
	file := &config.SignerFile{Key: r.in("key.pem"), PasswordFile: r.passwordFile}
	if file.PasswordFile == "" {
		file.PasswordFile = r.in("pass")
		if _, err := os.Stat(file.PasswordFile); errors.Is(err, os.ErrNotExist) {
			return config.Signer{}, fmt.Errorf("there is no %s; give the root's password with --root-password-file", file.PasswordFile)
		}
	}
	return config.Signer{File: file}, nil
}
