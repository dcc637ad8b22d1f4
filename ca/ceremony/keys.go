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
	"fmt"
	"path/filepath"
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
	switch algorithm {
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, unknownAlgorithm(algorithm)
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
// PBKDF2-HMAC-SHA-256 and AES-256-CBC, which openssl can also decrypt. The password is not empty:
// for the library, an empty one means "do not encrypt".
func encryptKey(key crypto.Signer, password []byte, iterations int) ([]byte, error) {
	der, err := pkcs8.MarshalPrivateKey(key, password, &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: iterations, HMACHash: crypto.SHA256},
	})
	if err != nil {
		return nil, fmt.Errorf("encrypting key: %w", err)
	}
	return pem.Encode("ENCRYPTED PRIVATE KEY", der), nil
}

// keyFiles returns the files of the key of planned in folder, which is below dir, and the `signer`
// that names the key in a file of dir. A chosen password of a root is not written: a server that
// starts unattended needs one, a root does not.
func keyFiles(folder string, key crypto.Signer, planned PlannedCertificate, dir string) (all []file, block string, err error) {
	isRoot := folder == rootDir
	if planned.Signer != nil {
		if !isRoot {
			block, err = planned.Signer.Block(dir)
			return nil, block, err
		}
		block, err = planned.Signer.Block(filepath.Join(dir, rootDir))
		content := "# Where the key of this root is. Paths are relative to this file.\n" + block + "\n"
		return []file{{rootDir, signerFile, publicMode, []byte(content)}}, block, err
	}
	text, iterations := planned.Password, iterationsForChosen
	drawn := len(text) == 0
	if drawn {
		text, iterations = []byte(rand.Text()), iterationsForDrawn
	}
	encrypted, err := encryptKey(key, text, iterations)
	if err != nil {
		return nil, "", err
	}
	all = []file{{folder, keyFile, secretMode, encrypted}}
	if drawn || !isRoot {
		all = append(all, file{folder, passwordFile, secretMode, append(bytes.Clone(text), '\n')})
	}
	return all, fmt.Sprintf("{file: {key: %[1]s/%[2]s, password_file: %[1]s/%[3]s}}", folder, keyFile, passwordFile), nil
}

// chainPEM returns certificates as a PEM file.
func chainPEM(certificates ...*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, pem.Encode("CERTIFICATE", c.Raw)...)
	}
	return out
}
