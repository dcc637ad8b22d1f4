// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	encodingasn1 "encoding/asn1"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"
)

// Limits on the cost of opening a key: about two seconds of one core, and 256 MiB.
const (
	maxIterations   = 10_000_000 // of PBKDF2
	maxScryptMemory = 256 << 20  // 128·N·r
	maxScryptWork   = 4 << 20    // N·r·p
)

// Object identifiers in dotted form.
const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBKDF2 = "1.2.840.113549.1.5.12"
	oidScrypt = "1.3.6.1.4.1.11591.4.11"

	oidHMACWithSHA1   = "1.2.840.113549.2.7"
	oidHMACWithSHA256 = "1.2.840.113549.2.9"
	oidHMACWithSHA384 = "1.2.840.113549.2.10"
	oidHMACWithSHA512 = "1.2.840.113549.2.11"

	oidDESEDE3CBC = "1.2.840.113549.3.7"
	oidAES128CBC  = "2.16.840.1.101.3.4.1.2"
	oidAES192CBC  = "2.16.840.1.101.3.4.1.22"
	oidAES256CBC  = "2.16.840.1.101.3.4.1.42"
)

var errNotPKCS8 = errors.New("it is not the DER of an encrypted PKCS#8 key; the file is damaged")

func unsupported(what, oid string) error {
	return fmt.Errorf("its %s %s is not supported; run: %s", what, oid, convert)
}

// decryptPKCS8 returns the PrivateKeyInfo inside, or errWrongPassword. We parse PBES2 ourselves:
// the available libraries accept any cost that the file sets and panic on wrong lengths. They
// also cannot distinguish a wrong password from a kind of key that they do not support.
//
//	EncryptedPrivateKeyInfo ::= SEQUENCE {              RFC 5958, section 3
//	    encryptionAlgorithm  EncryptionAlgorithmIdentifier,
//	    encryptedData        OCTET STRING }
//	PBES2-params ::= SEQUENCE {                         RFC 8018, appendix A.4
//	    keyDerivationFunc AlgorithmIdentifier {{PBES2-KDFs}},
//	    encryptionScheme AlgorithmIdentifier {{PBES2-Encs}} }
func decryptPKCS8(der, password []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var info, data, pbes2 cryptobyte.String
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() {
		return nil, errNotPKCS8
	}
	scheme, params, ok := readAlgorithm(&info)
	if !ok || !info.ReadASN1(&data, asn1.OCTET_STRING) || !info.Empty() {
		return nil, errNotPKCS8
	}
	if scheme != oidPBES2 {
		return nil, unsupported("encryption", scheme)
	}
	if !params.ReadASN1(&pbes2, asn1.SEQUENCE) || !params.Empty() {
		return nil, errNotPKCS8
	}
	kdfOID, kdfParams, ok1 := readAlgorithm(&pbes2)
	cipherOID, cipherParams, ok2 := readAlgorithm(&pbes2)
	if !ok1 || !ok2 || !pbes2.Empty() {
		return nil, errNotPKCS8
	}
	c, err := parseCipher(cipherOID, cipherParams)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data)%len(c.iv) != 0 {
		return nil, errNotPKCS8
	}
	var key []byte
	switch kdfOID {
	case oidPBKDF2:
		key, err = derivePBKDF2(kdfParams, password, c.keySize)
	case oidScrypt:
		key, err = deriveScrypt(kdfParams, password, c.keySize)
	default:
		err = unsupported("key derivation", kdfOID)
	}
	if err != nil {
		return nil, err
	}
	return c.decrypt(key, data)
}

// readAlgorithm reads an AlgorithmIdentifier and returns its parameters unparsed.
//
//	AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }
func readAlgorithm(s *cryptobyte.String) (oid string, params cryptobyte.String, ok bool) {
	var id encodingasn1.ObjectIdentifier
	if !s.ReadASN1(&params, asn1.SEQUENCE) || !params.ReadASN1ObjectIdentifier(&id) {
		return "", nil, false
	}
	return id.String(), params, true
}

// cbc is a block cipher in CBC mode. Its data is padded to whole blocks. len(iv) is the size of a
// block.
type cbc struct {
	newBlock func(key []byte) (cipher.Block, error)
	keySize  int
	iv       []byte
}

// parseCipher supports the ciphers with the initialization vector as their only parameter (RFC
// 8018, appendix B.2.2 and B.2.5).
func parseCipher(oid string, params cryptobyte.String) (cbc, error) {
	var (
		c         cbc
		blockSize = aes.BlockSize
		iv        cryptobyte.String
	)
	switch oid {
	case oidAES128CBC:
		c = cbc{newBlock: aes.NewCipher, keySize: 16}
	case oidAES192CBC:
		c = cbc{newBlock: aes.NewCipher, keySize: 24}
	case oidAES256CBC:
		c = cbc{newBlock: aes.NewCipher, keySize: 32}
	case oidDESEDE3CBC:
		c, blockSize = cbc{newBlock: des.NewTripleDESCipher, keySize: 24}, des.BlockSize
	default:
		return cbc{}, unsupported("cipher", oid)
	}
	if !params.ReadASN1(&iv, asn1.OCTET_STRING) || !params.Empty() || len(iv) != blockSize {
		return cbc{}, errNotPKCS8
	}
	c.iv = iv
	return c, nil
}

// decrypt returns data without its padding: n octets of value n (RFC 8018, section 6.1.1).
func (c cbc) decrypt(key, data []byte) ([]byte, error) {
	block, err := c.newBlock(key)
	if err != nil {
		return nil, fmt.Errorf("preparing its cipher: %w", err)
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, c.iv).CryptBlocks(plain, data)
	n := int(plain[len(plain)-1])
	if n < 1 || n > len(c.iv) || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, errWrongPassword
	}
	if plain = plain[:len(plain)-n]; !isSequence(plain) {
		return nil, errWrongPassword
	}
	return plain, nil
}

// derivePBKDF2 derives a key of size octets.
//
//	PBKDF2-params ::= SEQUENCE {                        RFC 8018, appendix A.2
//	    salt CHOICE { specified OCTET STRING, otherSource AlgorithmIdentifier {{PBKDF2-SaltSources}} },
//	    iterationCount INTEGER (1..MAX),
//	    keyLength INTEGER (1..MAX) OPTIONAL,
//	    prf AlgorithmIdentifier {{PBKDF2-PRFs}} DEFAULT algid-hmacWithSHA1 }
func derivePBKDF2(params cryptobyte.String, password []byte, size int) ([]byte, error) {
	var (
		pbkdf2Params, salt cryptobyte.String
		iterations         int64
	)
	if !params.ReadASN1(&pbkdf2Params, asn1.SEQUENCE) || !params.Empty() ||
		!pbkdf2Params.ReadASN1(&salt, asn1.OCTET_STRING) || !pbkdf2Params.ReadASN1Integer(&iterations) ||
		!skipKeyLength(&pbkdf2Params, size) {
		return nil, errNotPKCS8
	}
	if iterations < 1 || iterations > maxIterations {
		return nil, fmt.Errorf("its key derivation asks for %d iterations of PBKDF2; 1 to %d are allowed; run: %s", iterations, maxIterations, convert)
	}
	prf := oidHMACWithSHA1
	if !pbkdf2Params.Empty() {
		var ok bool
		if prf, _, ok = readAlgorithm(&pbkdf2Params); !ok || !pbkdf2Params.Empty() {
			return nil, errNotPKCS8
		}
	}
	var h func() hash.Hash
	switch prf {
	case oidHMACWithSHA1:
		h = sha1.New
	case oidHMACWithSHA256:
		h = sha256.New
	case oidHMACWithSHA384:
		h = sha512.New384
	case oidHMACWithSHA512:
		h = sha512.New
	default:
		return nil, unsupported("pseudo-random function", prf)
	}
	key, err := pbkdf2.Key(h, string(password), salt, int(iterations), size)
	if err != nil {
		return nil, fmt.Errorf("deriving its key: %w", err)
	}
	return key, nil
}

// skipKeyLength reads an optional keyLength, which must be the length that the cipher needs.
func skipKeyLength(s *cryptobyte.String, size int) bool {
	if !s.PeekASN1Tag(asn1.INTEGER) {
		return true
	}
	var length int64
	return s.ReadASN1Integer(&length) && length == int64(size)
}

// deriveScrypt derives a key of size octets.
//
//	scrypt-params ::= SEQUENCE {                        RFC 7914, section 7.1
//	    salt OCTET STRING,
//	    costParameter INTEGER (1..MAX),
//	    blockSize INTEGER (1..MAX),
//	    parallelizationParameter INTEGER (1..MAX),
//	    keyLength INTEGER (1..MAX) OPTIONAL }
func deriveScrypt(params cryptobyte.String, password []byte, size int) ([]byte, error) {
	var (
		scryptParams, salt cryptobyte.String
		n, r, p            int64
	)
	if !params.ReadASN1(&scryptParams, asn1.SEQUENCE) || !params.Empty() || !scryptParams.ReadASN1(&salt, asn1.OCTET_STRING) ||
		!scryptParams.ReadASN1Integer(&n) || !scryptParams.ReadASN1Integer(&r) || !scryptParams.ReadASN1Integer(&p) ||
		!skipKeyLength(&scryptParams, size) || !scryptParams.Empty() {
		return nil, errNotPKCS8
	}
	// Each factor is bounded first, so that no product overflows.
	const each = maxScryptWork
	if n < 1 || r < 1 || p < 1 || n > each || r > each || p > each || 128*n*r > maxScryptMemory || n*r*p > maxScryptWork {
		return nil, fmt.Errorf("its key derivation asks for scrypt with N=%d, r=%d, p=%d, which is more than is allowed; run: %s", n, r, p, convert)
	}
	key, err := scrypt.Key(password, salt, int(n), int(r), int(p), size)
	if err != nil {
		return nil, fmt.Errorf("deriving its key: %w", err)
	}
	return key, nil
}
