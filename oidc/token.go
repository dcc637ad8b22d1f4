// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// MaxTokenSize is the largest ID token, in bytes, without the white space around it.
const MaxTokenSize = 16 << 10

// strictBase64 is base64url without padding that refuses non-zero trailing bits, so that no two
// texts encode one token. It still skips line breaks; see isBase64URL.
var strictBase64 = base64.RawURLEncoding.Strict()

// idToken is a token of the right shape. No part of it is verified.
type idToken struct {
	raw       string // the three segments, without white space around them
	alg       string // supportedAlgorithm accepts it
	keyID     string // `kid`; "" if there is none
	payload   []byte // the JSON text of claims
	claims    Claims
	signature []byte
}

// parseToken checks the size and then the shape of a token, and decodes it.
func parseToken(raw string) (*idToken, error) {
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return nil, refusal.New(refusal.TokenMissing, "the request has no ID token")
	}
	// Both checks run before any allocation for the segments (CVE-2025-66506).
	if len(raw) > MaxTokenSize {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token has %d bytes; at most %d are accepted", len(raw), MaxTokenSize)
	}
	if dots := strings.Count(raw, "."); dots != 2 {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token has %d segments; a compact JWS has three, parted by dots", dots+1)
	}
	protected, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")

	token := &idToken{raw: raw}
	if err := token.readHeader(protected); err != nil {
		return nil, err
	}
	var err error
	if token.payload, err = decodeSegment(payload); err != nil {
		return nil, malformed("claims", err)
	}
	if token.claims, err = ParseClaims(token.payload); err != nil {
		return nil, malformed("claims", err)
	}
	if signature == "" {
		return nil, refusal.New(refusal.SignatureInvalid, "the ID token has no signature")
	}
	if token.signature, err = decodeSegment(signature); err != nil {
		return nil, malformed("signature", err)
	}
	return token, nil
}

// readHeader decodes the JOSE header (RFC 7515, section 4) and reads `alg` and `kid` from it. The
// members jku, jwk, x5u and x5c, by which a token would name its own key, have no effect.
func (t *idToken) readHeader(segment string) error {
	decoded, err := decodeSegment(segment)
	if err != nil {
		return malformed("header", err)
	}
	header, err := ParseClaims(decoded)
	if err != nil {
		return malformed("header", err)
	}
	// RFC 7515, section 4.1.11: a recipient must refuse extensions that it does not understand, and
	// this package understands none.
	if _, ok := header["crit"]; ok {
		return refusal.New(refusal.TokenMalformed,
			"the ID token's header has the member crit; no critical extensions are supported")
	}
	// RFC 7797, section 6, requires crit beside b64, but go-jose obeys b64 without it.
	if b64, ok := header["b64"]; ok && b64 != true {
		return refusal.New(refusal.TokenMalformed,
			"the ID token's header has the member b64; a JWT's payload is always base64url (RFC 7797, section 7)")
	}
	switch kid := header["kid"].(type) {
	case string:
		t.keyID = kid
	default:
		if _, ok := header["kid"]; ok {
			return refusal.New(refusal.TokenMalformed, "the kid in the ID token's header is not a string")
		}
	}
	alg, ok := header["alg"].(string)
	if !ok {
		return refusal.New(refusal.TokenMalformed, "the ID token's header has no alg, or one that is not a string")
	}
	t.alg = alg
	return checkAlgorithm(alg)
}

// supportedAlgorithm reports whether tokens signed with alg may be accepted. Only digital
// signatures are supported (RFC 7518, section 3.1, and RFC 8037).
func supportedAlgorithm(alg string) bool {
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA":
		return true
	default:
		return false
	}
}

const supportedAlgorithms = "RS, PS and ES with 256, 384 or 512, and EdDSA"

func checkAlgorithm(alg string) error {
	switch {
	case supportedAlgorithm(alg):
		return nil
	case strings.EqualFold(alg, "none"):
		return refusal.New(refusal.SignatureInvalid,
			"the ID token is unsigned (alg %s); signatures of %s are accepted", quote(alg), supportedAlgorithms)
	case strings.HasPrefix(alg, "HS"):
		return refusal.New(refusal.SignatureInvalid,
			"the ID token is authenticated with a shared secret (alg %s); signatures of %s are accepted",
			quote(alg), supportedAlgorithms)
	default:
		return refusal.New(refusal.SignatureInvalid,
			"the ID token's alg is %s; signatures of %s are accepted", quote(alg), supportedAlgorithms)
	}
}

// decodeSegment decodes base64url without padding, line breaks or stray bits (RFC 7515,
// section 2).
func decodeSegment(segment string) ([]byte, error) {
	for i := range len(segment) {
		if !isBase64URL(segment[i]) {
			return nil, errors.New("a character outside base64url without padding")
		}
	}
	return strictBase64.DecodeString(segment)
}

func isBase64URL(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// malformed returns the refusal of a token part that cannot be decoded. The client gets the part
// and the rules; the details are in the cause.
func malformed(part string, cause error) error {
	if part == "signature" {
		return refusal.New(refusal.TokenMalformed,
			"the ID token's signature is not base64url without padding").Because(cause)
	}
	return refusal.New(refusal.TokenMalformed,
		"the ID token's %s cannot be read; wanted is base64url without padding of one JSON object in UTF-8, "+
			"in which no member occurs twice, not even in another case", part).Because(cause)
}
