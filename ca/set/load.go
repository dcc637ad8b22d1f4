// SPDX-License-Identifier: Apache-2.0

package set

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// Loaded is a set, and what its files define beyond it.
type Loaded struct {
	// Name is the file that defines the set.
	Name string
	// Set is the set at run time.
	Set *Set
	// Warnings are for the operator; each states its place.
	Warnings []error
	// Failed are the keys that failed to sign and were not required; Warnings has them too.
	Failed []error
	// Inactive is why no authority of a valid set can sign at this time: none is active yet, or the
	// active one has expired. Load returns it as its error, Read does not.
	Inactive error

	entries []config.CASetAuthority
	file    *config.CASet // nil for `ca.file`
	places  func(error) error
}

// Digest returns the digest of the file; "" for `ca.file`.
func (l *Loaded) Digest() string {
	if l.file == nil {
		return ""
	}
	return l.file.Digest()
}

// Keys defines how the keys of a set are opened, and which must sign before it is loaded. A key
// that fails and is not required is reported in Loaded.Failed.
type Keys struct {
	// Ring opens the keys.
	Ring *keyring.Ring
	// Offline requests signatures only from keys in files of this process.
	Offline bool
	// Required reports whether a set must not be loaded because the key of m failed with err; nil for
	// always. The key of a retired authority is never required.
	Required func(m Member, err error) bool
	// Current is the set in force, from which an authority with a failing key keeps its proven signer.
	Current *Set
}

// Load reads the CA set of cfg, and every file that it names. Every chain must meet the certificate
// specification, every key is opened and creates a real signature, and an authority must be active
// at now. Load returns all mistakes at once, each with its place in the file. Beside an error, Loaded has
// only its Files, and is nil if they are unknown.
func Load(ctx context.Context, cfg *config.Server, now time.Time, keys Keys) (*Loaded, error) {
	l, err := Read(cfg, now)
	return l.load(ctx, now, keys, err)
}

// LoadAlone is Load for an authority that no set lists yet. It signs for as long as its chain is
// valid, and no error or warning has a place.
func LoadAlone(ctx context.Context, entry config.CASetAuthority, now time.Time, keys Keys) (*Loaded, error) {
	l, err := alone(entry.Chain, entry, now, keypath.Sentences)
	return l.load(ctx, now, keys, err)
}

// load opens the keys of l, unless err is why it could not be read.
func (l *Loaded) load(ctx context.Context, now time.Time, keys Keys, err error) (*Loaded, error) {
	if err == nil {
		err = l.open(ctx, now, keys, "")
	}
	if err == nil {
		err = l.Inactive
	}
	return l, err
}

// alone reads a set of one authority, which no file lists.
func alone(name string, entry config.CASetAuthority, now time.Time, places func(error) error) (*Loaded, error) {
	l := &Loaded{Name: name, entries: []config.CASetAuthority{entry}, places: places}
	return l.read(1, now)
}

// Read is Load without the keys: the set that it returns signs nothing, and may be inactive. `ca.file`
// is a set of one authority that signs for as long as its chain is valid.
func Read(cfg *config.Server, now time.Time) (*Loaded, error) {
	if file := cfg.CA.File; file != nil {
		entry := config.CASetAuthority{ID: "file", Chain: file.Chain, Signer: config.Signer{File: &config.SignerFile{Key: file.Key, PasswordFile: file.PasswordFile}}}
		return alone(cfg.Name(), entry, now, func(err error) error { return cfg.WithPlaces(atFile(err)) })
	}
	file, mistakes, err := config.LoadCASet(cfg.CA.Set)
	if _, ok := err.(config.Mistakes); err != nil && !ok { // the file itself cannot be read
		if err = fmt.Errorf("%s: %w", cfg.CA.Set, err); cfg.File != nil {
			err = cfg.WithPlaces(keypath.Errorf([]string{"ca", "set"}, "%w", err))
		}
	}
	if err != nil {
		return nil, err
	}
	return readFile(file, mistakes, now)
}

// atFile moves errors of a set of one authority to `ca.file`.
func atFile(err error) error {
	var errs []error
	for _, e := range keypath.All(err) {
		path := []string{"ca", "file"}
		if n := len(e.Path); n > 0 && slices.Contains([]string{"chain", "key", "password_file"}, e.Path[n-1]) {
			path = append(path, e.Path[n-1])
		}
		errs = append(errs, keypath.Errorf(path, "%w", e.Err))
	}
	return errors.Join(errs...)
}

// readFile is Read for a file that has been parsed.
func readFile(file *config.CASet, warnings []error, now time.Time) (*Loaded, error) {
	l := &Loaded{Name: file.Name(), Warnings: warnings, entries: file.Authorities, file: file, places: file.WithPlaces}
	return l.read(file.Generation, now)
}

// read reads the chains of l.entries, and creates the set.
func (l *Loaded) read(generation uint64, now time.Time) (*Loaded, error) {
	var errs []error
	var members []Member
	for i, entry := range l.entries {
		m := Member{ID: entry.ID, PublishAt: entry.PublishAt, ActivateAt: entry.ActivateAt, RetireAt: entry.RetireAt, CompromisedAt: entry.CompromisedAt, index: i}
		data, err := files.Read(entry.Chain, maxChainFile)
		if err != nil {
			errs = append(errs, m.errorf("chain", "reading the chain: %w", err))
			continue
		}
		m.Chain, err = ca.ParseChain(data)
		for _, e := range keypath.Split(err) {
			errs = append(errs, m.errorf("chain", "%s: %w", entry.Chain, e))
		}
		if l.file == nil && err == nil {
			m.PublishAt, m.ActivateAt = m.Chain.NotBefore, m.Chain.NotBefore
		}
		members = append(members, m)
	}
	err := errors.Join(errs...)
	if err == nil {
		l.Set, err = New(generation, members)
	}
	if err != nil {
		return l, l.places(err)
	}
	warnings, inactive := l.Set.CheckAt(now)
	l.Inactive = l.places(inactive)
	l.Warnings = append(l.Warnings, keypath.Split(l.places(errors.Join(warnings...)))...)
	return l, nil
}

// open opens the keys that are in use, or only that of the authority named, and has each create a
// signature. It does so in parallel, since some keys may be unreachable. The set has not been shared
// yet.
func (l *Loaded) open(ctx context.Context, now time.Time, keys Keys, only string) error {
	n := len(l.entries)
	warnings, failed, errs := make([]error, n), make([]error, n), make([]error, n) // in the order of the file
	var all sync.WaitGroup
	for i := range l.Set.members {
		m := &l.Set.members[i]
		if !inUse(*m, now) || only != "" && only != m.ID {
			continue
		}
		all.Go(func() {
			authority, warning, err := keys.prove(ctx, l.entries[m.index], m.Chain)
			retired := m.StateAt(now) == Retired
			if err != nil && (retired || keys.Required != nil && !keys.Required(*m, err)) {
				cause := keypath.All(err)[0]
				tolerated := keypath.Errorf(cause.Path, "authority %q cannot sign now, and is tried again: %w", m.ID, cause.Err)
				if err = nil; retired { // and will hardly sign again
					warning = errors.Join(warning, tolerated)
				} else {
					failed[m.index] = m.at(tolerated)
				}
				authority = keys.orCurrent(authority, *m) // retries by itself
			}
			m.Authority, warnings[m.index], errs[m.index] = authority, m.at(warning), m.at(err)
		})
	}
	all.Wait()
	l.Failed = keypath.Split(l.places(errors.Join(failed...)))
	l.Warnings = slices.Concat(l.Warnings, keypath.Split(l.places(errors.Join(warnings...))), l.Failed)
	return l.places(errors.Join(errs...))
}

// inUse reports whether m signs at now or later, or may sign if a clock is set back a little.
func inUse(m Member, now time.Time) bool {
	state := m.StateAt(now)
	return state < Retired || state == Retired && !m.ActivateAt.IsZero() && now.Before(m.until.Add(keyGrace))
}

// orCurrent returns the authority of m in the set in force if its key has signed, otherwise authority.
func (k Keys) orCurrent(authority *ca.Authority, m Member) *ca.Authority {
	if k.Current == nil {
		return authority
	}
	if other, found := k.Current.Member(m.ID); found && other.Authority != nil && other.Chain.Equal(m.Chain) {
		if status := other.Authority.Signer().Status(); status.Local || status.Proven {
			return other.Authority
		}
	}
	return authority
}

// prove opens the authority of an entry, and has it create a signature.
func (k Keys) prove(ctx context.Context, entry config.CASetAuthority, chain *ca.Chain) (authority *ca.Authority, warning, err error) {
	if entry.Signer.IsZero() {
		return nil, nil, keypath.Errorf([]string{"signer"}, "authority %q has no signer; only one that has retired needs none", entry.ID)
	}
	s, warnings, err := k.Ring.Signer(entry.ID, entry.Signer, chain.Certificates[0].PublicKey)
	if err == nil {
		authority, err = ca.NewAuthority(entry.ID, chain, s)
	}
	if err == nil && (!k.Offline || s.Status().Local) {
		err = authority.Prove(ctx)
	}
	return authority, keypath.Prefix(errors.Join(warnings...), "signer"), keypath.Prefix(err, "signer")
}

// Files returns the files that define the set. Without keys, it omits what only another process can
// read.
func (l *Loaded) Files(keys bool) []string {
	names := []string{l.Name}
	for _, entry := range l.entries {
		names = append(names, entry.Chain)
		if keys {
			names = append(names, entry.Signer.Files()...)
		}
	}
	return names
}

// Succeeds is Set.Succeeds with the places in the set's file.
func (l *Loaded) Succeeds(current *Set, now time.Time) error {
	return l.places(l.Set.Succeeds(current, now))
}
