// SPDX-License-Identifier: Apache-2.0

// Package azurekms opens a private key in Azure Key Vault or an Azure managed HSM.
//
// app and the commands may import it.
package azurekms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
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
// uri have the key path ["uri"]. RSA keys are refused: sigstore's client encodes their signatures as
// if they were of ECDSA.
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
	if _, ok := key.Public.(*ecdsa.PublicKey); !ok {
		return nil, keypath.Errorf([]string{"uri"}, "%s is %s; at Azure, only ECDSA keys on P-256, P-384 and P-521 are supported", uri, signer.Describe(key.Public))
	}
	sign := key.Sign
	key.Sign = func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		return sign(once(ctx), digest, hash)
	}
	return kms.New(key)
}

// once stops the retries of Azure's client: a Signer retries, and bounds the retries.
func once(ctx context.Context) context.Context {
	return policy.WithRetryOptions(ctx, policy.RetryOptions{MaxRetries: -1})
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
