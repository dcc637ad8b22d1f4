// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// newAuthority opens `ca.file`. Its errors have key paths.
func newAuthority(ctx context.Context, cfg *config.Server, metrics *signer.Metrics) (authority *ca.Authority, warnings []error, err error) {
	data, err := readFile(cfg.CA.File.Chain)
	if err != nil {
		return nil, nil, keypath.Errorf([]string{"ca", "file", "chain"}, "reading the chain: %w", err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return nil, nil, keypath.Prefix(unjoinedInto("%s: %w", cfg.CA.File.Chain, err), "ca", "file", "chain")
	}
	key, warnings, err := file.Open(file.Config{
		Key:          cfg.CA.File.Key,
		PasswordFile: cfg.CA.File.PasswordFile,
		Password:     []byte(cfg.CA.File.Password.Reveal()),
	})
	for i := range warnings {
		warnings[i] = keypath.Prefix(warnings[i], "ca", "file")
	}
	if err != nil {
		return nil, warnings, keypath.Prefix(err, "ca", "file")
	}
	s, err := signer.Local("file", key, metrics)
	if err == nil {
		authority, err = ca.NewAuthority("file", chain, s)
	}
	if err == nil {
		err = authority.Prove(ctx)
	}
	if err != nil {
		return nil, warnings, keypath.Errorf([]string{"ca", "file", "key"}, "%s: %w", cfg.CA.File.Key, err)
	}
	if err := authority.ValidAt(time.Now()); err != nil {
		return nil, warnings, keypath.Errorf([]string{"ca", "file", "chain"}, "%s: %w", cfg.CA.File.Chain, err)
	}
	if _, err := chain.Trial(time.Now()); err != nil {
		return nil, warnings, keypath.Errorf([]string{"ca", "file", "chain"}, "%s: %w", cfg.CA.File.Chain, err)
	}
	if len(chain.Certificates) == 1 {
		warnings = append(warnings, keypath.Errorf([]string{"ca", "file", "chain"},
			"the root itself signs certificates: some clients require an intermediate, and a root that is online cannot be rotated; mayfly ca init makes both"))
	}
	return authority, warnings, nil
}

// unjoinedInto wraps each error that errors.Join combined separately, so that each is printed on a
// line of its own.
func unjoinedInto(format, name string, err error) error {
	var errs []error
	for _, e := range unjoin(err) {
		errs = append(errs, fmt.Errorf(format, name, e))
	}
	return errors.Join(errs...)
}
