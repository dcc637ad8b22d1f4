// SPDX-License-Identifier: Apache-2.0

// Package caset is a CA set as it lies on disk: loaded whole or not at all, and edited so
// that verifiers never meet a certificate that they do not expect. It stands between config,
// which knows the file's form, and ca, which knows what a set means.
//
// It may be imported by internal/app and cmd.
package caset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/app/keyring"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// keyGrace is for how long after its retirement an authority's key is still read, so that a
// clock that is set back a little finds it. Afterwards the key may be destroyed.
const keyGrace = time.Hour

const maxChainFile = 1 << 20

// Loaded is a set that can be put in force.
type Loaded struct {
	// File is the set as it is written.
	File *config.CASet
	// Set is the set at run time.
	Set *ca.Set
	// Warnings are what an operator should know; each tells its place.
	Warnings []error
	// Unfit is why the set cannot be put in force at this time, though it is well in itself:
	// nothing is active yet, or what is active has ended. Load returns it as its error.
	Unfit error
}

// Keys is how the keys of a set are opened, and whose must sign before it is loaded.
type Keys struct {
	// Ring opens them. It must be there.
	Ring *keyring.Ring
	// Tolerates tells whether the set may be loaded though the key of authority id has failed
	// with err; nil for never. A key that has signed before, in the hands of Ring, is always
	// tolerated: the set may be what leads away from it.
	Tolerates func(id string, err error) bool
}

// Load reads the set at path and everything that it names: every chain is checked by the
// certificate specification, every key is opened and makes a real signature, and at now an
// authority must be active. Every mistake is told at once, with its place in the file.
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

// Read is Load without the keys, and for a set that may be unfit: for whoever only looks.
// The set that it returns signs nothing.
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

// check makes the set of members, and tells what is wrong with it at now.
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
	// A first set, without keys, tells which of them are needed.
	set, err := ca.NewSet(cfg.Generation, members)
	if err != nil {
		return nil, cfg.Explain(err)
	}
	needed := make(map[string]bool)
	for _, m := range set.Members() {
		ends := m.SignsUntil()
		needed[m.ID] = m.StateAt(now) != ca.Expired && (ends.IsZero() || now.Before(ends.Add(keyGrace)))
	}
	var warnings, errs []error
	for i := range members {
		if !needed[members[i].ID] {
			continue
		}
		in := func(err error) error { return keypath.Prefix(err, "authorities", strconv.Itoa(i)) }
		authority, warningsOfKey, err := keys.authority(cfg.Authorities[i], members[i].Chain)
		for _, warning := range warningsOfKey {
			warnings = append(warnings, in(warning))
		}
		if err == nil {
			var failed error // and tolerated
			failed, err = keys.prove(ctx, cfg.Authorities[i], authority)
			warnings = append(warnings, in(failed))
		}
		errs = append(errs, in(err))
		members[i].Authority = authority
	}
	if err := errors.Join(errs...); err != nil {
		return nil, cfg.Explain(err)
	}
	return check(cfg, members, append(asErrors(mistakes), unjoin(cfg.Explain(errors.Join(warnings...)))...), now)
}

// readChains returns the members of the set without their keys.
func readChains(cfg *config.CASet) ([]ca.Member, error) {
	var errs []error
	var members []ca.Member
	for i, entry := range cfg.Authorities {
		path := []string{"authorities", strconv.Itoa(i), "chain"}
		data, err := readFile(entry.Chain)
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
		})
	}
	return members, errors.Join(errs...)
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
	if authority, err = ca.NewAuthority(entry.ID, chain, s); err != nil {
		return nil, warnings, keypath.Errorf([]string{"signer", "file", "key"}, "%s: %w", entry.Signer.File.Key, err)
	}
	return authority, warnings, nil
}

// prove has the authority sign. What it could not do is an error, or tolerated.
func (k Keys) prove(ctx context.Context, entry config.CASetAuthority, authority *ca.Authority) (tolerated, err error) {
	before := authority.Signer().Status().Proven
	err = authority.Prove(ctx)
	if err == nil {
		return nil, nil
	}
	told := keypath.Prefix(err, "signer")
	if before || k.Tolerates != nil && k.Tolerates(entry.ID, err) {
		return keypath.Errorf(keypath.All(told)[0].Path, "authority %q cannot sign now, and is tried again: %w", entry.ID, keypath.All(told)[0].Err), nil
	}
	return nil, told
}

// Signers are what the authorities of the set sign with.
func (l *Loaded) Signers() (signers []*signer.Signer) {
	for _, m := range l.Set.Members() {
		if m.Authority != nil {
			signers = append(signers, m.Authority.Signer())
		}
	}
	return signers
}

// Files returns a function that tells which files the set at path names, for a watcher: as
// long as the set cannot be read, those that it named last.
func Files(path string) func() []string {
	var last []string
	return func() []string {
		if cfg, _, err := config.LoadCASet(path); err == nil {
			last = cfg.Files()
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

// readFile reads a file that an operator named, and bounds it.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	if info.Size() > maxChainFile {
		return nil, fmt.Errorf("%s has %d bytes; %d are the most that it can have", name, info.Size(), maxChainFile)
	}
	return os.ReadFile(name)
}
