// SPDX-License-Identifier: Apache-2.0

// Package set is the CA set: the authorities of a CA, with the times at which each one is published,
// signs and retires. It holds the rules of a set, its loading from ca.yaml, its edits and its
// status. No edit lets verifiers meet a certificate that they do not expect.
//
// Packages app, cmd and tests may import it.
package set

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// State is what an authority of a set does at one moment.
type State uint8

// An authority passes through these states in this order, and never back.
const (
	// Staged: it is not known outside the CA yet.
	Staged State = iota + 1
	// Published: it is in the trust bundle, so that verifiers know it before it signs.
	Published
	// Active: it signs.
	Active
	// Retired: it signs no more. It stays in the trust bundle for as long as its certificates are valid.
	Retired
	// Compromised: an attacker may have its key. It signs no more and has left the trust bundle.
	Compromised
	// Expired: a certificate of its chain has expired. It has left the trust bundle.
	Expired
)

// String returns the state's name as commands and metrics show it.
func (s State) String() string {
	return [...]string{"unknown", "staged", "published", "active", "retired", "compromised", "expired"}[s]
}

// Member is an authority of a set, and its dates.
type Member struct {
	// ID is the authority's name in the set.
	ID string
	// Chain is the authority's chain.
	Chain *ca.Chain
	// Authority signs. It is nil for an authority that will never sign again: its key need not be kept.
	Authority *ca.Authority
	// PublishAt is when it enters the trust bundle.
	PublishAt time.Time
	// ActivateAt is when it begins to sign; zero means not yet decided.
	ActivateAt time.Time
	// RetireAt is when it stops signing if no other authority begins before; zero means never.
	RetireAt time.Time
	// CompromisedAt is from when an attacker may have its key; zero means never. Nothing that it
	// signed from then on is trusted.
	CompromisedAt time.Time

	until time.Time // see SignsUntil
	index int       // in the list that New got
}

// SignsUntil returns when the authority stops signing: the first of its RetireAt, the next one's
// ActivateAt and its CompromisedAt; zero if none is set.
func (m Member) SignsUntil() time.Time { return m.until }

// reached reports whether now is at or after a time that is set.
func reached(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// StateAt returns the member's state at now.
func (m Member) StateAt(now time.Time) State {
	switch {
	case now.After(m.Chain.NotAfter):
		return Expired
	case reached(m.CompromisedAt, now):
		return Compromised
	case now.Before(m.PublishAt):
		return Staged
	case reached(m.until, now):
		return Retired
	case reached(m.ActivateAt, now):
		return Active
	default:
		return Published
	}
}

// Since returns when the member's state at now began; zero for a staged one.
func (m Member) Since(now time.Time) time.Time {
	return []time.Time{Published: m.PublishAt, Active: m.ActivateAt, Retired: m.until, Compromised: m.CompromisedAt, Expired: m.Chain.NotAfter.UTC()}[m.StateAt(now)]
}

// at returns err with its place in the set's file, below the member.
func (m Member) at(err error) error {
	return keypath.Prefix(err, "authorities", strconv.Itoa(m.index))
}

// errorf returns an error at one of the member's keys in the set's file.
func (m Member) errorf(key, format string, args ...any) error {
	return m.at(keypath.Errorf([]string{key}, format, args...))
}

// Set is the authorities of a CA. The state of each one follows from the clock alone, so all replicas
// with the same set switch at the same instant, without communication. Set is immutable.
type Set struct {
	generation uint64
	members    []Member // by ActivateAt; those without one are last
}

// New returns the set of members. Its errors have key paths with the member's index in members, and
// it reports all errors at once. It does not read the clock; CheckAt takes the time.
func New(generation uint64, members []Member) (*Set, error) {
	var errs []error
	if generation == 0 {
		errs = append(errs, keypath.Errorf([]string{"generation"}, "the generation is missing; it is a whole number from 1 on that grows with every edit"))
	}
	if len(members) == 0 {
		errs = append(errs, keypath.Errorf([]string{"authorities"}, "the set has no authority"))
	}
	s := &Set{generation: generation, members: slices.Clone(members)}
	for i := range s.members {
		s.members[i].index = i
		errs = append(errs, s.members[i].check(s.members[:i])...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.members, func(a, b Member) int {
		if a.ActivateAt.IsZero() || b.ActivateAt.IsZero() { // the zero time sorts last
			return cmp.Compare(b.ActivateAt.Unix(), a.ActivateAt.Unix())
		}
		return a.ActivateAt.Compare(b.ActivateAt)
	})
	for i := range s.members {
		m := &s.members[i]
		m.until = first(m.RetireAt, m.CompromisedAt)
		if !m.ActivateAt.IsZero() && i+1 < len(s.members) {
			m.until = first(m.until, s.members[i+1].ActivateAt)
		}
	}
	return s, nil
}

// first returns the earlier of two times; zero means never.
func first(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// check returns what is wrong with a member, alone and compared with those before it.
func (m Member) check(before []Member) (errs []error) {
	object := func(key, format string, args ...any) { errs = append(errs, m.errorf(key, format, args...)) }
	signs := !m.ActivateAt.IsZero()
	if m.PublishAt.IsZero() {
		object("publish_at", "publish_at is missing: it is when %q enters the trust bundle", m.ID)
	} else if signs && m.ActivateAt.Before(m.PublishAt) {
		object("activate_at", "%q would sign from %s, before it is published at %s; verifiers have to know it first", m.ID, stamp(m.ActivateAt), stamp(m.PublishAt))
	}
	if signs && !m.RetireAt.IsZero() && !m.RetireAt.After(m.ActivateAt) {
		object("retire_at", "%q would retire at %s, and begins to sign only at %s; leave activate_at out if it must never sign", m.ID, stamp(m.RetireAt), stamp(m.ActivateAt))
	}
	if signs && (m.ActivateAt.Before(m.Chain.NotBefore) || !m.ActivateAt.Before(m.Chain.NotAfter)) {
		object("activate_at", "%q would sign from %s, and its certificates are valid from %s to %s; choose a time between them", m.ID, stamp(m.ActivateAt), stamp(m.Chain.NotBefore), stamp(m.Chain.NotAfter))
	}
	for _, other := range before {
		if other.ID == m.ID {
			object("id", "two authorities have the ID %q; each needs its own", m.ID)
			continue
		}
		if signs && other.ActivateAt.Equal(m.ActivateAt) {
			object("activate_at", "%q and %q would both begin to sign at %s; one of them must begin at another time", other.ID, m.ID, stamp(m.ActivateAt))
		}
		if bytes.Equal(other.Chain.Certificates[0].RawSubjectPublicKeyInfo, m.Chain.Certificates[0].RawSubjectPublicKeyInfo) {
			object("chain", "%q has the key of %q; a new authority needs a new key", m.ID, other.ID)
		}
	}
	return errs
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Generation grows with every edit of the set.
func (s *Set) Generation() uint64 { return s.generation }

// Members returns the authorities in the order in which they sign; those without a date are last.
func (s *Set) Members() []Member { return slices.Clone(s.members) }

// Member returns the authority id.
func (s *Set) Member(id string) (m Member, found bool) {
	i := slices.IndexFunc(s.members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return s.members[i], true
}

// Active returns the authority that signs at now. Its refusal is CA_EXPIRING if there is none.
func (s *Set) Active(now time.Time) (*ca.Authority, error) {
	m, err := s.last(now)
	if err == nil && m.Authority == nil {
		err = fmt.Errorf("authority %q is active, and has no key: it could not be opened when the set was read, or the authority was retired then and the clock was set back", m.ID)
	}
	if err != nil {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority has nothing to sign with at this time; tell its operator").Because(err)
	}
	return m.Authority, nil
}

// last returns the last member that has begun to sign, or nil, and an error if it does not sign at
// now. It does not check that its certificates are still valid: package ca does for each certificate.
func (s *Set) last(now time.Time) (*Member, error) {
	for i := len(s.members) - 1; i >= 0; i-- {
		m := &s.members[i]
		if !reached(m.ActivateAt, now) {
			continue
		}
		if reached(m.until, now) {
			return m, fmt.Errorf("no authority is active: %q signs no more since %s, and none has succeeded it", m.ID, stamp(m.until))
		}
		return m, nil
	}
	return nil, errors.New("no authority is active: the first one has not begun to sign")
}

// TrustBundle returns the chains that verifiers must know at now. The active one is first, then the
// published ones, then the retired ones, the most recently active first.
func (s *Set) TrustBundle(now time.Time) (chains []*ca.Chain) {
	for _, m := range s.bundle(now) {
		chains = append(chains, m.Chain)
	}
	return chains
}

// bundle returns the members with the chains of TrustBundle.
func (s *Set) bundle(now time.Time) []Member {
	by := map[State][]Member{}
	for _, m := range s.members {
		by[m.StateAt(now)] = append(by[m.StateAt(now)], m)
	}
	slices.Reverse(by[Retired])
	return slices.Concat(by[Active], by[Published], by[Retired])
}

// Window is when verifiers may encounter certificates of a chain, as in trusted_root.json. It begins
// with the chain's own validity: a certificate begins a few seconds before its request.
type Window struct {
	Member
	// End is zero for an authority that signs or will sign. It is never a future time that an operator
	// can still change: only a retirement that has happened, the end of the chain, or a compromise.
	End time.Time
}

// windowGrace is how much longer than the longest certificate the window of a retired authority
// stays open, for replicas with slow clocks.
const windowGrace = 10 * time.Minute

// Windows returns the windows of the trust bundle's chains at now, in the same order, and then those
// of the authorities with a compromised key that had signed before. They end at the time of the
// compromise, or earlier if the authority had retired before.
func (s *Set) Windows(now time.Time) (windows []Window) {
	add := func(m Member, compromised time.Time) {
		w := Window{Member: m}
		if m.StateAt(now) >= Retired {
			w.End = first(compromised, first(m.until.Add(ca.MaxLifetime+windowGrace), m.Chain.NotAfter))
		}
		windows = append(windows, w)
	}
	for _, m := range s.bundle(now) {
		add(m, time.Time{})
	}
	for _, m := range slices.Backward(s.members) {
		if m.StateAt(now) == Compromised && !m.ActivateAt.IsZero() && m.ActivateAt.Before(m.CompromisedAt) {
			add(m, m.CompromisedAt)
		}
	}
	return windows
}
