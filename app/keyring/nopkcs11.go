// SPDX-License-Identifier: Apache-2.0

//go:build !pkcs11 || !cgo

package keyring

import (
	"context"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

const builtWithPKCS11 = false

// Modules are those of PKCS#11, which this binary was built without.
type Modules struct{}

// NewModules returns none.
func NewModules() *Modules { return &Modules{} }

func (*Modules) check(*signer.PKCS11) ([]error, error) {
	return nil, notBuilt("pkcs11")
}

func (*Modules) open(context.Context, *signer.PKCS11) (signer.Key, error) {
	return nil, notBuilt("pkcs11")
}

func (*Modules) make(context.Context, *signer.PKCS11, string) (signer.Key, bool, error) {
	return nil, false, notBuilt("pkcs11")
}

// NoKey reports whether the only error in err, of Ring.Open, is a missing key, which Ring.Make
// creates.
func NoKey(error) bool { return false }
