// SPDX-License-Identifier: Apache-2.0

// Package azurekms opens a private key in Azure Key Vault or an Azure managed HSM.
//
// app and the commands may import it.
package azurekms

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"math/big"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a key. azidentity's DefaultAzureCredential finds the credentials:
// AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or AZURE_CLIENT_CERTIFICATE_PATH, or
// AZURE_FEDERATED_TOKEN_FILE), or the machine's managed identity. AZURE_TOKEN_CREDENTIALS names
// the only one to try.
type Config struct {
	// URI is azurekms://NAME.vault.azure.net/KEY/VERSION, or with the host of a managed HSM.
	// The version is mandatory: a rotation creates another key, which is not that of the
	// certificate.
	URI string
}

// Open requests the key's public half. Errors of the setting have the key path ["uri"]. An RSA
// key must have 2048 bits: for larger ones sigstore's client signs other hashes than SHA-256.
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	if err := checkURI(cfg.URI); err != nil {
		return nil, err
	}
	// The client requests the public key in this ctx, and signs in others.
	client, err := azure.LoadSignerVerifier(once(ctx), cfg.URI)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%s: %w", cfg.URI, err)
	}
	key, err := kms.FromSigstore(ctx, client, service(cfg.URI))
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

func checkURI(uri string) error {
	const wanted = "azurekms://NAME.vault.azure.net/KEY/VERSION"
	if azure.ValidReference(uri) != nil {
		return keypath.Errorf([]string{"uri"}, "%q should be %s", uri, wanted)
	}
	parts := strings.Split(strings.TrimPrefix(uri, azure.ReferenceScheme), "/")
	switch {
	case !strings.Contains(parts[0], ".") || strings.ContainsAny(parts[0], "@?#%\\ "):
		return keypath.Errorf([]string{"uri"}, "%q names %q, which is not the whole host of a vault; it should be %s", uri, parts[0], wanted)
	case len(parts) < 3 || parts[2] == "":
		return keypath.Errorf([]string{"uri"}, "%s names no version, and would be another key after a rotation; add /VERSION, the one that belongs to the certificate", uri)
	}
	return nil
}

// unwrapRSA returns the RSA signature. Sigstore's client wraps every signature as if it were of
// ECDSA: in a SEQUENCE of its two halves as numbers.
func unwrapRSA(der []byte, size int) ([]byte, error) {
	input, first, second := cryptobyte.String(der), new(big.Int), new(big.Int)
	var halves cryptobyte.String
	if !input.ReadASN1(&halves, asn1.SEQUENCE) || !input.Empty() || !halves.ReadASN1Integer(first) || !halves.ReadASN1Integer(second) || !halves.Empty() ||
		first.Sign() < 0 || second.Sign() < 0 || first.BitLen() > size*4 || second.BitLen() > size*4 {
		return nil, errors.New("the signature is not one of an RSA key")
	}
	signature := make([]byte, size)
	first.FillBytes(signature[:size/2])
	second.FillBytes(signature[size/2:])
	return signature, nil
}

func service(uri string) kms.Service {
	return kms.Service{
		Name: "Azure Key Vault", URI: uri,
		Credentials: "look at AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, or at the machine's managed identity; AZURE_TOKEN_CREDENTIALS names the one to use",
		Permission:  `the identity needs the role "Key Vault Crypto User" on the key, or the permissions get and sign in the vault's access policy`,
		Reach:       "kms.uri",
		Absence:     "look at the vault, the key and the version in kms.uri",
		Trust:       "see what stands between: a proxy's own authority may be missing in SSL_CERT_FILE",
		Judge:       judge,
	}
}

// judge classifies an error:
// https://learn.microsoft.com/azure/key-vault/general/rest-error-codes.
func judge(err error) kms.Verdict {
	var refused *azidentity.AuthenticationFailedError
	var answer *azcore.ResponseError
	switch {
	case errors.As(err, &refused):
		return judgeLogin(refused.RawResponse)
	case errors.As(err, &answer):
		var header http.Header
		if answer.RawResponse != nil {
			header = answer.RawResponse.Header
		}
		return kms.JudgeStatus(answer.StatusCode, header)
	case errors.As(err, new(interface {
		error
		NonRetriable()
	})):
		// No source has credentials.
		return kms.Verdict{Meaning: kms.Unauthenticated}
	}
	return kms.Verdict{}
}

// judgeLogin classifies a login without a token. Without a response either there was no answer, or
// a setting is wrong: the error does not show which.
func judgeLogin(response *http.Response) kms.Verdict {
	if response == nil {
		return kms.Verdict{Meaning: kms.Unauthenticated, Remedy: signer.Retry}
	}
	if v := kms.JudgeStatus(response.StatusCode, response.Header); v.Meaning == kms.Passing {
		return v
	}
	return kms.Verdict{Meaning: kms.Unauthenticated}
}
