// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// newAuthority opens `ca.file`. Its errors have key paths.
func newAuthority(cfg *config.Server) (authority *ca.Authority, warnings []error, err error) {
	data, err := readFile(cfg.CA.File.Chain)
	if err != nil {
		return nil, nil, keypath.Errorf([]string{"ca", "file", "chain"}, "reading the chain: %w", err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return nil, nil, keypath.Prefix(unjoinedInto("%s: %w", cfg.CA.File.Chain, err), "ca", "file", "chain")
	}
	signer, warnings, err := file.Open(file.Config{
		Key:          cfg.CA.File.Key,
		PasswordFile: cfg.CA.File.PasswordFile,
		Password:     []byte(cfg.CA.File.Password.Reveal()),
	})
	if err != nil {
		return nil, warnings, keypath.Prefix(err, "ca", "file")
	}
	authority, err = ca.NewAuthority("file", chain, signer)
	if err != nil {
		return nil, warnings, keypath.Errorf([]string{"ca", "file", "key"}, "%s: %w", cfg.CA.File.Key, err)
	}
	if err := authority.ValidAt(time.Now()); err != nil {
		return nil, warnings, keypath.Errorf([]string{"ca", "file", "chain"}, "%s: %w", cfg.CA.File.Chain, err)
	}
	if len(chain.Certificates) == 1 {
		warnings = append(warnings, keypath.Errorf([]string{"ca", "file", "chain"},
			"the root itself signs certificates: some clients demand an intermediate, and a root that is online cannot be rotated; mayfly ca init makes both"))
	}
	return authority, warnings, nil
}

// unjoinedInto wraps each error that errors.Join put together on its own, so that each
// becomes a line of its own.
func unjoinedInto(format, name string, err error) error {
	var errs []error
	for _, e := range unjoin(err) {
		errs = append(errs, fmt.Errorf(format, name, e))
	}
	return errors.Join(errs...)
}

// newLogs opens `ct.logs`; nil where Certificate Transparency is disabled. Its errors have
// key paths.
func newLogs(cfg *config.Server, logger *slog.Logger, registry prometheus.Registerer) (logs *ctlog.Logs, warnings []error, err error) {
	if cfg.CT.Disabled {
		return nil, nil, nil // package config has warned of it
	}
	var errs []error
	logsConfig := ctlog.Config{Now: time.Now, Logger: logger, Registerer: registry}
	for i, entry := range cfg.CT.Logs {
		path := []string{"ct", "logs", strconv.Itoa(i)}
		if entry.Embedded != nil {
			errs = append(errs, keypath.Errorf(append(path, "embedded"), "embedded logs cannot be used yet; name the url and public_key of a log"))
			continue
		}
		publicKey, err := readFile(entry.PublicKey)
		if err != nil {
			errs = append(errs, keypath.Errorf(append(path, "public_key"), "reading the log's public key: %w", err))
			continue
		}
		remote, warningsOfLog, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: entry.URL})
		if err != nil {
			errs = append(errs, keypath.Prefix(err, path...))
			continue
		}
		for _, warning := range warningsOfLog {
			warnings = append(warnings, keypath.Prefix(warning, path...))
		}
		logsConfig.Logs = append(logsConfig.Logs, ctlog.LogConfig{
			Log: remote, PublicKey: publicKey, Window: ctlog.Window{Begin: entry.ActivateAt, End: entry.RetireAt},
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, warnings, err
	}
	logs, err = ctlog.New(logsConfig)
	if err != nil {
		return nil, warnings, keypath.Prefix(err, "ct")
	}
	return logs, warnings, nil
}
