// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits on a key set.
const (
	maxKeys    = 64   // keys that are tried for a token, and keys of an issuer that a wildcard matches
	minRSABits = 2048 // RFC 7518, sections 3.3 and 3.5
	maxRSABits = 8192 // the time for a signature grows with the square
)

// keys are the keys of one issuer at one time. They are immutable.
type keys struct {
	issuerURL  string
	jwksURI    string
	algorithms []string // algorithms that the issuer signs with and the entry accepts
	list       []publicKey
	fetchedAt  time.Time // time of the request for them
}

// has reports whether some key has the given `kid`; a token without a `kid` can try all keys.
func (k *keys) has(keyID string) bool {
	return keyID == "" || slices.ContainsFunc(k.list, func(key publicKey) bool { return key.id == keyID })
}

// publicKey is a key that an issuer may sign tokens with.
type publicKey struct {
	id  string // `kid`; may be empty or shared by several keys
	alg string // the only algorithm of the JWK; "" if it names none
	key crypto.PublicKey
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

// lenient decodes documents in which members that this package does not read have text that is not
// UTF-8, or occur twice.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// parseKeySet decodes at most the given number of keys of a JWK Set (RFC 7517, section 5). As that
// section requires, it skips keys of unknown kinds and broken keys. If spiffe is set, the set may be a
// SPIFFE bundle.
func parseKeySet(body []byte, spiffe bool, most int) (list []publicKey, err error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(body, &set, lenient); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if set.Keys == nil {
		return nil, errors.New("the document has no member keys, or one that is null")
	}
	for _, raw := range set.Keys {
		if key, ok := parseKey(raw, spiffe); ok && len(list) < most {
			list = append(list, key)
		}
	}
	return list, nil
}

// parseKey decodes a JWK; ok is false if it is not usable for verifying signatures of tokens.
func parseKey(raw jsontext.Value, spiffe bool) (key publicKey, ok bool) {
	var members jwk
	if json.Unmarshal(raw, &members, jsontext.AllowInvalidUTF8(true)) != nil {
		return publicKey{}, false
	}
	// SPIFFE Trust Domain and Bundle, section 4.2.2: a bundle has "jwt-svid" instead of "sig".
	use := members.Use == "" || members.Use == "sig" || spiffe && members.Use == "jwt-svid"
	if !use || members.KeyOps != nil && !slices.Contains(members.KeyOps, "verify") || members.Alg != "" && !supportedAlgorithm(members.Alg) {
		return publicKey{}, false
	}
	public, err := json.Marshal(members)
	var parsed jose.JSONWebKey
	if err != nil || parsed.UnmarshalJSON(public) != nil || !parsed.Valid() || !parsed.IsPublic() {
		return publicKey{}, false
	}
	if key, ok := parsed.Key.(*rsa.PublicKey); ok && (key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits) {
		return publicKey{}, false
	}
	return publicKey{id: members.Kid, alg: members.Alg, key: parsed.Key}, true
}

// fits reports whether alg can be an algorithm of the key. The key decides, never the token: each
// algorithm belongs to one type of key, and for ECDSA keys to one curve.
func (k publicKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		size := key.Curve.Params().BitSize
		return alg == "ES256" && size == 256 || alg == "ES384" && size == 384 || alg == "ES512" && size == 521
	case ed25519.PublicKey:
		return alg == "EdDSA"
	default:
		return false
	}
}

// verify checks signature over input (RFC 7518, section 3, and RFC 8037, section 3.1).
func (k publicKey) verify(alg string, input, signature []byte) bool {
	if !k.fits(alg) {
		return false
	}
	if key, ok := k.key.(ed25519.PublicKey); ok {
		return ed25519.Verify(key, input, signature)
	}
	hash := crypto.SHA256
	switch alg[2:] {
	case "384":
		hash = crypto.SHA384
	case "512":
		hash = crypto.SHA512
	}
	h := hash.New()
	h.Write(input)
	digest := h.Sum(nil)
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		if alg[:2] == "PS" {
			return rsa.VerifyPSS(key, hash, digest, signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		// R and S are of equal, full length (RFC 7518, section 3.4).
		size := (key.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, digest, r, s)
	default:
		return false
	}
}
