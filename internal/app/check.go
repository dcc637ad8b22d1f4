// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/proof"
)

// CheckOptions says what to check.
type CheckOptions struct {
	// File is an issuer file, or a server configuration, which is checked together with the
	// issuer file that it names.
	File string
	// Compat makes warnings of what the peer tolerates in an issuer file; a server
	// configuration says so itself.
	Compat bool
	// Online asks each static issuer for its document and keys, and each remote log for its tree
	// head.
	Online bool
	// Environ is the environment, as os.Environ gives it; for a server configuration.
	Environ []string
}

// CheckReport is what a check found.
type CheckReport struct {
	// Warnings and Mistakes are each of the form FILE:LINE:COLUMN: sentence.
	Warnings, Mistakes []error
	// Entries and Tests count the issuer entries and the tests beside them. They are 0 where
	// mistakes kept the issuers from being read.
	Entries, Tests int
	// Asked and Logs count the issuers and the logs that were asked, with Online.
	Asked, Logs int
}

// probeTimeout bounds what Online waits for all issuers together, and for all logs.
const probeTimeout = 20 * time.Second

// Check reads a configuration as serve does, without its secrets, and runs the tests that
// stand beside issuers. Its error says why it could not do so; what is wrong with the files
// is in the report.
func Check(ctx context.Context, options CheckOptions) (*CheckReport, error) {
	report := &CheckReport{}
	cfg, t, err := report.load(options)
	if options.Online && cfg != nil {
		report.askLogs(ctx, cfg)
	}
	if t == nil || err != nil {
		return report, err
	}
	report.checkChains(cfg, t, time.Now())
	report.Entries = len(t.issuers.Entries)
	var wrong []error
	for _, entry := range t.issuers.Entries {
		for _, profile := range entry.All() {
			for i, test := range profile.Tests {
				report.Tests++
				wrong = append(wrong, t.test(profile, i, test)...)
			}
		}
	}
	if options.Online {
		wrong = append(wrong, report.ask(ctx, t)...)
	}
	report.add(t.issuers.Explain(errors.Join(wrong...)))
	return report, nil
}

// load returns the server configuration and the issuers of the file; nil where mistakes, which are
// in the report then, keep them from use.
func (r *CheckReport) load(options CheckOptions) (*config.Server, *trust, error) {
	cfg, file, err := r.server(options)
	if cfg == nil || err != nil {
		return nil, nil, err
	}
	t, warnings, err := loadTrust(cfg, file, slog.New(slog.DiscardHandler), trustObserver{})
	r.Warnings = append(r.Warnings, asErrors(warnings)...)
	if err != nil && !errors.As(err, new(config.Mistakes)) {
		return nil, nil, err
	}
	r.add(err)
	return cfg, t, nil
}

// server returns the server configuration, which an issuer file on its own has by default,
// and the name of the issuer file.
func (r *CheckReport) server(options CheckOptions) (*config.Server, string, error) {
	isServer, err := config.IsServer(options.File)
	if err != nil {
		return nil, "", err
	}
	if !isServer {
		return &config.Server{Compat: options.Compat}, options.File, nil
	}
	cfg, warnings, err := config.LoadServer(options.File, options.Environ)
	r.Warnings = append(r.Warnings, asErrors(warnings)...)
	if err != nil {
		if !errors.As(err, new(config.Mistakes)) {
			return nil, "", err
		}
		r.add(err)
		return nil, "", nil
	}
	_, errKeys := proof.NewKeyPolicy(proof.KeyPolicyConfig{Algorithms: cfg.Keys.Algorithms})
	_, errProfile := ca.NewProfile(cfg.Certificate.Lifetime)
	_, errLimits := limits(cfg)
	r.add(cfg.Explain(errors.Join(errKeys, errProfile, errLimits)))
	return cfg, cfg.Issuers, nil
}

func (r *CheckReport) add(err error) { r.Mistakes = append(r.Mistakes, unjoin(err)...) }

// ask has every static issuer answer for itself.
func (r *CheckReport) ask(ctx context.Context, t *trust) (wrong []error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	t.verifier.Probe(ctx)
	for _, status := range t.verifier.Status() {
		path := []string{"oidc-issuers", status.Entry, "issuer-url"}
		switch {
		case status.IssuerURL == "": // a pattern is nobody to ask
			continue
		case status.State == oidc.StateFailing:
			wrong = append(wrong, keypath.Errorf(path, "asking the issuer: %s", status.LastError))
		case status.State != oidc.StateOK:
			wrong = append(wrong, keypath.Errorf(path, "the issuer has not answered within %s", probeTimeout))
		}
		r.Asked++
	}
	return wrong
}

// Summary is one line for a person.
func (r *CheckReport) Summary() string {
	text := count(len(r.Mistakes), "mistake", "mistakes") + ", " + count(len(r.Warnings), "warning", "warnings")
	if r.Entries > 0 {
		text = count(r.Entries, "issuer entry", "issuer entries") + ", " + count(r.Tests, "test", "tests") + ", " + text
	}
	if r.Asked > 0 {
		text += ", " + count(r.Asked, "issuer asked", "issuers asked")
	}
	if r.Logs > 0 {
		text += ", " + count(r.Logs, "log asked", "logs asked")
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
