// SPDX-License-Identifier: Apache-2.0

//go:build hashivault

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/hashivault"
)

func (built) Hashivault() opener {
	return func(ctx context.Context, named *signer.KMS) (signer.Key, error) {
		return hashivault.Open(ctx, hashivault.Config(*named))
	}
}
