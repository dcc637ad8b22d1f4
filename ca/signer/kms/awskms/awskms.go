// SPDX-License-Identifier: Apache-2.0

// Package awskms opens a private key at AWS KMS.
//
// app and the commands may import it.
package awskms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a key. The AWS SDK finds the rest: credentials in the environment
// (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE and so on), in ~/.aws, or of the
// machine's own role.
type Config struct {
	// URI is awskms://[ENDPOINT]/KEY, where KEY is a key's ID or ARN, alias/NAME, or an alias's
	// ARN; as in awskms:///arn:aws:kms:us-east-1:111122223333:key/1234abcd-…. The default ENDPOINT
	// is that of the region: the ARN's, otherwise that of AWS_REGION or of the profile. An alias
	// can be pointed at another key, but an ID cannot.
	URI string
}

// Open requests the key's public half. Errors of the setting have the key path ["uri"].
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	_, id, _, err := aws.ParseReference(cfg.URI)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%q should be awskms:///KEY or awskms://ENDPOINT/KEY, where KEY is a key's ID or ARN, or alias/NAME, or an alias's ARN", cfg.URI)
	}
	if os.Getenv("AWS_TLS_INSECURE_SKIP_VERIFY") != "" {
		return nil, keypath.Errorf([]string{"uri"}, "AWS_TLS_INSECURE_SKIP_VERIFY is set in the environment, and would have anybody sign in place of AWS KMS; unset it")
	}
	// A Signer retries by itself, and bounds the retries.
	opts := []func(*config.LoadOptions) error{config.WithRetryMaxAttempts(1)}
	if name, err := arn.Parse(id); err == nil {
		opts = append(opts, config.WithRegion(name.Region))
	}
	loaded, err := config.LoadDefaultConfig(ctx, withOptions(opts))
	switch {
	case err != nil:
		return nil, keypath.Errorf([]string{"uri"}, "reading the configuration of the AWS SDK: %w", err)
	case loaded.Region == "":
		return nil, keypath.Errorf([]string{"uri"}, "%s names no region; give the key's ARN, or set AWS_REGION", cfg.URI)
	}
	client, err := aws.LoadSignerVerifier(ctx, cfg.URI, opts...)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%s: %w", cfg.URI, err)
	}
	key, err := kms.FromSigstore(ctx, guarded{client}, service(cfg.URI))
	if err != nil {
		return nil, err
	}
	return kms.New(key)
}

// withOptions applies opts.
func withOptions(opts []func(*config.LoadOptions) error) func(*config.LoadOptions) error {
	return func(o *config.LoadOptions) error {
		for _, opt := range opts {
			if err := opt(o); err != nil {
				return err
			}
		}
		return nil
	}
}

func service(uri string) kms.Service {
	return kms.Service{
		Name: "AWS KMS", URI: uri,
		Credentials: "look at the credentials that the AWS SDK finds: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE, or the machine's role",
		Permission:  "they need kms:Sign, kms:GetPublicKey and kms:DescribeKey on the key, in their own policy or in the key's",
		Reach:       "kms.uri",
		Absence:     "look at the key and the region in kms.uri",
		Trust:       "see what stands between: a proxy's own authority may be missing in SSL_CERT_FILE",
		Judge:       judge,
	}
}

// judge classifies an error. AWS KMS returns 400 for nearly every error, and the kind in a
// code: https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html#API_Sign_Errors and
// https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html.
func judge(err error) kms.Verdict {
	var v kms.Verdict
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.Response != nil {
		v = kms.JudgeStatus(response.HTTPStatusCode(), response.Response.Header)
	}
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		// The SDK has no error type for missing credentials.
		if response == nil && strings.Contains(err.Error(), "get credentials") {
			return judgeCredentials(err)
		}
		return v
	}
	switch answer.ErrorCode() {
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "KMSInternalException", "DependencyTimeoutException",
		"KeyUnavailableException", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException":
		return kms.JudgeStatus(http.StatusServiceUnavailable, headerOf(response))
	case "ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException",
		"SignatureDoesNotMatch", "MissingAuthenticationToken", "IncompleteSignature":
		// Opening the key again reads the credentials from their file again.
		return kms.Verdict{Meaning: kms.Unauthenticated, Remedy: signer.Reopen}
	case "AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired":
		return kms.Verdict{Meaning: kms.Forbidden}
	case "NotFoundException":
		return kms.Verdict{Meaning: kms.Absent}
	}
	return v
}

// judgeCredentials separates a source of credentials that is down from one that has none.
func judgeCredentials(err error) kms.Verdict {
	if kms.Unreached(err) {
		return kms.Verdict{}
	}
	return kms.Verdict{Meaning: kms.Unauthenticated}
}

func headerOf(response *awshttp.ResponseError) http.Header {
	if response == nil || response.Response == nil {
		return nil
	}
	return response.Response.Header
}

// guarded is sigstore's client. That client takes the first of the algorithms that a key signs
// with, and panics if a key has none.
type guarded struct{ *aws.SignerVerifier }

// CryptoSigner implements kms.SignerVerifier.
func (g guarded) CryptoSigner(ctx context.Context, errFunc func(error)) (key crypto.Signer, opts crypto.SignerOpts, err error) {
	defer func() {
		if p := recover(); p != nil {
			key, opts, err = nil, nil, fmt.Errorf("the key signs with nothing: its usage should be SIGN_VERIFY (%v)", p)
		}
	}()
	return g.SignerVerifier.CryptoSigner(ctx, errFunc)
}
