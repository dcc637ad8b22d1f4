// SPDX-License-Identifier: Apache-2.0

//go:build awskms

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/awskms"
	"github.com/mayfly-ca/mayfly/config"
)

func openAWSKMS() func(context.Context, *config.SignerKMS) (signer.Key, error) {
	return func(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
		return awskms.Open(ctx, named.URI)
	}
}
