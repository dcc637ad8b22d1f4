// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// MaxTokenSize is the largest ID token, in bytes, without the white space around it.
const MaxTokenSize = 16 << 10

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
			"the ID token has %d segments; a compact JWS has three, separated by dots", dots+1)
	}
	protected, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")

	token := &idToken{raw: raw}
	_, header, err := decodeObject(protected)
	if err != nil {
		return nil, malformed("header", err)
	}
	if err := token.readHeader(header); err != nil {
		return nil, err
	}
	if token.payload, token.claims, err = decodeObject(payload); err != nil {
		return nil, malformed("claims", err)
	}
	if signature == "" {
		return nil, refusal.New(refusal.SignatureInvalid, "the ID token has no signature")
	}
	if token.signature, err = decodeSegment(signature); err != nil {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token's signature is not base64url without padding").Because(err)
	}
	return token, nil
}

// readHeader reads `alg` and `kid` from a JOSE header (RFC 7515, section 4). The members jku, jwk,
// x5u and x5c, by which a token would name its own key, have no effect.
func (t *idToken) readHeader(header Claims) error {
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
	keyID, hasKeyID := header["kid"]
	if t.keyID, _ = keyID.(string); hasKeyID && keyID != t.keyID {
		return refusal.New(refusal.TokenMalformed, "the kid in the ID token's header is not a string")
	}
	alg, ok := header["alg"].(string)
	switch t.alg = alg; {
	case !ok:
		return refusal.New(refusal.TokenMalformed, "the ID token's header has no alg, or one that is not a string")
	case !supportedAlgorithm(alg):
		return refusal.New(refusal.SignatureInvalid,
			"the ID token's alg is %s; signatures of %s are accepted", quote(alg), supportedAlgorithms)
	}
	return nil
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

// decodeObject decodes a segment that is a JSON object.
func decodeObject(segment string) (text []byte, object Claims, err error) {
	if text, err = decodeSegment(segment); err != nil {
		return nil, nil, err
	}
	object, err = ParseClaims(text)
	return text, object, err
}

// decodeSegment decodes base64url without padding, line breaks or non-zero trailing bits (RFC 7515,
// section 2), so that no two texts encode one token.
func decodeSegment(segment string) ([]byte, error) {
	if strings.IndexByte(segment, '\n') >= 0 || strings.IndexByte(segment, '\r') >= 0 { // package base64 skips them
		return nil, errors.New("a line break")
	}
	return base64.RawURLEncoding.Strict().DecodeString(segment)
}

// malformed returns the refusal of a token part that cannot be decoded. The client gets the part
// and the rules; the details are in the cause.
func malformed(part string, cause error) error {
	return refusal.New(refusal.TokenMalformed,
		"the ID token's %s cannot be read; base64url without padding of one JSON object in UTF-8 is expected, "+
			"in which no member occurs twice, not even in another case", part).Because(cause)
}

// maxQuoted is the number of characters of a foreign string that a message repeats.
const maxQuoted = 100

// quote returns s for a message to the client: in double quotes, with non-printing characters
// escaped, and cut to maxQuoted characters.
func quote(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxQuoted {
			return fmt.Sprintf("%q…", s[:i])
		}
	}
	return fmt.Sprintf("%q", s)
}

// quoteList returns up to three of list, quoted as by quote, and the number of the others.
func quoteList(list []string) string {
	var quoted []string
	for i, s := range list {
		if i == 3 {
			return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), len(list)-3)
		}
		quoted = append(quoted, quote(s))
	}
	return strings.Join(quoted, ", ")
}
