// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits on a key set.
const (
	maxKeys    = 64
	minRSABits = 2048 // RFC 7518, sections 3.3 and 3.5
	maxRSABits = 8192 // the time for a signature grows with the square
)

// publicKey is a key that an issuer may sign tokens with.
type publicKey struct {
	id  string // `kid`; may be empty, and need not be unique
	alg string // the only algorithm that the JWK is for; "" where it does not say
	key crypto.PublicKey
}

// jwk has the members of a JSON Web Key (RFC 7517 and RFC 7518, section 6) that matter for
// the public half of a signing key. Others, above all x5c and private ones, are not read.
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

// parseKeySet decodes a JWK Set (RFC 7517, section 5). As that section asks, keys of unknown
// kinds and broken keys are passed over; their number is returned as ignored.
func parseKeySet(body []byte) (list []publicKey, ignored int, err error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	// Doubled members spoil one key, below, and not the set.
	if err := json.Unmarshal(body, &set, jsontext.AllowDuplicateNames(true)); err != nil {
		return nil, 0, fmt.Errorf("decoding: %w", err)
	}
	if set.Keys == nil {
		return nil, 0, errors.New("the document has no member keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, 0, fmt.Errorf("the set has %d keys; at most %d are accepted", len(set.Keys), maxKeys)
	}
	for _, raw := range set.Keys {
		if key, err := parseKey(raw); err == nil {
			list = append(list, key)
		} else {
			ignored++
		}
	}
	return list, ignored, nil
}

func parseKey(raw []byte) (publicKey, error) {
	var members jwk
	if err := json.Unmarshal(raw, &members); err != nil {
		return publicKey{}, fmt.Errorf("decoding: %w", err)
	}
	switch {
	case members.Use != "" && members.Use != "sig":
		return publicKey{}, errors.New("the key is not for signatures")
	case members.KeyOps != nil && !slices.Contains(members.KeyOps, "verify"):
		return publicKey{}, errors.New("the key is not for verifying")
	case members.Alg != "" && !supportedAlgorithm(members.Alg):
		return publicKey{}, errors.New("the key is for another algorithm")
	}
	public, err := json.Marshal(members)
	if err != nil {
		return publicKey{}, fmt.Errorf("encoding: %w", err)
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(public); err != nil {
		return publicKey{}, fmt.Errorf("decoding key: %w", err)
	}
	if !parsed.Valid() || !parsed.IsPublic() {
		return publicKey{}, errors.New("the key is no valid public key")
	}
	if key, ok := parsed.Key.(*rsa.PublicKey); ok && (key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits) {
		return publicKey{}, errors.New("the RSA key is too small or too large")
	}
	return publicKey{id: members.Kid, alg: members.Alg, key: parsed.Key}, nil
}

// has tells whether some key has the given `kid`; a token without one can try them all.
func (k *keys) has(keyID string) bool {
	return keyID == "" || slices.ContainsFunc(k.list, func(key publicKey) bool { return key.id == keyID })
}

func algorithmRefused(alg string, accepted []string, issuerURL string) error {
	if len(accepted) == 0 {
		return refusal.New(refusal.SignatureInvalid,
			"the ID token's alg is %s; issuer %s lists none of the algorithms that are accepted from it", quote(alg), quote(issuerURL))
	}
	return refusal.New(refusal.SignatureInvalid, "the ID token's alg is %s; from issuer %s wanted is %s",
		quote(alg), quote(issuerURL), quoteList(accepted))
}
