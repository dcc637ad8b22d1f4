// SPDX-License-Identifier: Apache-2.0

package file

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/youmark/pkcs8"
)

// errWrongPassword also covers a damaged file, since the encryption has no checksum, and a kind of
// key that crypto/x509 does not read.
var errWrongPassword = errors.New("wrong password")

var errDamaged = errors.New("it is not the DER of an encrypted PKCS#8 key; the file is damaged")

// decrypt returns the key in an EncryptedPrivateKeyInfo.
func decrypt(der, password []byte) (key any, err error) {
	if err := affordable(der); err != nil {
		return nil, err
	}
	defer func() {
		if recover() != nil { // the library panics on an initialization vector or data of a wrong length
			key, err = nil, errDamaged
		}
	}()
	key, err = pkcs8.ParsePKCS8PrivateKey(der, password)
	switch {
	case err == nil:
		return key, nil
	case strings.Contains(err.Error(), "incorrect password"):
		return nil, errWrongPassword
	}
	return nil, fmt.Errorf("decrypting it: %w; run: %s", err, convert)
}

// The most work that opening a key may take: about two seconds of one core, and 256 MiB.
const (
	maxPBKDF2 = 10_000_000 // iterations
	maxScrypt = 2 << 20    // N·r·p; the memory is 128·N·r octets
)

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
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	var scheme struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	var parameters []asn1.RawValue
	for _, part := range []struct {
		der  func() []byte
		into any
	}{
		{func() []byte { return der }, &info},
		{func() []byte { return info.Algorithm.Parameters.FullBytes }, &scheme},
		{func() []byte { return scheme.KDF.Parameters.FullBytes }, &parameters},
	} {
		if rest, err := asn1.Unmarshal(part.der(), part.into); err != nil || len(rest) > 0 {
			return fmt.Errorf("%w, or not encrypted with PBES2; run: %s", errDamaged, convert)
		}
	}
	work, most := int64(1), int64(maxScrypt)
	if scheme.KDF.Algorithm.Equal(oidPBKDF2) {
		most = maxPBKDF2
	}
	for _, parameter := range parameters {
		if parameter.Class != asn1.ClassUniversal || parameter.Tag != asn1.TagInteger {
			continue
		}
		var factor int64
		if _, err := asn1.Unmarshal(parameter.FullBytes, &factor); err != nil || factor < 1 || factor > most/work {
			return fmt.Errorf("its key derivation asks for more work than the %d steps that are allowed, or for none; run: %s", most, convert)
		}
		work *= factor
	}
	return nil
}
