// SPDX-License-Identifier: Apache-2.0

package set

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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

// Source is where a set is defined: in a file of its own, or as `ca.file` of the server's
// configuration, which is a set of one authority that signs for as long as its chain is valid.
type Source struct {
	// Path is the set's file; "" for `ca.file` of Server.
	Path   string
	Server *config.Server
}

// SourceOf returns where the configuration cfg defines the CA set.
func SourceOf(cfg *config.Server) Source {
	if cfg.CA.File != nil {
		return Source{Server: cfg}
	}
	return Source{Path: cfg.CA.Set}
}

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
	// Unfit is why the set cannot be put in force at this time, though it is valid: no authority is
	// active yet, or the active one has expired. Load returns it as its error, Read does not.
	Unfit error

	entries []config.CASetAuthority
	file    *config.CASet // nil for `ca.file`
	explain func(error) error
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
	Must func(m Member, err error) bool
	// Current is the set in force; nil for none. An authority keeps its signer from there if that is
	// proven and the new one fails.
	Current *Set
}

// Load reads the set and every file that it names. Every chain must meet the certificate
// specification, every key is opened and creates a real signature, and an authority must be active
// at now. Load returns all mistakes at once, each with its place in the file.
func Load(ctx context.Context, from Source, now time.Time, keys Keys) (*Loaded, error) {
	l, err := Read(from, now)
	if err == nil {
		err = l.open(ctx, now, keys)
	}
	if err == nil {
		err = l.Unfit
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Read is Load without the keys, for a caller that only displays the set, which may be unfit. The
// set that it returns signs nothing.
func Read(from Source, now time.Time) (*Loaded, error) {
	if from.Path == "" {
		return ofOne(from.Server).read(now)
	}
	file, mistakes, err := config.LoadCASet(from.Path)
	if _, ok := err.(config.Mistakes); err != nil && !ok {
		err = fmt.Errorf("%s: %w", from.Path, err)
	}
	if err != nil {
		return nil, err
	}
	return ofFile(file, mistakes).read(now)
}

func ofFile(file *config.CASet, mistakes []config.Mistake) *Loaded {
	l := &Loaded{Name: file.Name(), entries: file.Authorities, file: file, explain: file.WithPlaces}
	for _, m := range mistakes {
		l.Warnings = append(l.Warnings, m)
	}
	return l
}

// ofOne is the set of one authority that `ca.file` of cfg defines.
func ofOne(cfg *config.Server) *Loaded {
	file := cfg.CA.File
	entry := config.CASetAuthority{ID: "file", Chain: file.Chain, Signer: config.Signer{File: &config.SignerFile{Key: file.Key, PasswordFile: file.PasswordFile}}}
	return &Loaded{Name: cfg.File().Name(), entries: []config.CASetAuthority{entry}, explain: func(err error) error {
		var errs []error
		for _, e := range keypath.All(err) {
			path := []string{"ca", "file"}
			if n := len(e.Path); n > 0 && slices.Contains([]string{"chain", "key", "password_file"}, e.Path[n-1]) {
				path = append(path, e.Path[n-1])
			}
			errs = append(errs, keypath.Errorf(path, "%w", e.Err))
		}
		return cfg.WithPlaces(errors.Join(errs...))
	}}
}

// read reads the chains of l.entries, and creates the set.
func (l *Loaded) read(now time.Time) (*Loaded, error) {
	var errs []error
	var members []Member
	for i, entry := range l.entries {
		chain, err := readChain(entry.Chain)
		for _, e := range unjoin(err) {
			errs = append(errs, keypath.Errorf([]string{"authorities", strconv.Itoa(i), "chain"}, "%w", e))
		}
		m := Member{ID: entry.ID, Chain: chain, PublishAt: entry.PublishAt, ActivateAt: entry.ActivateAt, RetireAt: entry.RetireAt, CompromisedAt: entry.CompromisedAt}
		if l.file == nil && chain != nil {
			m.PublishAt, m.ActivateAt = chain.NotBefore, chain.NotBefore
		}
		members = append(members, m)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, l.explain(err)
	}
	generation := uint64(1)
	if l.file != nil {
		generation = l.file.Generation
	}
	var err error
	if l.Set, err = New(generation, members); err != nil {
		return nil, l.explain(err)
	}
	warnings, unfit := l.Set.CheckAt(now)
	l.Unfit = l.explain(unfit)
	l.Warnings = append(l.Warnings, unjoin(l.explain(errors.Join(warnings...)))...)
	return l, nil
}

func readChain(name string) (*ca.Chain, error) {
	data, err := files.Read(name, maxChainFile)
	if err != nil {
		return nil, fmt.Errorf("reading the chain: %w", err)
	}
	chain, err := ca.ParseChain(data)
	var errs []error
	for _, e := range unjoin(err) {
		errs = append(errs, fmt.Errorf("%s: %w", name, e))
	}
	return chain, errors.Join(errs...)
}

// open opens the keys that are in use, and has each create a signature. It does so in parallel,
// since some keys may be unreachable. The set has not been shared yet.
func (l *Loaded) open(ctx context.Context, now time.Time, keys Keys) error {
	opened := make([]opening, len(l.entries))
	var all sync.WaitGroup
	for _, m := range l.Set.members {
		if inUse(m, now) && (keys.Opens == nil || keys.Opens(m.ID)) {
			all.Go(func() { opened[m.index] = keys.open(ctx, l.entries[m.index], m, now) })
		}
	}
	all.Wait()
	for i := range l.Set.members {
		m := &l.Set.members[i]
		m.Authority = opened[m.index].authority
	}
	var warnings, failed, errs []error
	for i, o := range opened { // in the order of the file
		path := []string{"authorities", strconv.Itoa(i)}
		warnings = append(warnings, keypath.Prefix(errors.Join(o.warnings...), path...))
		failed = append(failed, keypath.Prefix(o.failed, path...))
		errs = append(errs, keypath.Prefix(o.err, path...))
	}
	l.Failed = unjoin(l.explain(errors.Join(failed...)))
	l.Warnings = slices.Concat(l.Warnings, unjoin(l.explain(errors.Join(warnings...))), l.Failed)
	return l.explain(errors.Join(errs...))
}

// opening is the result of opening the key of one authority.
type opening struct {
	authority *ca.Authority // nil if it signs nothing
	warnings  []error
	failed    error // what was tolerated
	err       error // what was not
}

// inUse reports whether m signs at now or later, or may sign if a clock is set back a little.
func inUse(m Member, now time.Time) bool {
	switch state := m.StateAt(now); {
	case state == Expired, state == Compromised, state == Retired && m.ActivateAt.IsZero():
		return false
	default:
		return m.until.IsZero() || now.Before(m.until.Add(keyGrace))
	}
}

func (k Keys) open(ctx context.Context, entry config.CASetAuthority, m Member, now time.Time) (o opening) {
	var err error
	o.authority, o.warnings, err = k.authority(entry, m.Chain)
	o.err = err
	if err == nil && (!k.Offline || o.authority.Signer().Status().Local) {
		err = o.authority.Prove(ctx)
		o.err = keypath.Prefix(err, "signer")
	}
	if err == nil || m.StateAt(now) != Retired && (k.Must == nil || k.Must(m, err)) {
		return o
	}
	// The authority's signer, if it could be opened, retries by itself.
	var tolerated []error
	for _, e := range keypath.All(o.err) {
		tolerated = append(tolerated, keypath.Errorf(e.Path, "authority %q cannot sign now, and is tried again: %w", entry.ID, e.Err))
	}
	if o.err = nil; m.StateAt(now) == Retired { // and will hardly sign again
		o.warnings = append(o.warnings, tolerated...)
	} else {
		o.failed = errors.Join(tolerated...)
	}
	if k.Current == nil {
		return o
	}
	if other, found := k.Current.Member(entry.ID); found && other.Authority != nil && other.Chain.Equal(m.Chain) {
		if status := other.Authority.Signer().Status(); status.Local || status.Proven {
			o.authority = other.Authority
		}
	}
	return o
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
	if err == nil {
		authority, err = ca.NewAuthority(entry.ID, chain, s)
	}
	return authority, warnings, keypath.Prefix(err, "signer")
}

// Files returns a function for a watcher: it returns the files that the set at path names. While
// the set is unreadable, it returns the files of the last readable one. Without keys, it omits what
// only another process can read.
func Files(path string, keys bool) func() []string {
	var seen []byte
	var named []string
	return func() []string {
		content, err := files.Read(path, maxChainFile)
		if err != nil || bytes.Equal(content, seen) {
			return named
		}
		seen = content
		if file, _, err := config.ParseCASet(path, content); err == nil {
			if named = file.Chains(); keys {
				named = file.Files()
			}
		}
		return named
	}
}

// Succeeds is Set.Succeeds with the places in the set's file.
func (l *Loaded) Succeeds(current *Set, now time.Time) error {
	return l.explain(l.Set.Succeeds(current, now))
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
