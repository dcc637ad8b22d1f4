// SPDX-License-Identifier: Apache-2.0

package set

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// switchLead is the recommended time between the write of the set and a switch, so that every
// replica has read the set: Kubernetes takes up to two minutes to show a changed secret.
const switchLead = 5 * time.Minute

// Editor edits the set in one file. It refuses what would break verifiers. With Force set, a
// refusal is a warning.
type Editor struct {
	// Path is the set's file.
	Path string
	// Now is the current time.
	Now time.Time
	// Lead is how long an authority must be published before it signs.
	Lead time.Duration
	// Force turns refusals into warnings.
	Force bool
	// Ring opens the keys of the set.
	Ring *keyring.Ring
}

// Result is what an edit did.
type Result struct {
	*Loaded
	// Member is the edited authority, after the edit.
	Member Member
	// Forced are the refusals that Force turned into warnings.
	Forced []error
}

// Add adds an authority. create, if it is not nil, creates its files and completes entry: nothing is
// created for an authority with an ID or dates that are refused.
func (e Editor) Add(ctx context.Context, entry config.CASetAuthority, create func(entry *config.CASetAuthority) error) (*Result, error) {
	old, err := e.load()
	if err != nil {
		return nil, err
	}
	if old.file.Index(entry.ID) >= 0 {
		return nil, fmt.Errorf("%s has an authority %q already; give the new one another ID", e.Path, entry.ID)
	}
	if entry.PublishAt.IsZero() {
		entry.PublishAt = e.Now
	}
	entry.PublishAt, entry.ActivateAt = seconds(entry.PublishAt), seconds(entry.ActivateAt)
	var objections []error
	if !entry.ActivateAt.IsZero() {
		objections = e.objectToActivation(slices.MaxFunc([]time.Time{entry.PublishAt, seconds(e.Now)}, time.Time.Compare), entry.ActivateAt)
	}
	if _, err := e.forced(objections); err != nil {
		return nil, err
	}
	if create != nil {
		if err := create(&entry); err != nil {
			return nil, err
		}
	}
	return e.apply(ctx, old, entry, true, objections)
}

// forced returns objections as warnings if Force is set, and otherwise as an error.
func (e Editor) forced(objections []error) (warnings []error, err error) {
	if len(objections) > 0 && !e.Force {
		return nil, fmt.Errorf("%w (--force does it all the same)", errors.Join(objections...))
	}
	return objections, nil
}

// Activate sets the time at which the authority id begins to sign. A zero time means the earliest
// time that breaks no verifier.
func (e Editor) Activate(ctx context.Context, id string, at time.Time) (*Result, error) {
	old, m, err := e.find(id)
	if err != nil {
		return nil, err
	}
	switch state := m.StateAt(e.Now); {
	case state == Active:
		return nil, fmt.Errorf("authority %q signs already, since %s", id, stamp(m.ActivateAt))
	case state > Active:
		return nil, fmt.Errorf("authority %q is %s, and does not come back: trust roots may name the end of its time; add a new one (mayfly ca add)", id, state)
	case at.IsZero():
		at = slices.MaxFunc([]time.Time{m.PublishAt.Add(e.Lead), e.Now.Add(switchLead)}, time.Time.Compare)
	}
	at = seconds(at)
	objections := e.objectToActivation(m.PublishAt, at)
	if at.Before(seconds(e.Now)) {
		objections = append(objections, fmt.Errorf("%s is in the past: each replica would switch when it reads the file, and not all at the same instant", stamp(at)))
	}
	entry := old.entry(id)
	entry.ActivateAt = at
	return e.apply(ctx, old, entry, true, objections)
}

// objectToActivation returns what a first signature at would break, where verifiers can know the
// authority since known.
func (e Editor) objectToActivation(known, at time.Time) []error {
	lead := at.Sub(known)
	if lead >= e.Lead {
		return nil
	}
	return []error{fmt.Errorf("it would sign %s after it is published, and the least is %s: a verifier that has fetched the trust bundle or the trusted root before, as most do once a day, refuses its certificates until it fetches again; the earliest time is %s",
		max(lead, 0).Round(time.Second), e.Lead, stamp(known.Add(e.Lead)))}
}

// Retire sets the time at which the authority id stops signing. A zero time is the time at which
// its successor begins; for an authority that never signed, now.
func (e Editor) Retire(ctx context.Context, id string, at time.Time) (*Result, error) {
	old, m, err := e.find(id)
	if err != nil {
		return nil, err
	}
	entry := old.entry(id)
	var objections []error
	switch state := m.StateAt(e.Now); {
	case state > Retired, state == Retired && !m.RetireAt.IsZero():
		return nil, fmt.Errorf("authority %q is %s since %s already", id, state, stamp(first(m.until, m.Chain.NotAfter)))
	case state == Retired:
		at = m.until // stored, so that the file alone states the time
	case state != Active && (at.IsZero() || !at.After(m.ActivateAt)):
		entry.ActivateAt = time.Time{} // it must never sign
		objections = append(objections, fmt.Errorf("authority %q has never signed, and once retired it does not come back; is it the right one?", id))
	case at.IsZero():
		at = m.until
	}
	if at.IsZero() {
		at = e.Now
	}
	entry.RetireAt = seconds(at)
	return e.apply(ctx, old, entry, false, objections)
}

// Compromise records that an attacker may have the key of the authority id since the time given;
// zero is now. The authority signs nothing more, and nothing that it signed since is trusted. What
// this stops or breaks is a warning, not an objection: the key must stop first. A later Compromise
// can only move the time to an earlier one.
func (e Editor) Compromise(ctx context.Context, id string, since time.Time) (*Result, error) {
	old, m, err := e.find(id)
	if err != nil {
		return nil, err
	}
	if since.IsZero() {
		since = e.Now
	}
	since = seconds(since)
	switch state := m.StateAt(e.Now); {
	case state == Expired:
		return nil, fmt.Errorf("authority %q expired at %s, and no verifier accepts what its key signs now", id, stamp(m.Chain.NotAfter))
	case since.After(e.Now):
		return nil, fmt.Errorf("%s is in the future; name the earliest time at which the key may have been in other hands", stamp(since))
	case state == Compromised && !since.Before(m.CompromisedAt):
		return nil, fmt.Errorf("authority %q is compromised since %s already; only an earlier time can be given (--since)", id, stamp(m.CompromisedAt))
	}
	entry := old.entry(id)
	entry.CompromisedAt = since
	if m.ActivateAt.After(e.Now) {
		entry.ActivateAt = time.Time{} // it never signs, so it must not shorten its predecessor's time
	}
	e.Force = true
	result, err := e.apply(ctx, old, entry, false, nil)
	if err == nil {
		result.Forced = nil // the set itself warns that no authority signs
	}
	return result, err
}

// load reads the current set, without its keys. It may be inactive: an edit may correct that.
func (e Editor) load() (*Loaded, error) {
	return Read(&config.Server{CA: config.CA{Set: e.Path}}, e.Now)
}

func (e Editor) find(id string) (*Loaded, Member, error) {
	old, err := e.load()
	if err != nil {
		return nil, Member{}, err
	}
	if m, found := old.Set.Member(id); found {
		return old, m, nil
	}
	return nil, Member{}, fmt.Errorf("%s has no authority %q; mayfly ca status lists them", old.Name, id)
}

// entry returns the authority id as the file states it.
func (l *Loaded) entry(id string) config.CASetAuthority { return l.entries[l.file.Index(id)] }

// apply writes the set with entry if there are no objections, and if it loads completely and may
// replace the old one. starts states that entry will sign.
func (e Editor) apply(ctx context.Context, old *Loaded, entry config.CASetAuthority, starts bool, objections []error) (*Result, error) {
	content, err := old.file.Edit(entry)
	if err != nil {
		return nil, err
	}
	file, warnings, err := config.ParseCASet(e.Path, content)
	if err != nil {
		return nil, fmt.Errorf("checking what would be written: %w", err)
	}
	next, err := readFile(file, warnings, e.Now)
	if err == nil && starts {
		// An authority that will sign must be able to. The other keys are not checked: the edit may be
		// the one that replaces a failing key.
		err = next.open(ctx, e.Now, Keys{Ring: e.Ring, Required: func(Member, error) bool { return !e.Force }}, entry.ID)
	}
	if err == nil && old.Inactive == nil {
		err = next.Inactive
	}
	if err != nil {
		return nil, fmt.Errorf("the set would not be valid, and is left as it was:\n%w", err)
	}
	if err := next.Succeeds(old.Set, e.Now); err != nil {
		return nil, fmt.Errorf("the set is left as it was: %w", err)
	}
	result := &Result{Loaded: next}
	result.Member, _ = next.Set.Member(entry.ID)
	gap := next.Set.Gap(e.Now)
	// The chain of the last authority ends in any case: the set itself warns of it in time.
	ends := slices.ContainsFunc(next.Set.members, func(m Member) bool { return m.until.IsZero() && gap.Equal(m.lastLeaf()) })
	if old.Inactive == nil && !ends && gap.Before(old.Set.Gap(e.Now)) {
		objections = append(objections, fmt.Errorf("nothing would sign from %s on, and every request would be refused: add an authority (mayfly ca add) and activate it (mayfly ca activate) by then", stamp(gap)))
	}
	if result.Forced, err = e.forced(objections); err != nil {
		return nil, err
	}
	return result, replaceFile(e.Path, old.file.Content(), content)
}

// replaceFile replaces the content of the file at path, unless another edit has changed it since
// old was read.
func replaceFile(path string, old, content []byte) (err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	lock, err := files.Lock(target, 0o600)
	if errors.Is(err, files.ErrLocked) {
		return fmt.Errorf("another edit of %s runs; try again when it has finished", target)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Unlock(lock)) }()
	if now, err := os.ReadFile(target); err != nil || !bytes.Equal(now, old) {
		return errors.Join(err, fmt.Errorf("%s was changed meanwhile by another command or person; look at it and try again", target))
	}
	if err := files.Replace(target, content, 0o600); err != nil {
		return err
	}
	// The file is in place. A failure to make its name durable is no error: a caller that got one
	// would undo files that the set now names.
	_ = files.SyncFolder(filepath.Dir(target))
	return nil
}

// seconds is t in whole seconds, the precision of the file.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
