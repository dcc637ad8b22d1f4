// SPDX-License-Identifier: Apache-2.0

// Package file opens a private key that lies in a PEM file, encrypted or not. The key is then
// in this process's memory: what keeps it elsewhere is another package under ca/signer.
//
// internal/app and the commands may import it.
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
	"io"
	"os"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	maxKeyFile      = 64 << 10 // an RSA key of 8192 bits takes 7 KiB
	maxPasswordFile = 4 << 10
	minRSABits      = 2048
	maxRSABits      = 8192
)

// Config names a private key and what opens it.
type Config struct {
	// Key is the path of a PEM file with exactly one private key: ENCRYPTED PRIVATE KEY
	// (PKCS#8, PBES2), or PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY, the last two also
	// with the older encryption in PEM headers. ECDSA on P-256, P-384 or P-521, RSA of 2048
	// to 8192 bits, or Ed25519.
	Key string
	// PasswordFile is the path of a file that holds the password: its whole content without
	// one line ending at its end. It excludes Password.
	PasswordFile string
	// Password is the password itself. Nothing is kept of it.
	Password []byte
}

// Open reads the key. Warnings are about keys that open but are kept badly. Both they and the
// errors have the key paths ["key"] and ["password_file"], and neither holds anything of the
// password or the key.
func Open(cfg Config) (signer crypto.Signer, warnings []error, err error) {
	data, keyWarnings, keyErr := read("key", cfg.Key, maxKeyFile)
	password, passwordWarnings, passwordErr := readPassword(cfg)
	if err := errors.Join(keyErr, passwordErr); err != nil {
		return nil, nil, err
	}
	warnings = append(keyWarnings, passwordWarnings...)

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

// readPassword returns nil where none is configured.
func readPassword(cfg Config) (password []byte, warnings []error, err error) {
	switch {
	case cfg.PasswordFile == "":
		return cfg.Password, nil, nil
	case len(cfg.Password) > 0:
		return nil, nil, keypath.Errorf([]string{"password_file"}, "a password is given as well as a password file; give one of them")
	}
	password, warnings, err = read("password_file", cfg.PasswordFile, maxPasswordFile)
	if err != nil {
		return nil, nil, err
	}
	if password = trimLineEnding(password); len(password) == 0 {
		return nil, nil, keypath.Errorf([]string{"password_file"}, "%s is empty; it should hold the key's password", cfg.PasswordFile)
	}
	return password, warnings, nil
}

// trimLineEnding removes one line ending, which an editor or echo puts there, and no more,
// since a password may end in white space.
func trimLineEnding(b []byte) []byte {
	if line, found := bytes.CutSuffix(b, []byte("\n")); found {
		return bytes.TrimSuffix(line, []byte("\r"))
	}
	return b
}

// read returns the content of the file that setting names, and a warning if others than its
// owner may read or change it.
func read(setting, path string, limit int64) (data []byte, warnings []error, err error) {
	if path == "" {
		return nil, nil, keypath.Errorf([]string{setting}, "no file is named")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, keypath.Errorf([]string{setting}, "opening the file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, keypath.Errorf([]string{setting}, "asking for the file's mode: %w", err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		warnings = append(warnings, keypath.Errorf([]string{setting},
			"%s has mode %04o, so that others than its owner may reach it; run: chmod 600 %[1]s", path, mode.Perm()))
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, nil, keypath.Errorf([]string{setting}, "reading the file: %w", err)
	case int64(len(data)) > limit:
		return nil, nil, keypath.Errorf([]string{setting}, "%s has more than %d bytes; is it the right file?", path, limit)
	}
	return data, warnings, nil
}

// check accepts the keys that a CA may have.
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
