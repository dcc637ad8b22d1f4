// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// DefaultAlgorithm is the algorithm of a CA key if none is configured.
const DefaultAlgorithm = "ecdsa-p384"

// Algorithms returns the names that GenerateKey accepts.
func Algorithms() []string { return []string{DefaultAlgorithm, "ecdsa-p256", "rsa-4096"} }

// GenerateKey returns a new key of an algorithm that Algorithms lists.
func GenerateKey(algorithm string) (crypto.Signer, error) {
	var (
		key crypto.Signer
		err error
	)
	switch algorithm {
	case "ecdsa-p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa-4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, unknownAlgorithm(algorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	return key, nil
}

// checkAlgorithm accepts "" for any.
func checkAlgorithm(algorithm string) error {
	if algorithm != "" && !slices.Contains(Algorithms(), algorithm) {
		return unknownAlgorithm(algorithm)
	}
	return nil
}

func unknownAlgorithm(algorithm string) error {
	return fmt.Errorf("the key algorithm %.40q is not known; it should be one of %s", algorithm, strings.Join(Algorithms(), ", "))
}

// The iterations of PBKDF2. They slow down the guessing of a password, and cost time at every
// start. A password that a person chose gets OWASP's recommendation, about 90 ms. A generated
// one has 130 bits, which cannot be guessed: 1.5 ms for it keep the start of a server short.
const (
	iterationsForChosen = 600_000
	iterationsForDrawn  = 10_000
)

const (
	minPassword = 8
	maxPassword = 1024
)

// password decrypts a key file.
type password struct {
	text  []byte
	drawn bool
}

// newPassword returns chosen, or generates a password if it is empty.
func newPassword(chosen []byte) password {
	if len(chosen) > 0 {
		return password{text: chosen}
	}
	return password{text: []byte(rand.Text()), drawn: true}
}

func (p password) iterations() int {
	if p.drawn {
		return iterationsForDrawn
	}
	return iterationsForChosen
}

// file returns the password file's content: the password and a newline.
func (p password) file() []byte { return append(bytes.Clone(p.text), '\n') }

// checkPassword refuses a password that a password file cannot hold, or that is too short.
func checkPassword(what string, text []byte) error {
	switch {
	case len(text) == 0:
		return nil
	case len(text) < minPassword || len(text) > maxPassword:
		return fmt.Errorf("the %s has %d characters; it should have %d to %d, or be left out to have one drawn", what, len(text), minPassword, maxPassword)
	case bytes.ContainsAny(text, "\r\n"):
		return fmt.Errorf("the %s holds a line ending; it should be a single line", what)
	}
	return nil
}

// encryptKey returns key as a PEM block of type ENCRYPTED PRIVATE KEY: PKCS#8 under PBES2 with
// PBKDF2-HMAC-SHA-256 and AES-256-CBC, which openssl can also decrypt.
func encryptKey(key crypto.Signer, p password) ([]byte, error) {
	if len(p.text) == 0 { // for the library, an empty one means "do not encrypt"
		return nil, errors.New("encrypting key: the password is empty")
	}
	der, err := pkcs8.MarshalPrivateKey(key, p.text, &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: p.iterations(), HMACHash: crypto.SHA256},
	})
	if err != nil {
		return nil, fmt.Errorf("encrypting key: %w", err)
	}
	return pem.Encode("ENCRYPTED PRIVATE KEY", der), nil
}

// keyFiles returns the files of an intermediate's key in folder, which is below dir, and the
// `signer` that names it in a file of dir.
func keyFiles(folder string, key crypto.Signer, external *ExternalKey, dir string, chosen []byte) (files []file, block string, err error) {
	if external != nil {
		block, err = external.Block(dir)
		return nil, block, err
	}
	secret := newPassword(chosen)
	encrypted, err := encryptKey(key, secret)
	if err != nil {
		return nil, "", err
	}
	return []file{{folder, passwordFile, secretMode, secret.file()}, {folder, keyFile, secretMode, encrypted}},
		fmt.Sprintf("{file: {key: %[1]s/%[2]s, password_file: %[1]s/%[3]s}}", folder, keyFile, passwordFile), nil
}

// rootKeyFiles returns the files of a root's key. It writes no chosen password: a server that
// starts unattended needs one, a root does not.
func rootKeyFiles(key crypto.Signer, external *ExternalKey, dir string, chosen []byte) ([]file, error) {
	if external != nil {
		f, err := external.file(rootDir, dir)
		return []file{f}, err
	}
	secret := newPassword(chosen)
	encrypted, err := encryptKey(key, secret)
	if err != nil {
		return nil, err
	}
	files := []file{{rootDir, keyFile, secretMode, encrypted}}
	if secret.drawn {
		files = append(files, file{rootDir, passwordFile, secretMode, secret.file()})
	}
	return files, nil
}

// chainPEM returns certificates as a PEM file.
func chainPEM(certificates ...*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, pem.Encode("CERTIFICATE", c.Raw)...)
	}
	return out
}
