// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo

package keyring

import (
	"context"
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const builtWithPKCS11 = true

// Modules are PKCS#11 modules. A process loads each once, when a key first needs it, with one login to
// each token; servers in one process share them.
type Modules struct{ loaded *pkcs11.Modules }

// NewModules returns no loaded module.
func NewModules() *Modules { return &Modules{pkcs11.NewModules()} }

// check finds what is wrong without a call to the module.
func (*Modules) check(named *signer.PKCS11) (warnings []error, err error) {
	return pkcs11.Check(pkcs11.Config(*named))
}

func (m *Modules) open(ctx context.Context, named *signer.PKCS11) (signer.Key, error) {
	return m.loaded.Open(ctx, pkcs11.Config(*named))
}

// make opens the key, or creates it.
func (m *Modules) make(ctx context.Context, named *signer.PKCS11, algorithm string) (key signer.Key, made bool, err error) {
	if key, err = m.open(ctx, named); !NoKey(err) {
		return key, false, err
	}
	if key, err = m.loaded.Generate(ctx, pkcs11.Config(*named), algorithm); err != nil {
		// The complete message has a key path: it may state that the key was created, although the call
		// fails.
		return nil, false, keypath.Errorf([]string{"label"}, "making the key: %w", err)
	}
	return key, true, nil
}

// NoKey reports whether the only error in err, of Ring.Open, is a missing key, which Ring.Make
// creates.
func NoKey(err error) bool { return errors.Is(err, pkcs11.ErrNoKey) }
