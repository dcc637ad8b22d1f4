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
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	maxKeyFile = 64 << 10 // an RSA key of 8192 bits takes 7 KiB
	minRSABits = 2048
	maxRSABits = 8192
	convert    = "openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in OLD -out NEW"

	// The most work that opening a key may take: about two seconds of one core, and 256 MiB.
	maxPBKDF2 = 10_000_000 // iterations
	maxScrypt = 2 << 20    // N·r·p; the memory is 128·N·r octets
)

// errWrongPassword also covers a damaged file, since the encryption has no checksum, and a kind of
// key that crypto/x509 does not read.
var errWrongPassword = errors.New("wrong password")

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
	parsed, warning, err := parseGuarded(data, password)
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

// parseGuarded is parse with its panics as errors: the library panics on an initialization vector or
// data of a wrong length, and Go's cryptography on what FIPS 140-3 mode forbids.
func parseGuarded(data, password []byte) (key any, warning, err error) {
	defer func() {
		if recover() == nil {
			return
		}
		key, err = nil, fmt.Errorf("the file is damaged; run: %s", convert)
		if fips140.Enforced() {
			err = fmt.Errorf("FIPS 140-3 mode forbids the encryption of the file (PBKDF2 needs a salt of 16 bytes; scrypt and PEM headers are not permitted), or the file is damaged; run: %s -saltlen 16", convert)
		}
	}()
	return parse(data, password)
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
		return nil, nil, errors.New("it is encrypted; name the file that holds its password as password_file (on a command line: --password-file, for a root --root-password-file)")
	case inHeaders:
		warning = errors.New("its encryption is of the older kind, in PEM headers, which hardly slows guessing down; run: " + convert)
		//lint:ignore SA1019 see above
		if der, err = x509.DecryptPEMBlock(block, password); err != nil {
			return nil, nil, errWrongPassword
		}
	case encrypted:
		key, err = decrypt(der, password)
		return key, nil, err
	case len(password) > 0:
		warning = errors.New("it is not encrypted, so its password is not used; encrypt it (run: " + convert + ") or remove password_file")
	default:
		warning = errors.New("it is not encrypted; run: " + convert)
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
func onlyKey(data []byte) (*pem.Block, error) {
	blocks, _, err := pem.Blocks(data)
	if err != nil {
		return nil, err
	}
	blocks = slices.DeleteFunc(blocks, func(b *pem.Block) bool { return b.Type == "EC PARAMETERS" })
	types := []string{"ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"}
	if len(blocks) == 1 && slices.Contains(types, blocks[0].Type) {
		return blocks[0], nil
	}
	var found []string
	for _, block := range blocks {
		found = append(found, fmt.Sprintf("%.40q", block.Type))
	}
	return nil, fmt.Errorf("it holds %d PEM blocks %v; it should hold one private key, ENCRYPTED PRIVATE KEY, and nothing else; to convert a key, run: %s (for DER, add -inform DER; for a key of OpenSSH, run: ssh-keygen -p -m PKCS8 -f KEY)", len(blocks), found, convert)
}

// decrypt returns the key in an EncryptedPrivateKeyInfo.
func decrypt(der, password []byte) (key any, err error) {
	if err = affordable(der); err == nil {
		key, err = pkcs8.ParsePKCS8PrivateKey(der, password)
	}
	switch {
	case err == nil:
		return key, nil
	case strings.Contains(err.Error(), "incorrect password"):
		return nil, errWrongPassword
	}
	return nil, fmt.Errorf("decrypting it: %w; run: %s", err, convert)
}

var oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}

// affordable refuses a key whose file asks for too much work, which the library would do: a hostile
// file could otherwise keep a server from starting.
//
//	EncryptedPrivateKeyInfo ::= SEQUENCE {              RFC 5958, section 3
//	    encryptionAlgorithm  EncryptionAlgorithmIdentifier,
//	    encryptedData        OCTET STRING }
//	PBES2-params ::= SEQUENCE {                         RFC 8018, appendix A.4
//	    keyDerivationFunc AlgorithmIdentifier {{PBES2-KDFs}},
//	    encryptionScheme AlgorithmIdentifier {{PBES2-Encs}} }
//
// All integers in the parameters of PBKDF2 (appendix A.2) and scrypt (RFC 7914, section 7.1) are
// factors of the work.
func affordable(der []byte) error {
	var info struct {
		Algorithm struct {
			PBES2  asn1.ObjectIdentifier
			Scheme struct {
				KDF struct {
					Algorithm  asn1.ObjectIdentifier
					Parameters []asn1.RawValue
				}
				Cipher pkix.AlgorithmIdentifier
			}
		}
		Data []byte
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return errors.New("it is not encrypted with PBES2, or the file is damaged")
	}
	kdf, work, most := info.Algorithm.Scheme.KDF, int64(1), int64(maxScrypt)
	if kdf.Algorithm.Equal(oidPBKDF2) {
		most = maxPBKDF2
	}
	for _, parameter := range kdf.Parameters {
		if parameter.Class != asn1.ClassUniversal || parameter.Tag != asn1.TagInteger {
			continue
		}
		var factor int64
		if _, err := asn1.Unmarshal(parameter.FullBytes, &factor); err != nil || factor < 1 || factor > most/work {
			return fmt.Errorf("its key derivation asks for more work than the %d steps that are allowed, or for none", most)
		}
		work *= factor
	}
	return nil
}

// check accepts the kinds of keys that a CA may have.
func check(parsed any) (crypto.Signer, error) {
	found := fmt.Sprintf("a %T", parsed)
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		if curve := key.Curve; curve == elliptic.P256() || curve == elliptic.P384() || curve == elliptic.P521() {
			return key, nil
		}
		found = "an ECDSA key on " + key.Curve.Params().Name
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits >= minRSABits && bits <= maxRSABits {
			return key, nil
		}
		found = fmt.Sprintf("an RSA key of %d bits", key.N.BitLen())
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("it is %s; it should be ECDSA on P-256, P-384 or P-521, RSA of %d to %d bits, or Ed25519", found, minRSABits, maxRSABits)
}
