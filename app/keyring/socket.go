// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"context"
	"crypto"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

func openSocket(ctx context.Context, path string, public crypto.PublicKey) (signer.Key, error) {
	return socket.Open(ctx, socket.Config{Path: path, Public: public})
}
