// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// ExternalKey is a key that lies elsewhere than in a file of the ceremony's, and never leaves
// that place.
type ExternalKey struct {
	// Signer signs with it.
	Signer crypto.Signer
	// Made tells whether it was made for this ceremony, or was there before.
	Made bool
	// Block returns the `signer` that names it in a file of the folder dir, as YAML in one line.
	Block func(dir string) (string, error)
}

// signerFile names the key of a root that lies elsewhere, in the place of key.pem.
const signerFile = "signer.yaml"

// describe says where the key is from, for a transcript and for who made it.
func (k *ExternalKey) describe() string {
	origin := "it was there before"
	if k.Made {
		origin = "made now, where it stays"
	}
	return signer.Describe(k.Signer.Public()) + ", " + origin
}

// file is signer.yaml of a root whose folder will be dir.
func (k *ExternalKey) file(folder, dir string) (file, error) {
	block, err := k.Block(dir)
	if err != nil {
		return file{}, err
	}
	content := "# Where the key of this root is. Paths are relative to this file.\n" + block + "\n"
	return file{folder, signerFile, publicMode, []byte(content)}, nil
}

// newKey returns the key that is elsewhere, or makes one.
func newKey(external *ExternalKey, algorithm string) (crypto.Signer, error) {
	if external != nil {
		return external.Signer, nil
	}
	return GenerateKey(algorithm)
}

// checkKeySource refuses a password for a key that is in no file of ours.
func checkKeySource(external *ExternalKey, algorithm, what string, password []byte) error {
	if external == nil {
		return errors.Join(checkAlgorithm(algorithm), checkPassword(what, password))
	}
	if len(password) > 0 {
		return fmt.Errorf("the %s is for a key in a file, and this one is elsewhere", what)
	}
	return nil
}
