// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits on a key set.
const (
	maxKeys    = 64   // keys parsed when the set is read, and tried for a token without a `kid`
	minRSABits = 2048 // RFC 7518, sections 3.3 and 3.5
	maxRSABits = 8192 // the time for a signature grows with the square
)

// publicKey is a key that an issuer may sign tokens with.
type publicKey struct {
	id  string // `kid`; may be empty or shared by several keys
	alg string // the only algorithm of the JWK; "" if it names none
	key crypto.PublicKey
	// unparsed is set, and key is not, after the first maxKeys keys of a set. Only a token that
	// names such a key causes its parsing.
	unparsed *jwk
}

// jwk has the members of a JSON Web Key (RFC 7517 and RFC 7518, section 6) that describe the public
// half of a signing key. Other members, above all x5c and private ones, are not read.
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid,omitzero"`
	Use    string   `json:"use,omitzero"`
	KeyOps []string `json:"key_ops,omitzero"`
	Alg    string   `json:"alg,omitzero"`
	Crv    string   `json:"crv,omitzero"`
	X      string   `json:"x,omitzero"`
	Y      string   `json:"y,omitzero"`
	N      string   `json:"n,omitzero"`
	E      string   `json:"e,omitzero"`
}

// parseKeySet decodes a JWK Set (RFC 7517, section 5). As that section requires, it skips keys of
// unknown kinds and broken keys; ignored is their number. If spiffe is set, the set may be a SPIFFE
// bundle.
func parseKeySet(body []byte, spiffe bool) (list []publicKey, ignored int, err error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	// Text that is not UTF-8, or a doubled member, affects at most one key below, and not the set.
	lenient := json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err := json.Unmarshal(body, &set, lenient); err != nil {
		return nil, 0, fmt.Errorf("decoding: %w", err)
	}
	if set.Keys == nil {
		return nil, 0, errors.New("the document has no member keys, or one that is null")
	}
	for _, raw := range set.Keys {
		var members jwk
		if json.Unmarshal(raw, &members, jsontext.AllowInvalidUTF8(true)) != nil || !members.verifiesTokens(spiffe) {
			continue
		}
		if len(list) >= maxKeys {
			list = append(list, publicKey{id: members.Kid, alg: members.Alg, unparsed: &members})
		} else if key, ok := members.publicKey(); ok {
			list = append(list, key)
		}
	}
	return list, len(set.Keys) - len(list), nil
}

// verifiesTokens reports whether the key is for verifying signatures of tokens.
func (members *jwk) verifiesTokens(spiffe bool) bool {
	// SPIFFE Trust Domain and Bundle, section 4.2.2: a bundle has "jwt-svid" instead of "sig".
	use := members.Use == "" || members.Use == "sig" || spiffe && members.Use == "jwt-svid"
	return use && (members.KeyOps == nil || slices.Contains(members.KeyOps, "verify")) &&
		(members.Alg == "" || supportedAlgorithm(members.Alg))
}

// publicKey returns the key that the members describe; ok is false if it is not usable.
func (members *jwk) publicKey() (key publicKey, ok bool) {
	public, err := json.Marshal(members)
	if err != nil {
		return publicKey{}, false
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(public); err != nil || !parsed.Valid() || !parsed.IsPublic() {
		return publicKey{}, false
	}
	if key, ok := parsed.Key.(*rsa.PublicKey); ok && (key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits) {
		return publicKey{}, false
	}
	return publicKey{id: members.Kid, alg: members.Alg, key: parsed.Key}, true
}

// candidates yields the keys to try for a token: those with its `kid`, or without a `kid` all
// parsed keys. It yields at most maxKeys.
func (k *keys) candidates(keyID string) iter.Seq[publicKey] {
	return func(yield func(publicKey) bool) {
		left := maxKeys
		for _, key := range k.list {
			if left == 0 || keyID == "" && key.unparsed != nil {
				return
			}
			if keyID != "" && key.id != keyID {
				continue
			}
			left--
			ok := true
			if key.unparsed != nil {
				key, ok = key.unparsed.publicKey()
			}
			if ok && !yield(key) {
				return
			}
		}
	}
}

// has reports whether some key has the given `kid`; a token without a `kid` can try all keys.
func (k *keys) has(keyID string) bool {
	return keyID == "" || slices.ContainsFunc(k.list, func(key publicKey) bool { return key.id == keyID })
}
