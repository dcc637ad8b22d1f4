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

// An authority passes through these states in this order, and never back.
const (
	// Staged: it is not known outside the CA yet.
	Staged State = iota + 1
	// Published: it is in the trust bundle, so that verifiers know it before it signs.
	Published
	// Active: it signs.
	Active
	// Retired: it does not sign any more. It stays in the trust bundle, because verifiers need it
	// for as long as its certificates are valid.
	Retired
	// Compromised: an attacker may have its key. It does not sign any more and has left the trust
	// bundle. Its window in trusted_root.json ends at the time of the compromise.
	Compromised
	// Expired: a certificate of its chain has expired. It has left the trust bundle.
	Expired
)

// String returns the state's name as commands and metrics show it.
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

// Member is an authority of a set, and its dates.
type Member struct {
	// ID is the authority's name in the set.
	ID string
	// Chain is the authority's chain.
	Chain *Chain
	// Authority signs. It may be nil for an authority that will never sign again; its key need not
	// be kept.
	Authority *Authority
	// PublishAt is when it enters the trust bundle.
	PublishAt time.Time
	// ActivateAt is when it begins to sign; zero means not yet decided.
	ActivateAt time.Time
	// RetireAt is when it stops signing if no other authority begins before; zero means never.
	RetireAt time.Time
	// CompromisedAt is from when an attacker may have its key; zero means never. Nothing that it
	// signed from then on is trusted.
	CompromisedAt time.Time

	// until is when it stops signing: the first of RetireAt, the next one's ActivateAt and
	// CompromisedAt; zero if none is set.
	until time.Time
}

// SignsUntil returns when the authority stops signing: the first of its RetireAt, the next one's
// ActivateAt and its CompromisedAt; zero if none is set.
func (m Member) SignsUntil() time.Time { return m.until }

// StateAt returns the member's state at now.
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

// trustedBefore reports whether the authority could sign before its key was compromised. Such
// signatures stay trusted.
func (m Member) trustedBefore() bool {
	return !m.ActivateAt.IsZero() && m.ActivateAt.Before(m.CompromisedAt)
}

// Set is the authorities of a CA. The state of each one follows from the clock alone. So all
// replicas with the same set switch at the same instant, without communication. Set is immutable.
type Set struct {
	generation uint64
	members    []Member // by ActivateAt; those without one are last
	digest     [sha256.Size]byte
}

// NewSet returns the set of members. Its errors have key paths such as ["authorities", "1",
// "activate_at"], with the member's index in members. It reports all errors at once. It does not
// read the clock; CheckAt takes the time.
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

// first returns the earlier of two times; zero means never.
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

// SetOf returns a set of one authority that is published and signs for as long as its certificates
// are valid.
func SetOf(a *Authority) *Set {
	begin := a.chain.NotBefore
	s := &Set{generation: 1, members: []Member{{ID: a.id, Chain: a.chain, Authority: a, PublishAt: begin, ActivateAt: begin}}}
	s.digest = s.sum()
	return s
}

// checkMember returns what is wrong with the i-th member, alone and compared with those before it.
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

// sum is a digest of everything that verifiers and other replicas can see of the set. It excludes
// where keys are stored and what opens them.
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

// Members returns the authorities in the order in which they sign; those without a date are last.
func (s *Set) Members() []Member { return slices.Clone(s.members) }

// Active returns the authority that signs at now. Its refusal is CA_EXPIRING if there is none.
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

// active returns the one member that signs at now. It does not check that its certificates are
// still valid; Profile.draft checks that for each certificate.
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

// stoppedError states that the last authority has stopped signing, by decision of the operator.
type stoppedError struct {
	id string
	at time.Time
}

func (e *stoppedError) Error() string {
	return fmt.Sprintf("no authority is active: %q signs no more since %s, and none has succeeded it", e.id, stamp(e.at))
}

// TrustBundle returns the chains that verifiers must know at now. The active one is first, then the
// published ones, then the retired ones, the most recently active first.
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

// Window is when verifiers may encounter certificates of a chain, as in trusted_root.json.
type Window struct {
	ID    string
	Chain *Chain
	// Start is the beginning of the chain's own validity, not the activation. A certificate begins
	// a few seconds before the request, and verifiers compare its beginning with Start.
	Start time.Time
	// End is zero for an authority that signs or will sign. It is never a future time that an
	// operator can still change. Only a retirement that has happened, the end of the chain, or a
	// compromise ends a window.
	End time.Time
}

// windowGrace is how much longer than the longest certificate the window of a retired authority
// stays open, for replicas with slow clocks.
const windowGrace = 10 * time.Minute

// Windows returns the windows of the trust bundle's chains at now, in the same order. Those of the
// authorities with a compromised key follow. They end at the time of the compromise, or earlier if
// the authority had retired before. An authority that signed nothing before has no window.
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

// retiredWindow is when the window of an authority that has stopped signing ends, unless a
// compromise ends it sooner.
func (m Member) retiredWindow() time.Time {
	return first(m.until.Add(maxLifetime+windowGrace), m.Chain.NotAfter)
}
