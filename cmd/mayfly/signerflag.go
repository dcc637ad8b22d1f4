// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/app/keyring"
)

// commandTimeout bounds what a command does with a key that lies elsewhere, once for all.
const commandTimeout = 2 * time.Minute

// signerFlag is a flag that names a key that lies elsewhere.
type signerFlag struct{ name, value string }

func (f *signerFlag) add(flags *pflag.FlagSet, name, usage string) {
	f.name = name
	flags.StringVar(&f.value, name, "", usage+`, as behind "signer:" in ca.yaml: '{pkcs11: {module: …, token: …, label: …, pin_file: …}}', or @FILE that holds it`)
}

// parse returns the signer that the flag names; false if it names none.
func (f *signerFlag) parse() (named config.Signer, given bool, err error) {
	if f.value == "" {
		return config.Signer{}, false, nil
	}
	name, content, dir := "--"+f.name, []byte(f.value), "."
	if path, isFile := strings.CutPrefix(f.value, "@"); isFile {
		if content, err = os.ReadFile(path); err != nil {
			return config.Signer{}, false, err
		}
		name, dir = path, filepath.Dir(path)
	}
	named, err = config.ParseSigner(name, content, dir)
	return named, err == nil, err
}

// external opens the key that the flag names, or has it made; nil if it names none.
func (f *signerFlag) external(ctx context.Context, ring *keyring.Ring, algorithm string) (*ceremony.ExternalKey, error) {
	named, given, err := f.parse()
	if err != nil || !given {
		return nil, err
	}
	key, err := externalKey(ctx, ring, named, algorithm)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", f.name, err)
	}
	return key, nil
}

// externalKey opens a key that lies elsewhere, or has it made, and has it sign.
func externalKey(ctx context.Context, ring *keyring.Ring, named config.Signer, algorithm string) (*ceremony.ExternalKey, error) {
	key, made, err := ring.Make(ctx, named, algorithm)
	if err != nil {
		return nil, err
	}
	return &ceremony.ExternalKey{Signer: signer.Crypto(ctx, key), Made: made, Block: named.Flow}, nil
}

// rootKey opens the key of a root folder: key.pem, or the signer that signer.yaml names.
func rootKey(ctx context.Context, ring *keyring.Ring, dir, passwordFile string) (key signer.Key, warnings []error, err error) {
	named := config.Signer{File: &config.SignerFile{Key: filepath.Join(dir, "key.pem"), PasswordFile: passwordFile}}
	path := filepath.Join(dir, "signer.yaml")
	content, err := os.ReadFile(path)
	switch {
	case err == nil && passwordFile != "":
		return nil, nil, fmt.Errorf("a password is given, and %s says that the root's key is in no file", path)
	case err == nil:
		if named, err = config.ParseSigner(path, content, dir); err != nil {
			return nil, nil, err
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, nil, err
	case passwordFile == "":
		named.File.PasswordFile = filepath.Join(dir, "pass")
		if _, err := os.Stat(named.File.PasswordFile); errors.Is(err, os.ErrNotExist) {
			return nil, nil, fmt.Errorf("there is no %s; give the root's password with --root-password-file", named.File.PasswordFile)
		}
	}
	return ring.Open(ctx, named)
}
