// SPDX-License-Identifier: Apache-2.0

// Package awskms opens a private key at AWS KMS.
//
// app and the commands may import it.
package awskms

import (
	"context"
	"errors"
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

// Open requests the public half of a key. uri is awskms://[ENDPOINT]/KEY, where KEY is a key's ID or
// ARN, alias/NAME, or an alias's ARN. The default ENDPOINT is that of the region: the ARN's,
// otherwise that of AWS_REGION or of the profile. The AWS SDK finds the credentials. Errors of uri
// have the key path ["uri"].
func Open(ctx context.Context, uri string) (signer.Key, error) {
	_, id, _, err := aws.ParseReference(uri)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%q should be awskms:///KEY or awskms://ENDPOINT/KEY, where KEY is a key's ID or ARN, or alias/NAME, or an alias's ARN", uri)
	}
	if os.Getenv("AWS_TLS_INSECURE_SKIP_VERIFY") != "" {
		return nil, keypath.Errorf([]string{"uri"}, "AWS_TLS_INSECURE_SKIP_VERIFY is set in the environment, and would let any host sign in place of AWS KMS; unset it")
	}
	region := config.WithRegion("")
	if name, err := arn.Parse(id); err == nil {
		region = config.WithRegion(name.Region)
	}
	once := config.WithRetryMaxAttempts(1) // a Signer retries, and bounds the retries
	loaded, err := config.LoadDefaultConfig(ctx, region, once)
	switch {
	case err != nil:
		return nil, keypath.Errorf([]string{"uri"}, "reading the configuration of the AWS SDK: %w", err)
	case loaded.Region == "":
		return nil, keypath.Errorf([]string{"uri"}, "%s names no region; give the key's ARN, or set AWS_REGION", uri)
	}
	client, err := aws.LoadSignerVerifier(ctx, uri, region, once)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%s: %w", uri, err)
	}
	key, err := kms.FromSigstore(ctx, client, kms.Service{
		Name: "AWS KMS", URI: uri, Status: status,
		Hint: "look at the region and the key in the URI, at the credentials that the AWS SDK finds, and at their permissions: kms:Sign, kms:GetPublicKey and kms:DescribeKey",
	})
	if err != nil {
		return nil, err
	}
	return kms.New(key)
}

// status implements kms.Service.Status. AWS KMS also answers 400 if it throttles a caller.
func status(err error) (int, http.Header) {
	var response *awshttp.ResponseError
	if !errors.As(err, &response) || response.Response == nil {
		return 0, nil
	}
	var answer smithy.APIError
	if errors.As(err, &answer) && strings.Contains(answer.ErrorCode(), "Throttling") {
		return http.StatusTooManyRequests, response.Response.Header
	}
	return response.HTTPStatusCode(), response.Response.Header
}
