// SPDX-License-Identifier: Apache-2.0

// Package caset is a CA set on disk. It loads a set completely or not at all, and edits it so that
// verifiers never meet a certificate that they do not expect. It is between config, which defines
// the file's form, and ca, which defines what a set means.
//
// It may be imported by app and cmd.
package caset

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// keyGrace is for how long after its retirement an authority's key is still read, in case a clock
// is set back a little. Afterwards the key may be destroyed.
const keyGrace = time.Hour

const maxChainFile = 1 << 20

// Loaded is a set that can be put in force.
type Loaded struct {
	// File is the set as it is written.
	File *config.CASet
	// Set is the set at run time.
	Set *ca.Set
	// Warnings are for the operator; each states its place.
	Warnings []error
	// Failed are the keys that failed to sign and were not required; Warnings has them too.
	Failed []error
	// Unfit is why the set cannot be put in force at this time, though it is valid: no authority is
	// active yet, or the active one has expired. Load returns it as its error.
	Unfit error
}

// Keys defines how the keys of a set are opened, and which must sign before it is loaded. A key
// that fails and is not required is reported in Loaded.Failed.
type Keys struct {
	// Ring opens the keys. It is required.
	Ring *keyring.Ring
	// Opens reports whether the key of an authority is opened at all; nil for all that are in use.
	Opens func(id string) bool
	// Offline requests no signatures from keys that are not in files of this process: for services,
	// modules and other processes, only configuration and files are checked.
	Offline bool
	// Must reports whether a set must not be loaded because the key of m failed with err; nil for
	// always. A retired authority never prevents the load of a set.
	Must func(m ca.Member, err error) bool
	// Current is the set in force; nil for none. An authority keeps its signer from there if that is
	// proven and the new one fails.
	Current *ca.Set
}

// Load reads the set at path and every file that it names. Every chain must meet the certificate
// specification, every key is opened and creates a real signature, and an authority must be active
// at now. Load returns all mistakes at once, each with its place in the file.
func Load(ctx context.Context, path string, now time.Time, keys Keys) (*Loaded, error) {
	cfg, warnings, err := config.LoadCASet(path)
	if err != nil {
		return nil, err
	}
	loaded, err := load(ctx, cfg, warnings, now, keys)
	if err == nil {
		err = loaded.Unfit
	}
	if err != nil {
		return nil, err
	}
	return loaded, nil
}

// Read is Load without the keys, for a caller that only displays the set, which may be unfit. The
// set that it returns signs nothing.
func Read(path string, now time.Time) (*Loaded, error) {
	cfg, mistakes, err := config.LoadCASet(path)
	if err != nil {
		return nil, err
	}
	members, err := readChains(cfg)
	if err != nil {
		return nil, cfg.Explain(err)
	}
	return check(cfg, members, asErrors(mistakes), now)
}

func asErrors(mistakes []config.Mistake) []error {
	var errs []error
	for _, m := range mistakes {
		errs = append(errs, m)
	}
	return errs
}

// check creates the set of members, and returns what is wrong with it at now.
func check(cfg *config.CASet, members []ca.Member, warnings []error, now time.Time) (*Loaded, error) {
	set, err := ca.NewSet(cfg.Generation, members)
	if err != nil {
		return nil, cfg.Explain(err)
	}
	more, unfit := set.CheckAt(now, cfg.Index)
	return &Loaded{
		File: cfg, Set: set, Unfit: cfg.Explain(unfit),
		Warnings: append(warnings, unjoin(cfg.Explain(errors.Join(more...)))...),
	}, nil
}

func load(ctx context.Context, cfg *config.CASet, mistakes []config.Mistake, now time.Time, keys Keys) (*Loaded, error) {
	members, err := readChains(cfg)
	if err != nil {
		return nil, cfg.Explain(err)
	}
	// A first set, without keys, shows which keys are needed.
	set, err := ca.NewSet(cfg.Generation, members)
	if err != nil {
		return nil, cfg.Explain(err)
	}
	opened := keys.openAll(ctx, cfg, set, now)
	var warnings, failed, errs []error
	for i := range members {
		o := opened[members[i].ID]
		members[i].Authority = o.authority
		for _, list := range []struct {
			of   error
			into *[]error
		}{{errors.Join(o.warnings...), &warnings}, {o.failed, &failed}, {o.err, &errs}} {
			if e := keypath.Prefix(list.of, "authorities", strconv.Itoa(i)); e != nil {
				*list.into = append(*list.into, e)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, cfg.Explain(err)
	}
	explained := unjoin(cfg.Explain(errors.Join(failed...)))
	warnings = append(append(asErrors(mistakes), unjoin(cfg.Explain(errors.Join(warnings...)))...), explained...)
	loaded, err := check(cfg, members, warnings, now)
	if loaded != nil {
		loaded.Failed = explained
	}
	return loaded, err
}

// readChains returns the members of the set without their keys.
func readChains(cfg *config.CASet) ([]ca.Member, error) {
	var errs []error
	var members []ca.Member
	for i, entry := range cfg.Authorities {
		path := []string{"authorities", strconv.Itoa(i), "chain"}
		data, err := files.Read(entry.Chain, maxChainFile)
		if err != nil {
			errs = append(errs, keypath.Errorf(path, "reading the chain: %w", err))
			continue
		}
		chain, err := ca.ParseChain(data)
		for _, e := range unjoin(err) {
			errs = append(errs, keypath.Errorf(path, "%s: %w", entry.Chain, e))
		}
		members = append(members, ca.Member{
			ID: entry.ID, Chain: chain, PublishAt: entry.PublishAt, ActivateAt: entry.ActivateAt, RetireAt: entry.RetireAt,
			CompromisedAt: entry.CompromisedAt,
		})
	}
	return members, errors.Join(errs...)
}

// opening is the result of opening the key of one authority.
type opening struct {
	authority *ca.Authority // nil if it signs nothing
	warnings  []error
	failed    error // what was tolerated
	err       error // what was not
}

// openAll opens the keys that are in use and has each create a signature. It does so in parallel,
// since some keys may be unreachable.
func (k Keys) openAll(ctx context.Context, cfg *config.CASet, set *ca.Set, now time.Time) map[string]opening {
	members := set.Members()
	results := make([]opening, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		if inUse(m, now) && (k.Opens == nil || k.Opens(m.ID)) {
			all.Go(func() { results[i] = k.openOne(ctx, cfg.Authorities[cfg.Index(m.ID)], m, now) })
		}
	}
	all.Wait()
	opened := map[string]opening{}
	for i, m := range members {
		opened[m.ID] = results[i]
	}
	return opened
}

// inUse reports whether m signs at now or later, or may sign if a clock is set back a little.
func inUse(m ca.Member, now time.Time) bool {
	switch state := m.StateAt(now); {
	case state == ca.Expired, state == ca.Compromised, state == ca.Retired && m.ActivateAt.IsZero():
		return false
	default:
		return m.SignsUntil().IsZero() || now.Before(m.SignsUntil().Add(keyGrace))
	}
}

func (k Keys) openOne(ctx context.Context, entry config.CASetAuthority, m ca.Member, now time.Time) (o opening) {
	authority, warnings, err := k.authority(entry, m.Chain)
	o.warnings = warnings
	fallback := authority // its signer retries by itself
	told := err
	if err == nil {
		if k.Offline && !authority.Signer().Status().Local {
			o.authority = authority
			return o
		}
		if err = authority.Prove(ctx); err == nil {
			o.authority = authority
			return o
		}
		told = keypath.Prefix(err, "signer")
	}
	switch {
	case k.must(m, err, now):
		o.err = told
	case m.StateAt(now) == ca.Retired:
		o.warnings = append(o.warnings, cannotSign(entry.ID, told)) // and will hardly sign again
		o.authority = k.proven(m, fallback)
	default:
		o.failed = cannotSign(entry.ID, told)
		o.authority = k.proven(m, fallback)
	}
	return o
}

func (k Keys) must(m ca.Member, err error, now time.Time) bool {
	return m.StateAt(now) != ca.Retired && (k.Must == nil || k.Must(m, err))
}

// proven returns the authority of m in the set in force, if its signer is local or proven, and
// otherwise fallback.
func (k Keys) proven(m ca.Member, fallback *ca.Authority) *ca.Authority {
	if k.Current == nil {
		return fallback
	}
	for _, other := range k.Current.Members() {
		if other.ID == m.ID && other.Chain.Equal(m.Chain) && other.Authority != nil {
			if status := other.Authority.Signer().Status(); status.Local || status.Proven {
				return other.Authority
			}
		}
	}
	return fallback
}

// cannotSign puts the authority's name before each part of err.
func cannotSign(id string, err error) error {
	var errs []error
	for _, e := range keypath.All(err) {
		errs = append(errs, keypath.Errorf(e.Path, "authority %q cannot sign now, and is tried again: %w", id, e.Err))
	}
	return errors.Join(errs...)
}

// authority returns the authority of an entry, which has not signed yet.
func (k Keys) authority(entry config.CASetAuthority, chain *ca.Chain) (authority *ca.Authority, warnings []error, err error) {
	if entry.Signer.IsZero() {
		return nil, nil, keypath.Errorf([]string{"signer"}, "authority %q has no signer; only one that has retired needs none", entry.ID)
	}
	s, warnings, err := k.Ring.Signer(entry.ID, entry.Signer, chain.Certificates[0].PublicKey)
	for i := range warnings {
		warnings[i] = keypath.Prefix(warnings[i], "signer")
	}
	if err != nil {
		return nil, warnings, keypath.Prefix(err, "signer")
	}
	authority, err = ca.NewAuthority(entry.ID, chain, s)
	return authority, warnings, keypath.Prefix(err, "signer")
}

// Files returns a function for a watcher: it returns the files that the set at path names. While
// the set is unreadable, it returns the files of the last readable one. Without keys, it omits what
// only another process can read.
func Files(path string, keys bool) func() []string {
	var last []string
	return func() []string {
		if cfg, _, err := config.LoadCASet(path); err == nil {
			if last = cfg.Chains(); keys {
				last = cfg.Files()
			}
		}
		return last
	}
}

func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
