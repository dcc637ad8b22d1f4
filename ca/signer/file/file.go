// SPDX-License-Identifier: Apache-2.0

// Package file opens a private key from a PEM file, encrypted or not. The key is then in this
// process's memory; other packages under ca/signer serve keys outside of this process.
//
// app and the commands may import it.
package file

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	maxKeyFile = 64 << 10 // an RSA key of 8192 bits takes 7 KiB
	minRSABits = 2048
	maxRSABits = 8192
)

// Config names a private key and its password.
type Config struct {
	// Key is the path of a PEM file with exactly one private key: ENCRYPTED PRIVATE KEY
	// (PKCS#8, PBES2), or PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY. The last two may also
	// have the older encryption in PEM headers. The key is ECDSA on P-256, P-384 or P-521, RSA of
	// 2048 to 8192 bits, or Ed25519.
	Key string
	// PasswordFile is the path of a file that holds the password: its whole content without
	// one line ending at its end. It excludes Password.
	PasswordFile string
	// Password is the password itself. Open keeps no copy of it.
	Password []byte
}

// Open reads the key. Warnings are about keys that open but are badly protected. Warnings and
// errors have the key paths ["key"] and ["password_file"], and hold no part of the password or the
// key.
func Open(cfg Config) (signer crypto.Signer, warnings []error, err error) {
	data, keyWarning, keyErr := files.ReadSecret(cfg.Key, maxKeyFile)
	password, passwordWarnings, passwordErr := readPassword(cfg)
	if err := errors.Join(keypath.Prefix(keyErr, "key"), passwordErr); err != nil {
		return nil, nil, err
	}
	warnings = append(at("key", keyWarning), passwordWarnings...)

	parsed, parseWarnings, err := parse(data, password)
	for _, warning := range parseWarnings {
		warnings = append(warnings, keypath.Errorf([]string{"key"}, "%s: %w", cfg.Key, warning))
	}
	switch {
	case errors.Is(err, errWrongPassword) && cfg.PasswordFile != "":
		hint := ""
		if bytes.ContainsAny(password, "\r\n") {
			hint = "; it has more than one line, and all of them count"
		}
		return nil, nil, keypath.Errorf([]string{"password_file"}, "the password in %s does not open the key %s%s", cfg.PasswordFile, cfg.Key, hint)
	case err != nil:
		return nil, nil, keypath.Errorf([]string{"key"}, "%s: %w", cfg.Key, err)
	}
	signer, err = check(parsed)
	if err != nil {
		return nil, nil, keypath.Errorf([]string{"key"}, "%s: %w", cfg.Key, err)
	}
	return signer, warnings, nil
}

// readPassword returns nil if no password is configured.
func readPassword(cfg Config) (password []byte, warnings []error, err error) {
	switch {
	case cfg.PasswordFile == "":
		return cfg.Password, nil, nil
	case len(cfg.Password) > 0:
		return nil, nil, keypath.Errorf([]string{"password_file"}, "a password is given as well as a password file; give one of them")
	}
	password, warning, err := files.ReadSecretLine(cfg.PasswordFile, "the key's password")
	return password, at("password_file", warning), keypath.Prefix(err, "password_file")
}

// at adds the key path of the setting to a warning, if there is one.
func at(setting string, warning error) []error {
	if warning == nil {
		return nil
	}
	return []error{keypath.Prefix(warning, setting)}
}

// check accepts the kinds of keys that a CA may have.
func check(parsed any) (crypto.Signer, error) {
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return key, nil
		default:
			return nil, fmt.Errorf("it is an ECDSA key on %s; the curve should be P-256, P-384 or P-521", key.Curve.Params().Name)
		}
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("it is an RSA key of %d bits; it should have %d to %d", bits, minRSABits, maxRSABits)
		}
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	default:
		return nil, fmt.Errorf("it is a %T, which does not sign; the key should be ECDSA, RSA or Ed25519", parsed)
	}
}
