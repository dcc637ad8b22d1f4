// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

const convert = "openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW"

// errWrongPassword also covers a damaged file: the encryption has no checksum.
var errWrongPassword = errors.New("the password does not open the key, or the file is damaged")

// parse returns the one private key in data. Warnings state how to protect it better.
func parse(data, password []byte) (key any, warnings []error, err error) {
	block, err := onlyKey(data)
	if err != nil {
		return nil, nil, err
	}
	legacy := isLegacy(block)
	if (legacy || block.Type == "ENCRYPTED PRIVATE KEY") && len(password) == 0 {
		return nil, nil, errors.New("it is encrypted; name the file that holds its password as password_file")
	}
	der := block.Bytes
	switch {
	case legacy:
		if der, err = decryptLegacy(block, password); err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, errors.New("its encryption is of the older kind, in PEM headers, which hardly slows guessing down; run: "+convert))
	case block.Type == "ENCRYPTED PRIVATE KEY":
		if der, err = decryptPKCS8(der, password); err != nil {
			return nil, nil, err
		}
	case len(password) > 0:
		warnings = append(warnings, errors.New("it is not encrypted, so its password is not used; encrypt it (run: "+convert+") or remove password_file"))
	default:
		warnings = append(warnings, errors.New("it is not encrypted; run: "+convert))
	}
	switch block.Type {
	case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	default:
		err = fmt.Errorf("unknown type %.40q", block.Type)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("parsing its %s: %w", block.Type, err)
	}
	return key, warnings, nil
}

// onlyKey returns the block with the private key. No other block may be present, except the EC
// PARAMETERS that openssl writes before a key. Text around the block is ignored.
func onlyKey(data []byte) (*pem.Block, error) {
	blocks, rest, err := pem.Blocks(data)
	if err != nil {
		return nil, err
	}
	var found *pem.Block
	for _, block := range blocks {
		switch {
		case block.Type == "EC PARAMETERS":
		case found != nil:
			return nil, fmt.Errorf("it holds a %.40q and a %.40q block; it should hold one private key and nothing else", found.Type, block.Type)
		default:
			found = block
		}
	}
	if found == nil {
		if bytes.HasPrefix(rest, []byte{0x30}) {
			return nil, errors.New("it looks like DER; convert it to PEM, run: openssl pkcs8 -topk8 -v2 aes-256-cbc -inform DER -in OLD -out NEW")
		}
		return nil, errors.New("it holds no PEM block; it should begin with -----BEGIN ENCRYPTED PRIVATE KEY-----")
	}
	switch found.Type {
	case "ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
		return found, nil
	case "OPENSSH PRIVATE KEY":
		return nil, errors.New("it is an OpenSSH key; run: ssh-keygen -p -m PKCS8 -f KEY")
	default:
		return nil, fmt.Errorf("it holds a %.40q block; it should be a private key, ENCRYPTED PRIVATE KEY", found.Type)
	}
}

// isLegacy reports the encryption of RFC 1421, in PEM headers. crypto/x509 deprecates it as weak,
// but operators have such keys: they open, with a warning.
func isLegacy(block *pem.Block) bool {
	//lint:ignore SA1019 see above
	return x509.IsEncryptedPEMBlock(block)
}

func decryptLegacy(block *pem.Block, password []byte) ([]byte, error) {
	//lint:ignore SA1019 see isLegacy
	der, err := x509.DecryptPEMBlock(block, password)
	switch {
	case errors.Is(err, x509.IncorrectPasswordError), err == nil && !isSequence(der):
		return nil, errWrongPassword
	case err != nil:
		return nil, fmt.Errorf("decrypting: %w", err)
	}
	return der, nil
}

// isSequence reports whether der is exactly one ASN.1 SEQUENCE, as every private key is. A wrong
// password gives a valid padding once in 256 times; this check detects that.
func isSequence(der []byte) bool {
	var content cryptobyte.String
	in := cryptobyte.String(der)
	return in.ReadASN1(&content, asn1.SEQUENCE) && in.Empty()
}
