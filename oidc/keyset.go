// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits on a key set.
const (
	maxKeys    = 64   // keys that are tried for a token, and keys of an issuer that a wildcard matches
	minRSABits = 2048 // RFC 7518, sections 3.3 and 3.5
	maxRSABits = 8192 // the time for a signature grows with the square
)

// keys are the keys of one issuer at one time. They are immutable, except for header.
type keys struct {
	issuerURL  string
	jwksURI    string
	algorithms []string // algorithms that the issuer signs with and the entry accepts
	list       []publicKey
	fetchedAt  time.Time // time of the request for them
	// header is that of the last token that was accepted. Most issuers have one for each key.
	header atomic.Pointer[acceptedHeader]
}

// maxRemembered is the size of the longest header that is remembered, in bytes; ordinary ones have 100.
const maxRemembered = 1 << 10

// acceptedHeader is the first segment of a JWS that go-oidc has accepted, and a shorter JWS with the same
// algorithm. go-oidc decides about a header by its content alone, so that it need not read one again.
type acceptedHeader struct{ protected, short string }

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

// algorithm is how a JOSE algorithm signs (RFC 7518, section 3.1, and RFC 8037, section 3.1).
type algorithm struct {
	family string
	hash   crypto.Hash // 0 for none
	bits   int         // of the curve of an ECDSA key
}

// algorithms are those that tokens may be signed with: only digital signatures.
var algorithms = map[string]algorithm{
	"RS256": {"RS", crypto.SHA256, 0}, "RS384": {"RS", crypto.SHA384, 0}, "RS512": {"RS", crypto.SHA512, 0},
	"PS256": {"PS", crypto.SHA256, 0}, "PS384": {"PS", crypto.SHA384, 0}, "PS512": {"PS", crypto.SHA512, 0},
	"ES256": {"ES", crypto.SHA256, 256}, "ES384": {"ES", crypto.SHA384, 384}, "ES512": {"ES", crypto.SHA512, 521},
	"EdDSA": {"EdDSA", 0, 0},
}

const supportedAlgorithms = "RS, PS and ES with 256, 384 or 512, and EdDSA"

func supportedAlgorithm(alg string) bool { return algorithms[alg].family != "" }

// verify checks signature over input. The key decides about the algorithm, never the token: each
// belongs to one type of key, and for ECDSA keys to one curve.
func (k publicKey) verify(alg, input string, signature []byte) bool {
	a := algorithms[alg]
	if k.alg != "" && k.alg != alg {
		return false
	}
	digest := a.digest(input)
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return a.family == "RS" && rsa.VerifyPKCS1v15(key, a.hash, digest, signature) == nil ||
			a.family == "PS" && rsa.VerifyPSS(key, a.hash, digest, signature, nil) == nil
	case *ecdsa.PublicKey:
		// R and S are of equal, full length (RFC 7518, section 3.4).
		size := (a.bits + 7) / 8
		if a.bits != key.Curve.Params().BitSize || len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, digest, r, s)
	case ed25519.PublicKey:
		return a.family == "EdDSA" && ed25519.Verify(key, digest, signature)
	default:
		return false
	}
}

// digest returns what an algorithm signs: the hash of input, or input itself.
func (a algorithm) digest(input string) []byte {
	if a.hash == 0 {
		return []byte(input)
	}
	h := a.hash.New()
	for chunk := make([]byte, 512); input != ""; { // without a copy of all input
		n := copy(chunk, input)
		h.Write(chunk[:n])
		input = input[n:]
	}
	return h.Sum(nil)
}

// verify verifies the token with k, by go-oidc. Verifier.check has checked everything else about the
// token; go-oidc repeats some of these checks. go-oidc gets the token's header only: the payload and the
// signature are detached (RFC 7515, appendix F), so that it does not decode them again.
func (k *keys) verify(ctx context.Context, token *idToken, now time.Time) error {
	set := &tokenKeySet{token: token, keys: k}
	verifier := gooidc.NewVerifier(k.issuerURL, set, &gooidc.Config{
		SkipClientIDCheck:    true, // one of several audiences is enough; check has verified it
		SupportedSigningAlgs: []string{token.alg},
		Now:                  func() time.Time { return now },
	})
	jws, known := token.protected+"..", k.header.Load()
	seen := known != nil && known.protected == token.protected
	if seen {
		jws = known.short
	}
	_, err := verifier.Verify(ctx, jws)
	if err == nil && !seen && len(token.protected) <= maxRemembered {
		short := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + token.alg + `"}`))
		k.header.Store(&acceptedHeader{strings.Clone(token.protected), short + ".."})
	}
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
	input := s.token.raw[:strings.LastIndexByte(s.token.raw, '.')] // RFC 7515, section 5.2, step 8
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
	expected := "an algorithm that its discovery document lists and this certificate authority accepts"
	if len(accepted) > 0 {
		expected = "one of [" + quoteList(accepted) + "]"
	}
	return refusal.New(refusal.SignatureInvalid, "the ID token's alg is %s; from issuer %s, %s is expected", quote(alg), quote(issuerURL), expected)
}
