// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// ExternalKey is a key outside the ceremony's files, for instance in a token, which never
// leaves that place.
type ExternalKey struct {
	// Signer signs with it. It is nil before the key is opened, which Check permits, and
	// until Make has generated the key.
	Signer crypto.Signer
	// Make generates a missing key, of one of Algorithms(), or opens it if it exists by now.
	// It is called once all other checks have passed, and its results become Signer and Made.
	// nil where keys cannot be generated.
	Make func(algorithm string) (key crypto.Signer, made bool, err error)
	// Made reports whether the key was generated for this ceremony, or existed before.
	Made bool
	// Where states for people where the key is, without a secret: `in the token "mayfly" as
	// "a"`.
	Where string
	// Block returns the `signer` that names the key in a file of the folder dir, as YAML in one
	// line.
	Block func(dir string) (string, error)
}

// signerFile names the external key of a root, in place of key.pem.
const signerFile = "signer.yaml"

// describe states the origin of the key, for a transcript and for the operator.
func (k *ExternalKey) describe() string {
	origin := "it was there before"
	if k.Made {
		origin = "made now, where it stays"
	}
	if k.Where != "" {
		origin += ": " + k.Where
	}
	return signer.Describe(k.Signer.Public()) + ", " + origin
}

// Stays adds to err, unless it is nil, that the key was generated before the error and stays:
// the ceremony cannot delete it. k may be nil.
func (k *ExternalKey) Stays(err error) error {
	if err == nil || k == nil || !k.Made {
		return err
	}
	return errors.Join(err, fmt.Errorf("a key was made before that, and stays %s; name it again, or delete it", cmp.Or(k.Where, "where it is")))
}

// check refuses an existing key that is unsuitable for a CA, or of another algorithm than the
// requested one.
func (k *ExternalKey) check(algorithm string) error {
	if k.Signer == nil {
		return nil
	}
	public := k.Signer.Public()
	if err := checkKey(public); err != nil {
		return err
	}
	if algorithm == "" || algorithm == algorithmOf(public) {
		return nil
	}
	return fmt.Errorf("the algorithm is to be %s, and the key that is there already (%s) is %s; leave the algorithm out, or name another key",
		algorithm, cmp.Or(k.Where, "elsewhere"), signer.Describe(public))
}

// algorithmOf returns the name of a key's algorithm among Algorithms(); "" for another.
func algorithmOf(public crypto.PublicKey) string {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return map[string]string{"P-256": "ecdsa-p256", "P-384": "ecdsa-p384"}[public.Curve.Params().Name]
	case *rsa.PublicKey:
		if public.N.BitLen() == 4096 {
			return "rsa-4096"
		}
	}
	return ""
}

// newKey returns the external key, which it generates if missing, or generates a key in
// memory. algorithm is "" where none was requested.
func newKey(external *ExternalKey, algorithm string) (crypto.Signer, error) {
	switch {
	case external == nil:
		return GenerateKey(cmp.Or(algorithm, DefaultAlgorithm))
	case external.Signer != nil:
		return external.Signer, nil
	case external.Make == nil:
		return nil, fmt.Errorf("there is no key %s", external.Where)
	}
	key, made, err := external.Make(cmp.Or(algorithm, DefaultAlgorithm))
	if err != nil {
		return nil, err
	}
	external.Signer, external.Made = key, made
	return key, external.check(algorithm)
}

// checkKeySource refuses an unsuitable existing key, and a password for an external key.
func checkKeySource(external *ExternalKey, algorithm, what string, password []byte) error {
	switch {
	case external == nil:
		return checkPassword(what, password)
	case len(password) > 0:
		return fmt.Errorf("the %s is for a key in a file, and this one is elsewhere", what)
	default:
		return external.check(algorithm)
	}
}

// checkDistinct refuses two names for one key: each CA needs its own, or the root's key cannot
// be kept offline. Any of keys may be nil.
func checkDistinct(keys []*ExternalKey) error {
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k == nil || other == nil || !k.is(other) {
				continue
			}
			return fmt.Errorf("one key, %s, is named twice; each CA needs its own, or the root's cannot be kept offline", cmp.Or(k.Where, "which is elsewhere"))
		}
	}
	return nil
}

// is reports whether both are known to be one key.
func (k *ExternalKey) is(other *ExternalKey) bool {
	if k.Signer != nil && other.Signer != nil {
		public, ok := k.Signer.Public().(interface{ Equal(crypto.PublicKey) bool })
		return ok && public.Equal(other.Signer.Public())
	}
	return k.Where != "" && k.Where == other.Where
}
