// SPDX-License-Identifier: Apache-2.0

//go:build gcpkms

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/gcpkms"
	"github.com/mayfly-ca/mayfly/config"
)

func openGCPKMS() func(context.Context, *config.SignerKMS) (signer.Key, error) {
	return func(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
		return gcpkms.Open(ctx, named.URI)
	}
}
