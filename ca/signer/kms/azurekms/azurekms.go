// SPDX-License-Identifier: Apache-2.0

// Package azurekms opens a private key in Azure Key Vault or an Azure managed HSM.
//
// app and the commands may import it.
package azurekms

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Open requests the public half of a key. uri is azurekms://NAME.vault.azure.net/KEY/VERSION, or
// with the host of a managed HSM. The version is mandatory: a rotation creates another key, which is
// not that of the certificate. azidentity's DefaultAzureCredential finds the credentials. Errors of
// uri have the key path ["uri"]. An RSA key must have 2048 bits: for larger ones sigstore's client
// signs other hashes than SHA-256.
func Open(ctx context.Context, uri string) (signer.Key, error) {
	parts := strings.Split(strings.TrimPrefix(uri, azure.ReferenceScheme), "/")
	if azure.ValidReference(uri) != nil || len(parts) != 3 || parts[2] == "" || !strings.Contains(parts[0], ".") || strings.ContainsAny(parts[0], "@?#%\\ ") {
		return nil, keypath.Errorf([]string{"uri"}, "%q should be azurekms://NAME.vault.azure.net/KEY/VERSION, with the whole host of the vault and the version that belongs to the certificate", uri)
	}
	// The client requests the public key in this ctx, and signs in others.
	client, err := azure.LoadSignerVerifier(once(ctx), uri)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%s: %w", uri, err)
	}
	key, err := kms.FromSigstore(ctx, client, kms.Service{
		Name: "Azure Key Vault", URI: uri, Status: status,
		Hint: `look at the vault, the key and the version in the URI, at AZURE_TENANT_ID, AZURE_CLIENT_ID and the other credentials of AZURE_TOKEN_CREDENTIALS, and at their role: "Key Vault Crypto User" on the key`,
	})
	if err != nil {
		return nil, err
	}
	sign, public := key.Sign, key.Public
	key.Sign = func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		signature, err := sign(once(ctx), digest, hash)
		if public, ok := public.(*rsa.PublicKey); ok && err == nil {
			return unwrapRSA(signature, public.Size())
		}
		return signature, err
	}
	return kms.New(key)
}

// once stops the retries of Azure's client: a Signer retries, and bounds the retries.
func once(ctx context.Context) context.Context {
	return policy.WithRetryOptions(ctx, policy.RetryOptions{MaxRetries: -1})
}

// unwrapRSA returns the RSA signature. Sigstore's client wraps every signature as if it were of
// ECDSA: in a SEQUENCE of its two halves as numbers.
func unwrapRSA(der []byte, size int) ([]byte, error) {
	var halves struct{ First, Second *big.Int }
	if rest, err := asn1.Unmarshal(der, &halves); err != nil || len(rest) > 0 ||
		halves.First.Sign() < 0 || halves.Second.Sign() < 0 || halves.First.BitLen() > size*4 || halves.Second.BitLen() > size*4 {
		return nil, errors.New("the signature is not one of an RSA key")
	}
	signature := make([]byte, size)
	halves.First.FillBytes(signature[:size/2])
	halves.Second.FillBytes(signature[size/2:])
	return signature, nil
}

// status implements kms.Service.Status. A login without an answer counts as an outage.
func status(err error) (int, http.Header) {
	var login *azidentity.AuthenticationFailedError
	var answer *azcore.ResponseError
	var response *http.Response
	switch {
	case errors.As(err, &login):
		if response = login.RawResponse; response == nil {
			return http.StatusServiceUnavailable, nil
		}
	case errors.As(err, &answer):
		response = answer.RawResponse
	}
	if response == nil {
		return 0, nil
	}
	return response.StatusCode, response.Header
}
