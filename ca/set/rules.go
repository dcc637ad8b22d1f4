// SPDX-License-Identifier: Apache-2.0

package set

import (
	"errors"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// PublicationLead is how long an authority should be in the trust bundle before its first
// signature. Verifiers need it by then, and many fetch the bundle once a day.
const PublicationLead = 24 * time.Hour

// endsSoon is how long before the expiry of a certificate the status warns, and half of the time before
// nothing signs: a successor takes a ceremony and a publication.
const endsSoon = 90 * 24 * time.Hour

// Succeeds returns why s must not replace current at now; nil if it may. The generation never
// decreases, and one generation has one content. A chain in the trust bundle stays there until it
// expires, because verifiers rely on it. A compromised key is never trusted again. The errors have
// key paths.
func (s *Set) Succeeds(current *Set, now time.Time) error {
	switch {
	case s.generation < current.generation:
		return keypath.Errorf([]string{"generation"}, "generation %d is older than generation %d, which is in force; to go back, write the older content under generation %d",
			s.generation, current.generation, current.generation+1)
	case s.generation == current.generation && !slices.EqualFunc(s.members, current.members, Member.looksLike):
		return keypath.Errorf([]string{"generation"}, "the content differs from that of generation %d, which is in force; every edit needs a new generation: write %d", s.generation, s.generation+1)
	}
	var errs []error
	object := func(format string, args ...any) {
		errs = append(errs, keypath.Errorf([]string{"authorities"}, format, args...))
	}
	bundle := s.TrustBundle(now)
	for _, m := range current.members {
		var next Member // m in s
		if i := slices.IndexFunc(s.members, func(other Member) bool { return other.Chain.Equal(m.Chain) }); i >= 0 {
			next = s.members[i]
		}
		switch m.StateAt(now) {
		case Compromised:
			if at := next.CompromisedAt; next.Chain != nil && (at.IsZero() || at.After(m.CompromisedAt)) {
				object("the key of authority %q is compromised since %s, and this set trusts it again or for longer; if that was a mistake, restart each server with this set", m.ID, stamp(m.CompromisedAt))
			}
		case Published, Active, Retired:
			if !slices.ContainsFunc(bundle, m.Chain.Equal) && !reached(next.CompromisedAt, now) {
				object("authority %q is in the trust bundle until %s, and this set takes it out; verifiers would refuse what it signed: keep it, with the same chain and publish_at, and retire it", m.ID, stamp(m.Chain.NotAfter))
			}
		}
	}
	return errors.Join(errs...)
}

// looksLike reports whether verifiers and other replicas see no difference between m and other.
// Where keys are stored, and what opens them, may differ.
func (m Member) looksLike(other Member) bool {
	return m.ID == other.ID && m.Chain.Equal(other.Chain) && m.PublishAt.Equal(other.PublishAt) && m.ActivateAt.Equal(other.ActivateAt) &&
		m.RetireAt.Equal(other.RetireAt) && m.CompromisedAt.Equal(other.CompromisedAt)
}

// CheckAt reports whether the set can be put in force at now. An authority must be active, and no
// certificate of the one that signs may have expired. Verifiers must accept a leaf below the chain
// of each authority that has not retired. Warnings are failures to expect later. Both have key paths.
func (s *Set) CheckAt(now time.Time) (warnings []error, err error) {
	var errs []error
	warn := func(err error) { warnings = append(warnings, err) }
	last, err := s.last(now)
	switch {
	case err != nil && last != nil:
		// The last resort after a key was stolen: a server that refused the set would continue to sign.
		warn(keypath.Errorf([]string{"authorities"}, "every request is refused: %w", err))
	case err != nil:
		errs = append(errs, keypath.Errorf([]string{"authorities"}, "%w; wait for its time (mayfly ca status), or give one an earlier activate_at (mayfly ca activate)", err))
	default:
		if err := last.Chain.ValidAt(now); err != nil {
			errs = append(errs, last.errorf("chain", "authority %q must sign: %w", last.ID, err))
		}
	}
	for i, m := range s.members {
		state := m.StateAt(now)
		if state > Retired {
			continue
		}
		_, unusable := m.Chain.Trial(now)
		if unusable != nil {
			unusable = m.errorf("chain", "authority %q: %w", m.ID, unusable)
		}
		if state == Retired {
			warnings = append(warnings, keypath.Split(unusable)...)
			continue
		}
		errs = append(errs, unusable)
		if len(m.Chain.Certificates) == 1 {
			warn(m.errorf("chain", "the root itself signs certificates: some clients require an intermediate, and a root that is online cannot be rotated; mayfly ca init makes both"))
		}
		if lead := m.ActivateAt.Sub(m.PublishAt); i > 0 && !m.ActivateAt.IsZero() && lead < PublicationLead && now.Before(m.ActivateAt.Add(PublicationLead)) {
			warn(m.errorf("activate_at", "%q signs %s after it is published, which is less than %s: verifiers that have fetched the trust bundle before refuse its certificates until they fetch it again", m.ID, lead, PublicationLead))
		}
	}
	err = errors.Join(errs...)
	if gap := s.Gap(now); err == nil && gap.After(now) && gap.Sub(now) < 2*endsSoon {
		warn(keypath.Errorf([]string{"authorities"}, "nothing signs from %s on, and every request will be refused: no other authority has begun by then; add one (mayfly ca add) or activate it (mayfly ca activate)", stamp(gap)))
	}
	return warnings, err
}

// Gap returns the first time from now on at which no authority signs, because one stops or its chain
// expires, and no other has begun.
func (s *Set) Gap(now time.Time) time.Time {
	at := now
	for _, m := range s.members {
		if m.ActivateAt.IsZero() || m.ActivateAt.After(at) {
			break
		}
		if end := first(m.until, m.lastLeaf()); end.After(at) {
			at = end
		}
	}
	return at
}

// lastLeaf returns when the last certificate of m begins: none may outlive the chain.
func (m Member) lastLeaf() time.Time { return m.Chain.NotAfter.Add(-ca.MaxLifetime) }

// Successor reports whether a published or staged authority can take over from the one that signs
// at now: it may still sign, and expires later.
func (s *Set) Successor(now time.Time) bool {
	last, err := s.last(now)
	return slices.ContainsFunc(s.members, func(m Member) bool {
		never := m.ActivateAt.IsZero() && !m.RetireAt.IsZero()
		return m.StateAt(now) < Active && !never && (err != nil || m.Chain.NotAfter.After(last.Chain.NotAfter))
	})
}
