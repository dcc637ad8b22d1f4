// SPDX-License-Identifier: Apache-2.0

package hashivault

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// parseKey returns the public key of version in the answer to a read of a transit key. The
// error has a key path if a setting is the cause.
func parseKey(body []byte, version uint) (crypto.PublicKey, error) {
	var answer struct {
		Data struct {
			Type string
			Keys map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	raw, ok := answer.Data.Keys[versionText(version)]
	if !ok {
		return nil, keypath.Errorf([]string{"version"}, "the key has no version %d; it has %s", version, versions(answer.Data.Keys))
	}
	var key struct {
		PublicKey string `json:"public_key"`
	}
	// The versions of a symmetric key are timestamps.
	if err := json.Unmarshal(raw, &key); err != nil || key.PublicKey == "" {
		return nil, keypath.Errorf([]string{"uri"}, "the key is of type %q and has no public half; name a key of type ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072 or rsa-4096", answer.Data.Type)
	}
	if answer.Data.Type == "ed25519" {
		return nil, keypath.Errorf([]string{"uri"}, "the key is of type ed25519, which is not supported at key-management services; name a key of type ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072 or rsa-4096")
	}
	block, _ := pem.Decode([]byte(key.PublicKey))
	if block == nil {
		return nil, errors.New("parsing the key: public_key is not PEM")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	return public, nil
}

// versions lists the versions of a key.
func versions(keys map[string]json.RawMessage) string {
	switch numbers := slices.Sorted(maps.Keys(keys)); {
	case len(numbers) == 0:
		return "none"
	case len(numbers) > 10:
		return fmt.Sprintf("%d others", len(numbers))
	default:
		return strings.Join(numbers, ", ")
	}
}

// parseSignature returns the signature in the answer to a signing request, which is
// "vault:v" version ":" base64.
func parseSignature(body []byte, version uint) ([]byte, error) {
	var answer struct{ Data struct{ Signature string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("parsing the signature: %w", err)
	}
	encoded, ok := strings.CutPrefix(answer.Data.Signature, "vault:v"+versionText(version)+":")
	if !ok {
		prefix := answer.Data.Signature[:strings.LastIndex(answer.Data.Signature, ":")+1]
		return nil, fmt.Errorf("the signature does not begin with vault:v%d: but with %q", version, prefix[:min(len(prefix), 16)])
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("parsing the signature: %w", err)
	}
	if len(signature) == 0 {
		return nil, errors.New("the signature is empty")
	}
	return signature, nil
}
