// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// State is what an authority of a set does at one moment.
type State uint8

// An authority goes through these states in this order, and never back.
const (
	// Staged: nobody outside knows of it yet.
	Staged State = iota + 1
	// Published: it is in the trust bundle, so that verifiers know it before it signs.
	Published
	// Active: it signs.
	Active
	// Retired: it signs no more. It stays in the trust bundle, since what it signed is
	// verified for as long as its certificates are valid.
	Retired
	// Compromised: its key is in other hands. It signs no more, has left the trust bundle, and
	// its window in trusted_root.json ends when that happened.
	Compromised
	// Expired: a certificate of its chain has ended. It has left the trust bundle.
	Expired
)

// String is the state's name as commands and metrics show it.
func (s State) String() string {
	switch s {
	case Staged:
		return "staged"
	case Published:
		return "published"
	case Active:
		return "active"
	case Retired:
		return "retired"
	case Compromised:
		return "compromised"
	case Expired:
		return "expired"
	default:
		return "unknown"
	}
}

// Member is an authority of a set with its dates.
type Member struct {
	// ID is the authority's name in the set.
	ID string
	// Chain is its certificates.
	Chain *Chain
	// Authority signs. It may be nil for one that will never sign again, whose key need not
	// be kept.
	Authority *Authority
	// PublishAt is when it enters the trust bundle.
	PublishAt time.Time
	// ActivateAt is when it begins to sign; zero for not yet decided.
	ActivateAt time.Time
	// RetireAt is when it ends to sign if no other authority begins before; zero for never.
	RetireAt time.Time
	// CompromisedAt is from when its key may be in other hands; zero for never. Nothing that it
	// signed from then on is trusted.
	CompromisedAt time.Time

	// until is when it ends to sign: the first of RetireAt, the next one's ActivateAt and
	// CompromisedAt; zero for none of them.
	until time.Time
}

// SignsUntil is when the authority ends to sign: at the first of its RetireAt, the next one's
// ActivateAt and its CompromisedAt; zero where none is decided.
func (m Member) SignsUntil() time.Time { return m.until }

// StateAt is what the member does at now.
func (m Member) StateAt(now time.Time) State {
	switch {
	case now.After(m.Chain.NotAfter):
		return Expired
	case m.compromised(now):
		return Compromised
	case now.Before(m.PublishAt):
		return Staged
	case !m.until.IsZero() && !now.Before(m.until):
		return Retired
	case !m.ActivateAt.IsZero() && !now.Before(m.ActivateAt):
		return Active
	default:
		return Published
	}
}

func (m Member) compromised(now time.Time) bool {
	return !m.CompromisedAt.IsZero() && !now.Before(m.CompromisedAt)
}

// trustedBefore reports whether the authority signed anything that is trusted although its key was
// compromised later.
func (m Member) trustedBefore() bool {
	return !m.ActivateAt.IsZero() && m.ActivateAt.Before(m.CompromisedAt)
}

// Set is the authorities of a CA. What each of them does follows from the clock alone, so
// that all replicas that have the same set switch at the same instant, without a word to
// each other. It is immutable.
type Set struct {
	generation uint64
	members    []Member // by ActivateAt, those without one last
	digest     [sha256.Size]byte
}

// NewSet returns the set of members. Its errors have key paths such as
// ["authorities", "1", "activate_at"], with the member's index in members; every mistake is
// reported at once. It does not ask what time it is; CheckAt does.
func NewSet(generation uint64, members []Member) (*Set, error) {
	var errs []error
	if generation == 0 {
		errs = append(errs, keypath.Errorf([]string{"generation"}, "the generation is missing; it is a whole number from 1 on that grows with every edit"))
	}
	if len(members) == 0 {
		errs = append(errs, keypath.Errorf([]string{"authorities"}, "the set has no authority"))
	}
	for i, m := range members {
		errs = append(errs, checkMember(i, m, members[:i])...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &Set{generation: generation, members: slices.Clone(members)}
	slices.SortStableFunc(s.members, func(a, b Member) int {
		if a.ActivateAt.IsZero() != b.ActivateAt.IsZero() {
			return cmp.Compare(btoi(a.ActivateAt.IsZero()), btoi(b.ActivateAt.IsZero()))
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
	s.digest = s.sum()
	return s, nil
}

// first returns the earlier of two times, where zero is never.
func first(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// SetOf returns a set of one authority that is published and signs for as long as its
// certificates are valid.
func SetOf(a *Authority) *Set {
	begin := a.chain.NotBefore
	s := &Set{generation: 1, members: []Member{{ID: a.id, Chain: a.chain, Authority: a, PublishAt: begin, ActivateAt: begin}}}
	s.digest = s.sum()
	return s
}

// checkMember tells what is wrong with the i-th member beside those before it.
func checkMember(i int, m Member, before []Member) (errs []error) {
	at := func(key, format string, args ...any) {
		errs = append(errs, keypath.Errorf([]string{"authorities", strconv.Itoa(i), key}, format, args...))
	}
	switch {
	case m.PublishAt.IsZero():
		at("publish_at", "publish_at is missing: it is when %q enters the trust bundle", m.ID)
	case !m.ActivateAt.IsZero() && m.ActivateAt.Before(m.PublishAt):
		at("activate_at", "%q would sign from %s, before it is published at %s; verifiers have to know it first", m.ID, stamp(m.ActivateAt), stamp(m.PublishAt))
	}
	if !m.ActivateAt.IsZero() && !m.RetireAt.IsZero() && !m.RetireAt.After(m.ActivateAt) {
		at("retire_at", "%q would retire at %s, and begins to sign only at %s; leave activate_at out if it is never to sign", m.ID, stamp(m.RetireAt), stamp(m.ActivateAt))
	}
	if !m.ActivateAt.IsZero() && (m.ActivateAt.Before(m.Chain.NotBefore) || !m.ActivateAt.Before(m.Chain.NotAfter)) {
		at("activate_at", "%q would sign from %s, and its certificates are valid from %s to %s; choose a time between them", m.ID, stamp(m.ActivateAt), stamp(m.Chain.NotBefore), stamp(m.Chain.NotAfter))
	}
	for _, other := range before {
		if other.ID == m.ID {
			at("id", "two authorities have the ID %q; each needs its own", m.ID)
			continue
		}
		if !m.ActivateAt.IsZero() && other.ActivateAt.Equal(m.ActivateAt) {
			at("activate_at", "%q and %q would both begin to sign at %s; one of them must begin at another time", other.ID, m.ID, stamp(m.ActivateAt))
		}
		if bytes.Equal(other.Chain.Certificates[0].RawSubjectPublicKeyInfo, m.Chain.Certificates[0].RawSubjectPublicKeyInfo) {
			at("chain", "%q has the key of %q; a new authority needs a new key", m.ID, other.ID)
		}
	}
	return errs
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sum is a digest of all that verifiers and other replicas can see of the set. Where keys
// lie and what opens them is no part of it.
func (s *Set) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, m := range s.members {
		fmt.Fprintf(h, "%d %q %d %d %d %d\n", s.generation, m.ID, m.PublishAt.UnixNano(), m.ActivateAt.UnixNano(), m.RetireAt.UnixNano(), m.CompromisedAt.UnixNano())
		for _, der := range m.Chain.DER {
			fmt.Fprintf(h, "%d\n", len(der))
			h.Write(der)
		}
	}
	h.Sum(sum[:0])
	return sum
}

// Generation grows with every edit of the set.
func (s *Set) Generation() uint64 { return s.generation }

// Members returns the authorities in the order in which they sign; those that have no date
// for it come last.
func (s *Set) Members() []Member { return slices.Clone(s.members) }

// Active returns the authority that signs at now. Its refusal is CA_EXPIRING where there is
// none.
func (s *Set) Active(now time.Time) (*Authority, error) {
	m, err := s.active(now)
	if err == nil && m.Authority == nil {
		err = fmt.Errorf("authority %q is active, and has no key: it could not be opened when the set was read, or the authority was retired then and the clock was set back", m.ID)
	}
	if err != nil {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority has nothing to sign with at this time; tell its operator").Because(err)
	}
	return m.Authority, nil
}

// active finds the one member that signs at now. It does not ask whether its certificates
// are still valid: Profile.draft does, for each certificate.
func (s *Set) active(now time.Time) (*Member, error) {
	for i := len(s.members) - 1; i >= 0; i-- {
		m := &s.members[i]
		if m.ActivateAt.IsZero() || now.Before(m.ActivateAt) {
			continue
		}
		if !m.until.IsZero() && !now.Before(m.until) {
			return nil, &stoppedError{m.ID, m.until}
		}
		return m, nil
	}
	return nil, errors.New("no authority is active: the first one has not begun to sign")
}

// stoppedError says that the last authority has retired: somebody wanted it so.
type stoppedError struct {
	id string
	at time.Time
}

func (e *stoppedError) Error() string {
	return fmt.Sprintf("no authority is active: %q signs no more since %s, and none has succeeded it", e.id, stamp(e.at))
}

// TrustBundle returns the chains that verifiers must know at now: the active one first, then
// those that are published and will sign, then those that have retired, the last one first.
func (s *Set) TrustBundle(now time.Time) []*Chain {
	var active, published, retired []*Chain
	for _, m := range s.members {
		switch m.StateAt(now) {
		case Active:
			active = append(active, m.Chain)
		case Published:
			published = append(published, m.Chain)
		case Retired:
			retired = append(retired, m.Chain)
		}
	}
	slices.Reverse(retired)
	return slices.Concat(active, published, retired)
}

// Window is when verifiers may meet certificates of a chain, as trusted_root.json says it.
type Window struct {
	ID    string
	Chain *Chain
	// Start is the beginning of the chain's own validity. It is not the activation: a
	// certificate begins a few seconds before it was asked for, and verifiers compare its
	// beginning with Start.
	Start time.Time
	// End is zero for an authority that signs or will sign. It is never a time that is yet
	// to come while an operator may still decide otherwise: only a retirement that has
	// happened, the end of the chain, or a compromise ends a window.
	End time.Time
}

// windowGrace is how much longer than the longest certificate the window of a retired
// authority stays open, for replicas whose clocks are behind.
const windowGrace = 10 * time.Minute

// Windows returns the windows of the trust bundle's chains at now, in the same order, and then
// those of the authorities with a compromised key, which end at the time of the compromise, or earlier
// where the authority had retired before. One that signed nothing before has no window.
func (s *Set) Windows(now time.Time) []Window {
	var windows []Window
	for _, chain := range s.TrustBundle(now) {
		i := slices.IndexFunc(s.members, func(m Member) bool { return m.Chain == chain })
		m := s.members[i]
		w := Window{ID: m.ID, Chain: chain, Start: chain.NotBefore}
		if m.StateAt(now) == Retired {
			w.End = m.retiredWindow()
		}
		windows = append(windows, w)
	}
	for _, m := range slices.Backward(s.members) {
		if m.StateAt(now) == Compromised && m.trustedBefore() {
			// A window that had ended before does not open again.
			windows = append(windows, Window{ID: m.ID, Chain: m.Chain, Start: m.Chain.NotBefore, End: first(m.CompromisedAt, m.retiredWindow())})
		}
	}
	return windows
}

// retiredWindow is when the window of an authority that signs no more ends, unless a compromise
// ends it sooner.
func (m Member) retiredWindow() time.Time {
	return first(m.until.Add(maxLifetime+windowGrace), m.Chain.NotAfter)
}
