// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/server"
)

// openLogs opens `ct.logs`; a check inspects embedded logs and opens none. Its errors have key paths.
func (a *App) openLogs(ctx context.Context) (err error) {
	var errs, warnings []error
	logs := ctlog.Config{Now: time.Now, Logger: a.callers, Registerer: a.registry, Confirm: func() error { return clockWrong(a.clock.Check()) }}
	for i, entry := range a.Config.CT.Logs {
		path := []string{"ct", "logs", strconv.Itoa(i)}
		var opened ctlog.LogConfig
		var warned []error
		var err error
		if entry.Embedded != nil {
			path = append(path, "embedded")
			opened, warned, err = a.openEmbedded(ctx, *entry.Embedded)
		} else {
			opened, warned, err = a.openRemote(entry)
			operator := operatorOf(entry.URL)
			opened.Timestamp = func(at time.Time) { a.clock.Observe(operator, at) }
		}
		opened.Window = ctlog.Window{Begin: entry.ActivateAt, End: entry.RetireAt}
		logs.Logs = append(logs.Logs, opened)
		warnings = append(warnings, keypath.Prefix(errors.Join(warned...), path...))
		errs = append(errs, keypath.Prefix(err, path...))
	}
	a.warn(keypath.Split(a.Config.WithPlaces(errors.Join(warnings...)))...)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !a.Config.CT.Disabled { // otherwise package config has warned of it
		if a.logs, err = ctlog.New(logs); err != nil {
			return keypath.Prefix(err, "ct")
		}
	}
	a.instance, err = newInstance(a.Config)
	return err
}

// operatorOf returns the part of a log's URL that stands for its operator: the last two labels of the host, or an IP address.
// Two operators below a suffix such as co.uk count as one, and so less evidence.
func operatorOf(logURL string) string {
	u, err := url.Parse(logURL)
	if err != nil { // such a log is a mistake
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if labels := strings.Split(host, "."); net.ParseIP(host) == nil && len(labels) > 2 {
		host = strings.Join(labels[len(labels)-2:], ".")
	}
	return host
}

func (a *App) openRemote(entry config.CTLog) (ctlog.LogConfig, []error, error) {
	publicKey, err := readFile(entry.PublicKey)
	if err != nil {
		return ctlog.LogConfig{}, nil, keypath.Errorf([]string{"public_key"}, "reading the log's public key: %w", err)
	}
	var remote *ctlog.Remote
	if entry.CAFile != "" { // the watcher takes the current content as known, so it comes before the first read
		a.watch(watch.Config{Name: "CA certificates of the log " + entry.URL, Files: func() []string { return []string{entry.CAFile} }, Reload: func() error {
			roots, err := readRoots(entry.CAFile)
			if err == nil {
				remote.UseRoots(roots)
			}
			return err
		}})
	}
	remote, warnings, err := newRemote(entry)
	return ctlog.LogConfig{Log: remote, PublicKey: publicKey}, warnings, err
}

// readRoots reads a file of CA certificates.
func readRoots(name string) (*x509.CertPool, error) {
	content, err := readFile(name)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if err := pem.CertPool(roots, content); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return roots, nil
}

// newRemote is ctlog.NewRemote with the files that entry names.
func newRemote(entry config.CTLog) (remote *ctlog.Remote, warnings []error, err error) {
	var token []byte
	if entry.TokenFile != "" {
		if token, _, err = files.ReadSecretLine(entry.TokenFile, "the log's token"); err != nil {
			return nil, nil, keypath.Errorf([]string{"token_file"}, "reading the token: %w", err)
		}
	}
	var roots *x509.CertPool
	if entry.CAFile != "" {
		if roots, err = readRoots(entry.CAFile); err != nil {
			return nil, nil, keypath.Errorf([]string{"ca_file"}, "reading the CA certificates: %w", err)
		}
	}
	return ctlog.NewRemote(ctlog.RemoteConfig{URL: entry.URL, Token: token, RootCAs: roots})
}

func (a *App) openEmbedded(ctx context.Context, cfg embedded.Config) (opened ctlog.LogConfig, warnings []error, err error) {
	if submit := cfg.Submit; submit != nil {
		if cfg.SubmitToken, _, err = files.ReadSecretLine(submit.TokenFile, "the token of submitters"); err != nil {
			return opened, nil, keypath.Errorf([]string{"submit", "token_file"}, "reading the token: %w", err)
		}
	}
	cfg.Roots = func() []*x509.Certificate { return a.authorities.roots() }
	cfg.Now, cfg.Logger, cfg.Registerer = time.Now, a.callers, a.registry
	var log *embedded.Log
	if a.options.report != nil {
		var refused error
		if log, refused, err = embedded.Check(ctx, cfg); refused != nil {
			warnings = []error{keypath.Errorf([]string{"dir"}, "the log would start and take no entry: %w", refused)}
		}
	} else if log, err = embedded.Open(ctx, cfg); err == nil {
		a.embedded = append(a.embedded, log)
	}
	if err != nil {
		return opened, nil, err
	}
	return ctlog.LogConfig{Log: log, PublicKey: log.PublicKey(), TrustsSubmitter: true}, warnings, nil
}

// logChecks reports each log's state as its submitter sees it, which never makes the server unready:
// only the next certificate closes a breaker. They report each embedded log's own state too. One that
// takes no entry makes the server unready where no other log exists.
func (a *App) logChecks() []server.Check {
	checks := []server.Check{{Name: "certificate-transparency", Runbook: "docs/ct.md#a-log-fails", Probe: func(context.Context) (string, error) {
		if a.logs == nil {
			return "disabled by configuration", nil
		}
		return ctHealth(a.logs.Status())
	}}}
	for _, log := range a.embedded {
		checks = append(checks, server.Check{Name: "ctlog " + log.Name(), Runbook: "docs/ctlog.md#the-log-is-slow-or-stores-nothing", Critical: len(a.Config.CT.Logs) == 1, Probe: func(context.Context) (string, error) {
			status := log.Status()
			if status.Err != nil {
				return "takes no entry", status.Err
			}
			return fmt.Sprintf("%d entries, %d published at %s", status.TreeSize, status.CheckpointSize, status.CheckpointTime.Format(time.RFC3339)), nil
		}})
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
