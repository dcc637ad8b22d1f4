// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server"
)

// logSet is `ct` at run time.
type logSet struct {
	// logs is nil where Certificate Transparency is disabled.
	logs     *ctlog.Logs
	embedded []*embedded.Log
	count    int // of all logs
	warnings []error
	// check inspects embedded logs and opens none.
	check bool
}

// openLogs opens `ct.logs`. Its errors have key paths.
func (a *App) openLogs(ctx context.Context, options Options, registry prometheus.Registerer) (err error) {
	roots := func() []*x509.Certificate { return a.authorities.roots() }
	if a.logs, err = newLogs(ctx, a.Config, options.report != nil, roots, a.callers, registry); err == nil {
		a.warn(unjoin(a.Config.WithPlaces(errors.Join(a.logs.warnings...)))...)
	}
	return err
}

// newLogs opens `ct.logs`. Its errors have key paths. Where it fails, it closes again what it
// opened.
func newLogs(ctx context.Context, cfg *config.Server, check bool, roots func() []*x509.Certificate, logger *slog.Logger, registry prometheus.Registerer) (_ *logSet, err error) {
	set := &logSet{count: len(cfg.CT.Logs), check: check}
	if cfg.CT.Disabled {
		return set, nil // package config has warned of it
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, set.close(ctx))
		}
	}()
	var errs []error
	logsConfig := ctlog.Config{Now: time.Now, Logger: logger, Registerer: registry}
	for i, entry := range cfg.CT.Logs {
		path := []string{"ct", "logs", strconv.Itoa(i)}
		var opened ctlog.LogConfig
		var err error
		if entry.Embedded != nil {
			path = append(path, "embedded")
			opened, err = set.openEmbedded(ctx, *entry.Embedded, path, roots, logger, registry)
		} else {
			opened, err = set.openRemote(entry, path)
		}
		if err != nil {
			errs = append(errs, keypath.Prefix(err, path...))
			continue
		}
		opened.Window = ctlog.Window{Begin: entry.ActivateAt, End: entry.RetireAt}
		logsConfig.Logs = append(logsConfig.Logs, opened)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if set.logs, err = ctlog.New(logsConfig); err != nil {
		return nil, keypath.Prefix(err, "ct")
	}
	return set, nil
}

func (s *logSet) openRemote(entry config.CTLog, path []string) (ctlog.LogConfig, error) {
	publicKey, err := readFile(entry.PublicKey)
	if err != nil {
		return ctlog.LogConfig{}, keypath.Errorf([]string{"public_key"}, "reading the log's public key: %w", err)
	}
	remote, warnings, err := newRemote(entry)
	if err != nil {
		return ctlog.LogConfig{}, err
	}
	for _, warning := range warnings {
		s.warnings = append(s.warnings, keypath.Prefix(warning, path...))
	}
	return ctlog.LogConfig{Log: remote, PublicKey: publicKey}, nil
}

// newRemote is ctlog.NewRemote with the token of entry, if it names one.
func newRemote(entry config.CTLog) (remote *ctlog.Remote, warnings []error, err error) {
	var token []byte
	if entry.TokenFile != "" {
		if token, _, err = files.ReadSecretLine(entry.TokenFile, "the log's token"); err != nil {
			return nil, nil, keypath.Errorf([]string{"token_file"}, "reading the token: %w", err)
		}
	}
	return ctlog.NewRemote(ctlog.RemoteConfig{URL: entry.URL, Token: token})
}

func (s *logSet) openEmbedded(ctx context.Context, cfg embedded.Config, path []string, roots func() []*x509.Certificate, logger *slog.Logger, registry prometheus.Registerer) (ctlog.LogConfig, error) {
	if submit := cfg.Submit; submit != nil {
		token, _, err := files.ReadSecretLine(submit.TokenFile, "the token of submitters")
		if err != nil {
			return ctlog.LogConfig{}, keypath.Errorf([]string{"submit", "token_file"}, "reading the token: %w", err)
		}
		cfg.SubmitToken = token
	}
	cfg.Roots = roots
	cfg.Now, cfg.Logger, cfg.Registerer = time.Now, logger, registry
	if s.check {
		log, refused, err := embedded.Check(ctx, cfg)
		if err != nil {
			return ctlog.LogConfig{}, err
		}
		if refused != nil {
			s.warnings = append(s.warnings, keypath.Prefix(keypath.Errorf([]string{"dir"}, "the log would start and take no entry: %w", refused), path...))
		}
		return ctlog.LogConfig{Log: log, PublicKey: log.PublicKey(), TrustsSubmitter: true}, nil
	}
	log, err := embedded.Open(ctx, cfg)
	if err != nil {
		return ctlog.LogConfig{}, err
	}
	s.embedded = append(s.embedded, log)
	return ctlog.LogConfig{Log: log, PublicKey: log.PublicKey(), TrustsSubmitter: true}, nil
}

// close stops the embedded logs. Each stops in an order that loses no entry.
func (s *logSet) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	var errs []error
	for _, log := range s.embedded {
		errs = append(errs, log.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// mounts serves each embedded log below /ctlog/NAME/.
func (s *logSet) mounts() []server.Mount {
	var mounts []server.Mount
	for _, log := range s.embedded {
		mounts = append(mounts, server.Mount{Path: logPath(log.Name()) + "/", Name: "ctlog", Handler: log.Handler()})
	}
	return mounts
}

// checks reports each log's state as its submitter sees it, which never makes the server unready: only
// the next certificate closes a breaker. They report each embedded log's own state too. One that takes
// no entry makes the server unready where no other log exists.
func (s *logSet) checks() []server.Check {
	checks := []server.Check{{Name: "certificate-transparency", Probe: func(context.Context) (string, error) {
		if s.logs == nil {
			return "disabled by configuration", nil
		}
		return ctHealth(s.logs.Status())
	}}}
	for _, log := range s.embedded {
		checks = append(checks, server.Check{
			Name:     "ctlog " + log.Name(),
			Critical: s.count == 1,
			Probe: func(context.Context) (string, error) {
				status := log.Status()
				if status.Err != nil {
					return "takes no entry", status.Err
				}
				return fmt.Sprintf("%d entries, %d published at %s", status.TreeSize, status.CheckpointSize, status.CheckpointTime.Format(time.RFC3339)), nil
			},
		})
	}
	return checks
}

// logPath is where an embedded log is served.
func logPath(name string) string { return "/ctlog/" + name }

// ctHealth returns each log's state, and the last error of each log that has failed since it last
// gave an SCT.
func ctHealth(logs []ctlog.LogStatus) (detail string, err error) {
	var states []string
	for _, log := range logs {
		state := fmt.Sprintf("%s: breaker %s", log.Name, log.State)
		if log.Failures > 0 {
			state += ", " + count(log.Failures, "failure", "failures in a row")
		}
		if log.State == breaker.Open {
			state += fmt.Sprintf(", probed in %.0f s", log.Probe.Seconds())
		}
		if log.Rest > 0 {
			state += fmt.Sprintf(", receives nothing for %.0f s, as it asked", log.Rest.Seconds())
		}
		states = append(states, state)
		if log.LastError != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", log.Name, log.LastError))
		}
	}
	return strings.Join(states, "; "), err
}
