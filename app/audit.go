// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server"
)

// openAudit opens `audit`; a check reads its key only. Its errors have key paths.
func (a *App) openAudit(ctx context.Context) (err error) {
	if a.Config.Audit == nil {
		if a.options.report == nil {
			a.logger.LogAttrs(ctx, slog.LevelWarn, "there is no audit log: set audit.dir, and each certificate has a durable record before it is signed")
		}
		return nil
	}
	cfg := *a.Config.Audit
	if cfg.HMACKeyFile != "" {
		var warning error
		if cfg.HMACKey, warning, err = files.ReadSecretLine(cfg.HMACKeyFile, "the key of identity: hmac"); err != nil {
			return keypath.Errorf([]string{"audit", "hmac_key_file"}, "reading the key: %w", err)
		}
		if warning != nil {
			a.warn(a.Config.WithPlaces(keypath.Prefix(warning, "audit", "hmac_key_file")))
		}
	}
	if err := audit.CheckSettings(cfg); err != nil || a.options.report != nil {
		return keypath.Prefix(err, "audit")
	}
	cfg.Now, cfg.Logger, cfg.Registerer = a.options.now(), a.callers, a.registry
	if a.audit, err = audit.Open(cfg); err != nil {
		return keypath.Errorf([]string{"audit", "dir"}, "%w", err)
	}
	if a.options.Audited != nil {
		a.options.Audited()
	}
	a.authorities.audit = a.audit
	a.tasks = append(a.tasks, a.audit.Run)
	return nil
}

// recordStart writes the first record of this process.
func (a *App) recordStart() {
	r := &audit.Record{
		Kind: audit.KindStart, Version: a.options.Version, PID: os.Getpid(), ConfigGeneration: a.live.current.Load().number, CAGeneration: a.authorities.generation(),
		Files: map[string]string{"configuration": a.Config.Digest(), "issuers": a.live.current.Load().digest},
	}
	if a.authorities.digest != "" {
		r.Files["ca_set"] = a.authorities.digest
	}
	r.Host, _ = os.Hostname()
	if authority, err := a.authorities.Active(a.authorities.now()); err == nil {
		r.Authority = authority.ID()
	}
	a.audit.Event(r)
}

// auditCheck makes the server unready while the audit log cannot be written.
func (a *App) auditCheck() []server.Check {
	if a.audit == nil {
		return nil
	}
	return []server.Check{{Name: "audit", Critical: true, Runbook: "docs/audit.md#the-audit-log-cannot-be-written", Probe: func(context.Context) (string, error) {
		head, since, err := a.audit.Status()
		if err != nil {
			return "not writable since " + since.UTC().Format(time.RFC3339), err
		}
		return fmt.Sprintf("%d records", head.Sequence), nil
	}}}
}
