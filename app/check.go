// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/oidc"
)

// CheckOptions states what to check.
type CheckOptions struct {
	// File is an issuer file, or a server configuration, which is checked together with the
	// issuer file that it names.
	File string
	// Compat turns what the peer tolerates in an issuer file into warnings; a server configuration has
	// a setting for it.
	Compat bool
	// Online requests the document and keys of each static issuer, and the tree head of each remote
	// log.
	Online bool
	// NoFiles omits the files that a server configuration names, except the issuer file.
	NoFiles bool
	// Environ is the environment, as os.Environ gives it; for a server configuration.
	Environ []string
}

// CheckReport is the result of a check.
type CheckReport struct {
	// Warnings and Mistakes are each of the form FILE:LINE:COLUMN: sentence.
	Warnings, Mistakes []error
	CheckCounts
	// BuiltIn are the built-in CI providers that the issuers use, as text to paste into the file.
	BuiltIn string

	members []set.Member // the authorities with chains that have been read
}

// CheckCounts are the numbers of a check.
type CheckCounts struct {
	// Entries and Tests count the issuer entries and their tests, and Disabled the entries that are
	// disabled. They are 0 where mistakes prevented the read of the issuers.
	Entries  int `json:"entries"`
	Disabled int `json:"disabled"`
	Tests    int `json:"tests"`
	// Asked and Logs count the issuers and the logs that received a request, with Online.
	Asked int `json:"issuersAsked"`
	Logs  int `json:"logsAsked"`
}

// probeTimeout bounds what Online waits for all issuers together, and for all logs.
const probeTimeout = 20 * time.Second

// Check reads a configuration and all files that it names as serve does, and runs the tests beside
// the issuers. It opens nothing for writing and requests no signature. Its error states why it
// could not check; mistakes in the files are in the report.
func Check(ctx context.Context, options CheckOptions) (*CheckReport, error) {
	report := &CheckReport{}
	cfg, t, err := report.load(ctx, options)
	if options.Online && cfg != nil {
		report.askLogs(ctx, cfg)
	}
	if t == nil || err != nil {
		return report, err
	}
	for _, entry := range t.issuers.Entries {
		report.Entries++
		if entry.Connection.Disabled {
			report.Disabled++
		}
	}
	wrong := report.checkChains(t, time.Now())
	report.runTests(cfg, t)
	if options.Online {
		wrong = append(wrong, report.ask(ctx, t)...)
	}
	report.add(t.issuers.WithPlaces(errors.Join(wrong...)))
	report.BuiltIn = builtIn(t.issuers)
	return report, errors.Join(report.warnOfOpen(t.issuers), report.warnOfForeign(t.issuers))
}

// warnOfOpen warns of entries by which everyone gets a certificate who has an account at a provider.
func (r *CheckReport) warnOfOpen(issuers *config.Issuers) error {
	providers, err := config.Providers()
	var open []error
	for _, profile := range issuers.Enabled() {
		for name, p := range providers {
			if slices.Contains(p.Open, profile.Key) && len(profile.Policy.Allow) == 0 {
				open = append(open, keypath.Errorf(profile.Path, "every caller of %s can get a certificate: add a rule for your own, such as allow: [{name: ours, when: '%s'}]; "+
					"mayfly config init %s writes an entry with rules and tests, and when: 'true' states that everyone may", p.Title, p.Rule, name))
			}
		}
	}
	r.warn(keypath.Split(issuers.WithPlaces(errors.Join(open...)))...)
	return err
}

// warnOfForeign warns of entries for a server of the operator's own with a CI provider whose default URL
// is that of a public service: their certificates name what the public service has under that URL.
func (r *CheckReport) warnOfForeign(issuers *config.Issuers) error {
	providers, err := config.Providers()
	builtIn, errBuiltIn := identity.BuiltIn()
	public := map[string]bool{} // hosts of public issuers, and default URLs of built-in providers
	for _, p := range providers {
		for _, open := range p.Open {
			public[hostOf(open)] = true
		}
	}
	for _, p := range builtIn {
		for _, url := range p.DefaultTemplateValues {
			public[url] = url != ""
		}
	}
	var foreign []error
	for _, profile := range issuers.Enabled() {
		provider, own := issuers.CIIssuerMetadata[profile.CIProvider]
		if !own {
			provider = builtIn[profile.CIProvider]
		}
		for name, url := range provider.DefaultTemplateValues {
			if _, set := profile.Constants[name]; public[url] && !public[hostOf(profile.Key)] && !set {
				foreign = append(foreign, keypath.Errorf(append(slices.Clip(profile.Path), "ci-provider"), "certificates of this issuer would state %s, the default of %q, as its server, "+
					"like those of the public service: set the server's own URL, as in constants: {%s: https://%s}", url, name, name, hostOf(profile.Key)))
			}
		}
	}
	r.warn(keypath.Split(issuers.WithPlaces(errors.Join(foreign...)))...)
	return errors.Join(err, errBuiltIn)
}

// hostOf returns the host of an issuer URL or of a pattern for such URLs.
func hostOf(issuer string) string {
	_, rest, _ := strings.Cut(issuer, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// builtIn returns the built-in CI providers that entries use, as text.
func builtIn(issuers *config.Issuers) string {
	users := map[string][]string{}
	for _, profile := range issuers.All() {
		name := profile.CIProvider
		_, own := issuers.CIIssuerMetadata[name]
		if !own && profile.Type == identity.TypeCIProvider && !slices.Contains(users[name], profile.Key) {
			users[name] = append(users[name], profile.Key)
		}
	}
	return identity.BuiltInText(users)
}

// load returns the server configuration (the default one for an issuer file on its own) and the
// issuers of the file. They are nil if mistakes, which are then in the report, prevent their use.
func (r *CheckReport) load(ctx context.Context, options CheckOptions) (*config.Server, *trust, error) {
	isServer, err := config.IsServer(options.File)
	if err != nil {
		return nil, nil, err
	}
	if isServer && !options.NoFiles {
		return r.build(ctx, options)
	}
	cfg, file := &config.Server{Compat: options.Compat}, options.File
	if isServer {
		var warnings []error
		cfg, warnings, err = config.LoadServer(options.File, options.Environ)
		r.warn(warnings...)
		if err != nil {
			return nil, nil, r.addMistakes(err)
		}
		_, _, errSettings := checkSettings(cfg)
		_, errLimits := limits(cfg)
		r.add(cfg.WithPlaces(errors.Join(errSettings, errLimits)))
		file = cfg.Issuers
	}
	t, warnings, err := loadTrust(cfg, file, slog.New(slog.DiscardHandler), trustObserver{})
	r.warn(warnings...)
	return cfg, t, r.addMistakes(err)
}

// build builds a server as far as a check needs it.
func (r *CheckReport) build(ctx context.Context, options CheckOptions) (*config.Server, *trust, error) {
	app, err := build(ctx, Options{ConfigFile: options.File, Environ: options.Environ, report: r})
	if app == nil {
		return nil, nil, r.addMistakes(err)
	}
	r.add(err)
	if app.authorities != nil {
		r.members = app.authorities.current.Load().Members()
	}
	r.checkCluster(app.Config)
	return app.Config, app.live.first, app.Close(ctx)
}

// runTests runs the tests beside the issuers.
func (r *CheckReport) runTests(cfg *config.Server, t *trust) {
	number, warnings, err := t.runTests(cfg)
	r.Tests = number
	r.warn(warnings...)
	r.add(err)
}

// checkCluster warns of unusable files of `oidc.kubernetes` that the configuration names. A server
// starts without them: Kubernetes replaces them, and each use reads them.
func (r *CheckReport) checkCluster(cfg *config.Server) {
	for _, named := range []struct{ key, file string }{{"ca_file", cfg.OIDC.Kubernetes.CAFile}, {"token_file", cfg.OIDC.Kubernetes.TokenFile}} {
		if !cfg.Sets("oidc", "kubernetes", named.key) {
			continue
		}
		content, err := readFile(named.file)
		if err == nil && named.key == "ca_file" {
			err = pem.CertPool(x509.NewCertPool(), content)
		} else if err == nil && len(bytes.TrimSpace(content)) == 0 {
			err = fmt.Errorf("%s is empty", named.file)
		}
		if err != nil {
			path := []string{"oidc", "kubernetes", named.key}
			r.warn(keypath.Split(cfg.WithPlaces(keypath.Errorf(path, "the cluster's issuer cannot be asked with this file: %w", err)))...)
		}
	}
}

// checkChains returns the issuer entries of t with a kind of name that no verifier accepts below a
// chain. It checks the chains of the authorities that sign or will sign.
func (r *CheckReport) checkChains(t *trust, now time.Time) (wrong []error) {
	for _, m := range r.members {
		if m.StateAt(now) > set.Active {
			continue
		}
		unusable, err := m.Chain.Trial(now)
		if err != nil {
			continue // no kind is usable; the chain's own mistake is reported elsewhere
		}
		for _, profile := range t.issuers.All() {
			if cause := unusable[identity.SANKind(profile.Type)]; cause != nil {
				wrong = append(wrong, keypath.Errorf(append(slices.Clip(profile.Path), "type"), "the chain of authority %q accepts no certificate of this issuer: %w", m.ID, cause))
			}
		}
	}
	return wrong
}

// addMistakes adds err to the report if it contains mistakes of a file, and returns any other
// error.
func (r *CheckReport) addMistakes(err error) error {
	if errors.As(err, new(config.Mistakes)) {
		r.add(err)
		return nil
	}
	return err
}

// add adds mistakes. Two parts may find the same one.
func (r *CheckReport) add(err error) {
	for _, e := range keypath.Split(err) {
		if !slices.ContainsFunc(r.Mistakes, func(other error) bool { return other.Error() == e.Error() }) {
			r.Mistakes = append(r.Mistakes, e)
		}
	}
}

func (r *CheckReport) warn(warnings ...error) { r.Warnings = append(r.Warnings, warnings...) }

// ask requests the documents and keys of every static issuer.
func (r *CheckReport) ask(ctx context.Context, t *trust) (wrong []error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	t.verifier.Probe(ctx)
	for _, status := range t.verifier.Status() {
		path := []string{"oidc-issuers", status.Entry, "issuer-url"}
		switch {
		case status.IssuerURL == "", status.State == oidc.StateDisabled: // a pattern has no single issuer to ask
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
		entries := count(r.Entries, "issuer entry", "issuer entries")
		if r.Disabled > 0 {
			entries += fmt.Sprintf(" (%d disabled)", r.Disabled)
		}
		text = entries + ", " + count(r.Tests, "test", "tests") + ", " + text
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
