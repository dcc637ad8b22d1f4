// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"math/big"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// verify verifies the token with k, by go-oidc. Verifier.check has checked everything else about the
// token; go-oidc repeats some of these checks.
func (k *keys) verify(ctx context.Context, token *idToken, now time.Time) error {
	set := &tokenKeySet{token: token, keys: k}
	verifier := gooidc.NewVerifier(k.issuerURL, set, &gooidc.Config{
		SkipClientIDCheck:    true, // one of several audiences is enough; check has verified it
		SupportedSigningAlgs: []string{token.alg},
		Now:                  func() time.Time { return now },
	})
	_, err := verifier.Verify(ctx, token.raw)
	switch {
	case err == nil:
		return nil
	case set.refusal != nil:
		return set.refusal
	default:
		// go-oidc also decodes parameters and claims that this package does not read, such as x5c and
		// at_hash.
		return refusal.New(refusal.TokenMalformed,
			"a registered header parameter or claim of the ID token has the wrong type or form").Because(err)
	}
}

// tokenKeySet is a gooidc.KeySet for one parsed token. It uses no network.
type tokenKeySet struct {
	token   *idToken
	keys    *keys
	refusal error // why VerifySignature failed
}

// VerifySignature implements gooidc.KeySet: it tries the keys that have the token's `kid`, or all
// keys if the token has none, and returns the token's payload.
func (s *tokenKeySet) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	if raw != s.token.raw {
		return nil, errors.New("verifying another token than the one that was parsed")
	}
	alg := s.token.alg
	if !slices.Contains(s.keys.algorithms, alg) {
		s.refusal = algorithmRefused(alg, s.keys.algorithms, s.keys.issuerURL)
		return nil, s.refusal
	}
	input := []byte(raw[:strings.LastIndexByte(raw, '.')]) // RFC 7515, section 5.2, step 8
	for key := range s.keys.candidates(s.token.keyID) {
		if key.verify(alg, input, s.token.signature) {
			return s.token.payload, nil
		}
	}
	issuer, keyID := quote(s.keys.issuerURL), quote(s.token.keyID)
	switch {
	case s.token.keyID == "":
		s.refusal = refusal.New(refusal.SignatureInvalid,
			"the ID token's signature verifies with none of the keys of issuer %s", issuer)
	case s.keys.has(s.token.keyID):
		s.refusal = refusal.New(refusal.SignatureInvalid,
			"the ID token's signature, with alg %s, does not verify with key %s of issuer %s", alg, keyID, issuer)
	default:
		s.refusal = refusal.New(refusal.SignatureInvalid,
			"the ID token names key %s, which is not among the keys of issuer %s", keyID, issuer)
	}
	return nil, s.refusal
}

// algorithmRefused returns the refusal of a token with an algorithm that is not accepted from its
// issuer.
func algorithmRefused(alg string, accepted []string, issuerURL string) error {
	expected := "none of those that it lists is accepted"
	if len(accepted) > 0 {
		expected = quoteList(accepted) + " is expected"
	}
	return refusal.New(refusal.SignatureInvalid, "the ID token's alg is %s; from issuer %s, %s", quote(alg), quote(issuerURL), expected)
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
