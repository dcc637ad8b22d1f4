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
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	maxKeyFile = 64 << 10 // an RSA key of 8192 bits takes 7 KiB
	minRSABits = 2048
	maxRSABits = 8192
	convert    = "openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in OLD -out NEW"
)

// Open reads the private key in the PEM file keyFile, which has exactly one: ENCRYPTED PRIVATE KEY
// (PKCS#8, PBES2), or PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY. The last two may also have the
// older encryption in PEM headers. The key is ECDSA on P-256, P-384 or P-521, RSA of 2048 to 8192
// bits, or Ed25519. passwordFile holds the password: its whole content without one line ending at its
// end; "" for no password.
//
// Warnings are about keys that open but are badly protected. Warnings and errors have the key paths
// ["key"] and ["password_file"], and hold no part of the password or the key.
func Open(keyFile, passwordFile string) (signer crypto.Signer, warnings []error, err error) {
	warn := func(setting string, warning error) {
		if warning != nil {
			warnings = append(warnings, keypath.Errorf([]string{setting}, "%w", warning))
		}
	}
	data, warning, keyErr := files.ReadSecret(keyFile, maxKeyFile)
	warn("key", warning)
	var password []byte
	var passwordErr error
	if passwordFile != "" {
		password, warning, passwordErr = files.ReadSecretLine(passwordFile, "the key's password")
		warn("password_file", warning)
	}
	if err := errors.Join(keypath.Prefix(keyErr, "key"), keypath.Prefix(passwordErr, "password_file")); err != nil {
		return nil, nil, err
	}
	parsed, warning, err := parse(data, password)
	if warning != nil {
		warn("key", fmt.Errorf("%s: %w", keyFile, warning))
	}
	if err == nil {
		signer, err = check(parsed)
	}
	switch {
	case errors.Is(err, errWrongPassword):
		hint := ""
		if bytes.ContainsAny(password, "\r\n") {
			hint = "; the file has more than one line, and all of them count"
		}
		return nil, nil, keypath.Errorf([]string{"password_file"}, "the password in %s does not open the key %s, or the key is damaged or of a kind that is not supported%s", passwordFile, keyFile, hint)
	case err != nil:
		return nil, nil, keypath.Errorf([]string{"key"}, "%s: %w", keyFile, err)
	}
	return signer, warnings, nil
}

// parse returns the one private key in data. The warning states how to protect it better.
func parse(data, password []byte) (key any, warning, err error) {
	block, err := onlyKey(data)
	if err != nil {
		return nil, nil, err
	}
	//lint:ignore SA1019 it is weak, but operators have such keys: they open, with a warning
	inHeaders := x509.IsEncryptedPEMBlock(block)
	encrypted := inHeaders || block.Type == "ENCRYPTED PRIVATE KEY"
	der := block.Bytes
	switch {
	case encrypted && len(password) == 0:
		return nil, nil, errors.New("it is encrypted; name the file that holds its password as password_file")
	case inHeaders:
		warning = errors.New("its encryption is of the older kind, in PEM headers, which hardly slows guessing down; run: " + convert)
		//lint:ignore SA1019 see above
		if der, err = x509.DecryptPEMBlock(block, password); errors.Is(err, x509.IncorrectPasswordError) {
			err = errWrongPassword
		}
	case encrypted:
		key, err = decrypt(der, password)
		return key, nil, err
	case len(password) > 0:
		warning = errors.New("it is not encrypted, so its password is not used; encrypt it (run: " + convert + ") or remove password_file")
	default:
		warning = errors.New("it is not encrypted; run: " + convert)
	}
	if err != nil {
		return nil, nil, err
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		key, err = x509.ParsePKCS1PrivateKey(der)
	}
	switch {
	case err != nil && inHeaders: // a wrong password gives a valid padding once in 256 times
		return nil, nil, errWrongPassword
	case err != nil:
		return nil, nil, fmt.Errorf("parsing its %s: %w", block.Type, err)
	}
	return key, warning, nil
}

// onlyKey returns the block with the private key. No other block may be present, except the EC
// PARAMETERS that openssl writes before a key. Text around the block is ignored.
func onlyKey(data []byte) (found *pem.Block, err error) {
	blocks, _, err := pem.Blocks(data)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		switch block.Type {
		case "EC PARAMETERS":
			continue
		case "ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
		default:
			return nil, fmt.Errorf("it holds a %.40q block; it should hold one private key, ENCRYPTED PRIVATE KEY; to convert one, run: %s (ssh-keygen -p -m PKCS8 -f KEY for one of OpenSSH)", block.Type, convert)
		}
		if found != nil {
			return nil, errors.New("it holds two private keys; it should hold one and nothing else")
		}
		found = block
	}
	if found == nil {
		return nil, errors.New("it holds no PEM block; it should begin with -----BEGIN ENCRYPTED PRIVATE KEY-----; to convert DER, add -inform DER to: " + convert)
	}
	return found, nil
}

// check accepts the kinds of keys that a CA may have.
func check(parsed any) (crypto.Signer, error) {
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		if curve := key.Curve; curve != elliptic.P256() && curve != elliptic.P384() && curve != elliptic.P521() {
			return nil, fmt.Errorf("it is an ECDSA key on %s; the curve should be P-256, P-384 or P-521", curve.Params().Name)
		}
		return key, nil
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
