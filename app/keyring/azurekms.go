// SPDX-License-Identifier: Apache-2.0

//go:build azurekms

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/azurekms"
	"github.com/mayfly-ca/mayfly/config"
)

func openAzureKMS() func(context.Context, *config.SignerKMS) (signer.Key, error) {
	return func(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
		return azurekms.Open(ctx, named.URI)
	}
}
