// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// commandTimeout bounds, in total, what a command does with keys outside this machine's files.
const commandTimeout = 2 * time.Minute

// keys opens the keys of one command, and creates missing ones. The process stops soon, and with it
// closes the keys.
type keys struct {
	ring *keyring.Ring
	err  io.Writer // receives warnings
}

// withKeys calls do, which may open keys and use them for up to commandTimeout.
func withKeys(c *cobra.Command, ring *keyring.Ring, do func(context.Context, keys) error) error {
	ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
	defer cancel()
	return do(ctx, keys{ring, c.ErrOrStderr()})
}

// withNewKeys calls create once the keys of flags are opened that exist.
func withNewKeys(c *cobra.Command, create func() error, flags ...*signerFlag) error {
	return withKeys(c, keyring.New(keyring.Config{}), func(ctx context.Context, keys keys) error {
		if err := keys.lookAll(ctx, flags...); err != nil {
			return err
		}
		return create()
	})
}

func (k keys) warn(warnings ...error) {
	for _, warning := range warnings {
		printable.Fprintf(k.err, "mayfly: warning: %v\n", warning)
	}
}

// newExternal is a key before the first attempt to open it.
func newExternal(named config.Signer) *ceremony.ExternalKey {
	return &ceremony.ExternalKey{Where: whereIs(named), Block: named.Flow}
}

// look opens the key that named names. If it does not exist, the ceremony creates it later, once
// nothing else is wrong. place adds the place to errors and warnings.
func (k keys) look(ctx context.Context, named config.Signer, key *ceremony.ExternalKey, place func(error) error) (warnings []error, err error) {
	opened, warnings, err := k.ring.Open(ctx, named)
	for i := range warnings {
		warnings[i] = place(warnings[i])
	}
	switch {
	case err == nil:
		key.Signer = signer.Crypto(ctx, opened)
		return warnings, nil
	case !keyring.NoKey(err):
		return warnings, place(err)
	}
	key.Make = func(algorithm string) (crypto.Signer, bool, error) {
		opened, made, err := k.ring.Make(ctx, named, algorithm)
		if err != nil {
			return nil, false, place(err)
		}
		return signer.Crypto(ctx, opened), made, nil
	}
	return warnings, nil
}

// lookAll is look for the keys of flags.
func (k keys) lookAll(ctx context.Context, flags ...*signerFlag) error {
	var errs []error
	for _, f := range flags {
		if f.key == nil {
			continue
		}
		warnings, err := k.look(ctx, f.named, f.key, f.place)
		k.warn(warnings...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// whereIs describes for people where a key is. It contains no secret.
func whereIs(named config.Signer) string {
	switch {
	case named.PKCS11 != nil:
		key := fmt.Sprintf("%q", named.PKCS11.Label)
		if id := named.PKCS11.ID; id != nil {
			key += fmt.Sprintf(" with the ID %x", id)
		}
		return fmt.Sprintf("in the token %q as %s, by %s", named.PKCS11.Token, key, named.PKCS11.Module)
	case named.KMS != nil && named.KMS.Version > 0:
		return fmt.Sprintf("at %s in version %d", named.KMS.URI, named.KMS.Version)
	case named.KMS != nil:
		return "at " + named.KMS.URI
	case named.File != nil:
		return "in the file " + named.File.Key
	default:
		return ""
	}
}
