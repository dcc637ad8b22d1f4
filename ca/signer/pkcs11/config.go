//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a private key in a token. Its keys in the configuration file are module, token,
// label, pin_file and id.
type Config struct {
	// Module is the path of the token's library: /usr/lib/softhsm/libsofthsm2.so. It is loaded
	// into this process, and is therefore trusted as much as mayfly itself.
	Module string
	// Token is the token's label, set when the token was initialized. Slots are not configured,
	// since their numbers change.
	Token string
	// Label is the private key's CKA_LABEL.
	Label string
	// PINFile is the path of a file that holds the user PIN: its whole content without one
	// line ending at its end. It may be empty if the token requires no login.
	PINFile string
	// ID is the private key's CKA_ID, hexadecimal in the file. It is only needed to choose
	// between two keys with one label.
	ID []byte
}

// Check finds mistakes in cfg without a call to the module. Warnings are about a badly protected
// PIN. Errors and warnings have key paths, and hold no part of the PIN.
func Check(cfg Config) (warnings []error, err error) {
	_, pathErr := modulePath(cfg.Module)
	var pinErr error
	if cfg.PINFile != "" {
		_, warnings, pinErr = readPIN(cfg.PINFile)
	}
	if err := errors.Join(cfg.complete(), pathErr, pinErr); err != nil {
		return nil, err
	}
	return warnings, nil
}

// complete refuses a Config that names no token or no key.
func (cfg Config) complete() error {
	var errs []error
	for _, setting := range []struct{ name, value, what string }{
		{"token", cfg.Token, "the label of the token that holds the key"},
		{"label", cfg.Label, "the label (CKA_LABEL) of the private key"},
	} {
		if setting.value == "" {
			errs = append(errs, keypath.Errorf([]string{setting.name}, "is missing; it should be %s", setting.what))
		}
	}
	return errors.Join(errs...)
}

// readPIN returns the PIN in a file, and a warning if too many users can reach the file.
func readPIN(path string) (pin []byte, warnings []error, err error) {
	pin, warning, err := files.ReadSecretLine(path, "the user PIN of the token")
	if err != nil {
		return nil, nil, keypath.Errorf([]string{"pin_file"}, "%w", err)
	}
	if warning != nil {
		warnings = []error{keypath.Errorf([]string{"pin_file"}, "%w", warning)}
	}
	return pin, warnings, nil
}
