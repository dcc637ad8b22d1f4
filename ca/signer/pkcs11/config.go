//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a private key in a token.
type Config signer.PKCS11

// Check finds mistakes in cfg without a call to the module. Warnings are about a badly protected
// PIN. Errors and warnings have key paths, and hold no part of the PIN.
func Check(cfg Config) (warnings []error, err error) {
	_, pathErr := cfg.modulePath()
	_, warnings, pinErr := cfg.readPIN()
	return warnings, errors.Join(pathErr, pinErr)
}

// modulePath returns the module's path without symbolic links: the dynamic linker too loads a
// library only once.
func (cfg Config) modulePath() (string, error) {
	path, err := filepath.EvalSymlinks(cfg.Module)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", at("module", "looking for the token's PKCS#11 library: %w; install it, or name the path of the one that is installed", err)
	}
	return path, nil
}

// readPIN returns the PIN, nil if no file is named, and a warning if too many users can read the
// file.
func (cfg Config) readPIN() (pin []byte, warnings []error, err error) {
	if cfg.PINFile == "" {
		return nil, nil, nil
	}
	pin, warning, err := files.ReadSecretLine(cfg.PINFile, "the user PIN of the token")
	if err != nil {
		return nil, nil, at("pin_file", "%w", err)
	}
	if warning != nil {
		warnings = []error{at("pin_file", "%w", warning)}
	}
	return pin, warnings, nil
}

// at returns an error about a key of the configuration.
func at(key, format string, args ...any) error {
	return keypath.Errorf([]string{key}, format, args...)
}
