// SPDX-License-Identifier: Apache-2.0

package rekor

//lint:file-ignore SA1019 Rekor has deprecated dsse entries, and npm's sigstore still sends them

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
)

// algorithms are the signature algorithms that the log accepts, by the names of protobuf-specs.
func algorithms() (*signature.AlgorithmRegistryConfig, error) {
	return signature.NewAlgorithmRegistryConfig([]common.PublicKeyDetails{
		common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		common.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
		common.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
		common.PublicKeyDetails_PKIX_ED25519_PH,
	})
}

// parseRequest reads a CreateEntryRequest and returns its entry, with verified signatures.
func parseRequest(body []byte) (*rekorpb.Entry, error) {
	var request rekorpb.CreateEntryRequest
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &request); err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	permitted, err := algorithms()
	if err != nil {
		return nil, err
	}
	switch {
	case request.GetHashedRekordRequestV002() != nil:
		return hashedrekord.ToLogEntry(request.GetHashedRekordRequestV002(), permitted)
	case request.GetDsseRequestV002() != nil:
		return dsseEntry(request.GetDsseRequestV002(), permitted)
	default:
		return nil, errors.New("the request has neither hashedRekordRequestV002 nor dsseRequestV002")
	}
}

// dsseEntry verifies every signature of an envelope with one of the verifiers.
func dsseEntry(request *rekorpb.DSSERequestV002, permitted *signature.AlgorithmRegistryConfig) (*rekorpb.Entry, error) {
	envelope := request.GetEnvelope()
	n, m := len(envelope.GetSignatures()), len(request.GetVerifiers())
	if min(n, m) == 0 || max(n, m) > maxSignatures {
		return nil, fmt.Errorf("the envelope has %d signatures and %d verifiers; each must be from 1 to %d", n, m, maxSignatures)
	}
	kind, payload := envelope.GetPayloadType(), envelope.GetPayload()
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload) // DSSE protocol, "PAE"
	var signatures []*rekorpb.Signature
	for i, s := range envelope.GetSignatures() {
		var errs []error
		for _, verifier := range request.GetVerifiers() {
			candidate := &rekorpb.Signature{Content: s.GetSig(), Verifier: verifier}
			err := verifySignature(signed, candidate, permitted)
			if err == nil {
				signatures = append(signatures, candidate)
				break
			}
			errs = append(errs, err)
		}
		if len(signatures) != i+1 {
			return nil, fmt.Errorf("no verifier verifies signature %d: %w", i, errors.Join(errs...))
		}
	}
	payloadHash := sha256.Sum256(payload)
	return &rekorpb.Entry{Kind: "dsse", ApiVersion: "0.0.2", Spec: &rekorpb.Spec{Spec: &rekorpb.Spec_DsseV002{
		DsseV002: &rekorpb.DSSELogEntryV002{
			PayloadHash: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: payloadHash[:]},
			Signatures:  signatures,
		},
	}}}, nil
}

const maxSignatures = 16

// verifySignature verifies a signature over signed by the rules for a hashedrekord.
func verifySignature(signed []byte, s *rekorpb.Signature, permitted *signature.AlgorithmRegistryConfig) error {
	details, err := signature.GetAlgorithmDetails(s.GetVerifier().GetKeyDetails())
	if err != nil {
		return err
	}
	hash := details.GetHashType()
	if hash == crypto.Hash(0) {
		return fmt.Errorf("%s signs no hash", s.GetVerifier().GetKeyDetails())
	}
	h := hash.New()
	h.Write(signed)
	_, err = hashedrekord.ToLogEntry(&rekorpb.HashedRekordRequestV002{Digest: h.Sum(nil), Signature: s}, permitted)
	return err
}

// canonical is the logged form of an entry: its JSON by RFC 8785.
func canonical(entry *rekorpb.Entry) ([]byte, error) {
	text, err := protojson.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("encoding entry: %w", err)
	}
	body := jsontext.Value(text)
	if err := body.Canonicalize(); err != nil {
		return nil, fmt.Errorf("canonicalizing entry: %w", err)
	}
	return body, nil
}
