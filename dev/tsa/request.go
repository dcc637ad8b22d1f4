// SPDX-License-Identifier: Apache-2.0

package tsa

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/digitorus/timestamp"
)

// jsonRequest is a timestamp request as sigstore-js sends it: a format of sigstore's timestamp
// authority that RFC 3161 does not define.
type jsonRequest struct {
	// ArtifactHash is the hash of the timestamped artifact.
	ArtifactHash  []byte   `json:"artifactHash"`
	HashAlgorithm string   `json:"hashAlgorithm"`
	Nonce         *big.Int `json:"nonce"`
	Certificates  bool     `json:"certificates"`
}

// maxJSON bounds the cost of parsing a nonce, which is a decimal.
const maxJSON = 1 << 10

// parseRequest reads a request in DER or, if its content type says so, in JSON. The answer is
// DER either way.
func parseRequest(body []byte, contentType string) (*timestamp.Request, error) {
	request := &timestamp.Request{}
	if media, _, _ := strings.Cut(contentType, ";"); strings.TrimSpace(media) == "application/json" {
		if len(body) > maxJSON {
			return nil, fmt.Errorf("it has %d bytes of JSON; %d are the most", len(body), maxJSON)
		}
		var asked jsonRequest
		if err := json.Unmarshal(body, &asked); err != nil {
			return nil, err
		}
		request.HashedMessage, request.Nonce, request.Certificates = asked.ArtifactHash, asked.Nonce, asked.Certificates
		request.HashAlgorithm = map[string]crypto.Hash{
			"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
		}[strings.ToLower(asked.HashAlgorithm)]
	} else {
		var err error
		if request, err = timestamp.ParseRequest(body); err != nil {
			return nil, err
		}
	}
	switch request.HashAlgorithm {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, errors.New("its hash is none of SHA-256, SHA-384 and SHA-512")
	}
	if want := request.HashAlgorithm.Size(); len(request.HashedMessage) != want {
		return nil, fmt.Errorf("its hash has %d bytes; %s has %d", len(request.HashedMessage), request.HashAlgorithm, want)
	}
	return request, nil
}
