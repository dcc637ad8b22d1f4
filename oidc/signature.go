// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// verify verifies the token with k, by go-oidc. Verifier.check has checked everything else about the
// token; go-oidc repeats some of these checks. go-oidc gets the token with detached content (RFC
// 7515, appendix F), so that it does not decode the payload from base64 again.
func (k *keys) verify(ctx context.Context, token *idToken, now time.Time) error {
	set := &tokenKeySet{token: token, keys: k}
	verifier := gooidc.NewVerifier(k.issuerURL, set, &gooidc.Config{
		SkipClientIDCheck:    true, // one of several audiences is enough; check has verified it
		SupportedSigningAlgs: []string{token.alg},
		Now:                  func() time.Time { return now },
	})
	_, err := verifier.Verify(ctx, token.raw[:strings.IndexByte(token.raw, '.')+1]+token.raw[strings.LastIndexByte(token.raw, '.'):])
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
// keys if the token has none, maxKeys at most, and returns the token's payload.
func (s *tokenKeySet) VerifySignature(context.Context, string) ([]byte, error) {
	alg, keyID := s.token.alg, s.token.keyID
	if !slices.Contains(s.keys.algorithms, alg) {
		s.refusal = algorithmRefused(alg, s.keys.algorithms, s.keys.issuerURL)
		return nil, s.refusal
	}
	input := []byte(s.token.raw[:strings.LastIndexByte(s.token.raw, '.')]) // RFC 7515, section 5.2, step 8
	tries := maxKeys
	for _, key := range s.keys.list {
		if keyID != "" && key.id != keyID {
			continue
		}
		if tries--; tries < 0 {
			break
		}
		if key.verify(alg, input, s.token.signature) {
			return s.token.payload, nil
		}
	}
	if s.keys.has(keyID) {
		s.refusal = refusal.New(refusal.SignatureInvalid, "the ID token's signature, with alg %s and kid %s, verifies with none of the keys of issuer %s",
			alg, quote(keyID), quote(s.keys.issuerURL))
	} else {
		s.refusal = refusal.New(refusal.SignatureInvalid,
			"the ID token names key %s, which is not among the keys of issuer %s", quote(keyID), quote(s.keys.issuerURL))
	}
	return nil, s.refusal
}

// algorithmRefused returns the refusal of a token with an algorithm that is not accepted from its
// issuer.
func algorithmRefused(alg string, accepted []string, issuerURL string) error {
	return refusal.New(refusal.SignatureInvalid, "the ID token's alg is %s; from issuer %s, one of [%s] is expected", quote(alg), quote(issuerURL), quoteList(accepted))
}
