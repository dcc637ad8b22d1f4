// SPDX-License-Identifier: Apache-2.0

//go:build hashivault

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/hashivault"
	"github.com/mayfly-ca/mayfly/config"
)

func (built) Hashivault() opener {
	return func(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
		return hashivault.Open(ctx, hashivault.Config{URI: named.URI, Version: uint(named.Version), Address: named.Address, TokenFile: named.TokenFile, Mount: named.Mount})
	}
}
