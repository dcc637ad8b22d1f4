// SPDX-License-Identifier: Apache-2.0

//go:build !pkcs11 || !cgo

package keyring

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
)

const builtWithPKCS11 = false

// modules are those of PKCS#11, which this binary was built without.
type modules struct{}

func newModules() modules { return modules{} }

func (modules) open(context.Context, *config.SignerPKCS11) (signer.Key, error) {
	return nil, errors.New(notBuilt("pkcs11"))
}

func (modules) make(context.Context, *config.SignerPKCS11, string) (signer.Key, bool, error) {
	return nil, false, errors.New(notBuilt("pkcs11"))
}
