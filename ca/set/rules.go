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
		state, compromised := m.StateAt(now), false // in s
		i := slices.IndexFunc(s.members, func(next Member) bool { return next.Chain.Equal(m.Chain) })
		if i >= 0 {
			at := s.members[i].CompromisedAt
			compromised = !at.IsZero() && !now.Before(at)
			if state == Compromised && (at.IsZero() || at.After(m.CompromisedAt)) {
				object("the key of authority %q is compromised since %s, and this set trusts it again or for longer; if that was a mistake, restart each server with this set", m.ID, stamp(m.CompromisedAt))
			}
		}
		if (state == Published || state == Active || state == Retired) && !slices.ContainsFunc(bundle, m.Chain.Equal) && !compromised {
			object("authority %q is in the trust bundle until %s, and this set takes it out; verifiers would refuse what it signed: keep it, with the same chain and publish_at, and retire it", m.ID, stamp(m.Chain.NotAfter))
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
// of each authority that has not retired. Warnings are failures to expect later. Both have key
// paths.
func (s *Set) CheckAt(now time.Time) (warnings []error, err error) {
	set := []string{"authorities"}
	var errs []error
	signs, err := s.active(now)
	switch {
	case errors.Is(err, errStopped):
		// This is the last resort after a key was stolen. A server that refused the set would
		// continue to sign.
		warnings = append(warnings, keypath.Errorf(set, "every request is refused: %w", err))
	case err != nil:
		errs = append(errs, keypath.Errorf(set, "%w; %s", err, s.howToActivate(now)))
	default:
		if err := signs.Chain.ValidAt(now); err != nil {
			errs = append(errs, keypath.Errorf(signs.keyPath("chain"), "authority %q must sign: %w", signs.ID, err))
		}
	}
	for i, m := range s.members {
		state := m.StateAt(now)
		if state == Expired || state == Compromised {
			continue
		}
		if _, err := m.Chain.Trial(now); err != nil {
			err = keypath.Errorf(m.keyPath("chain"), "authority %q: %w", m.ID, err)
			if state == Retired {
				warnings = append(warnings, err)
			} else {
				errs = append(errs, err)
			}
		}
		if state == Retired {
			continue
		}
		if len(m.Chain.Certificates) == 1 {
			warnings = append(warnings, keypath.Errorf(m.keyPath("chain"), "the root itself signs certificates: some clients require an intermediate, and a root that is online cannot be rotated; mayfly ca init makes both"))
		}
		if lead := m.ActivateAt.Sub(m.PublishAt); i > 0 && !m.ActivateAt.IsZero() && lead < PublicationLead && now.Before(m.ActivateAt.Add(PublicationLead)) {
			warnings = append(warnings, keypath.Errorf(m.keyPath("activate_at"), "%q signs %s after it is published, which is less than %s: verifiers that have fetched the trust bundle before refuse its certificates until they fetch it again", m.ID, lead, PublicationLead))
		}
	}
	if from, found := s.Gap(now); found && signs != nil && len(errs) == 0 {
		warnings = append(warnings, keypath.Errorf(set, "nothing signs from %s on, and every request will be refused: no other authority has begun by then", stamp(from)))
	}
	return warnings, errors.Join(errs...)
}

func (s *Set) howToActivate(now time.Time) string {
	for _, m := range s.members {
		if m.ActivateAt.After(now) {
			return "\"" + m.ID + "\" is next, at " + stamp(m.ActivateAt) + ": give it an earlier activate_at, or wait"
		}
	}
	return "give an authority an activate_at (mayfly ca activate)"
}

// Gap returns the first time from now on at which no authority signs, because one stops and no
// other has begun. It returns false if there is no such time before the certificates of the last
// one expire.
func (s *Set) Gap(now time.Time) (from time.Time, found bool) {
	at := now
	for i, m := range s.members {
		if m.ActivateAt.IsZero() {
			break
		}
		if m.ActivateAt.After(at) {
			return at, true
		}
		// No certificate may outlive the chain, so the last one begins before the chain expires.
		end := first(m.until, m.Chain.NotAfter.Add(-ca.MaxLifetime))
		if !end.After(at) {
			continue // has stopped signing, or never signs
		}
		last := i+1 == len(s.members) || s.members[i+1].ActivateAt.IsZero()
		if last && m.until.IsZero() {
			return time.Time{}, false
		}
		at = end
	}
	return at, true
}

// Successor reports whether a published or staged authority can take over from the one that signs
// at now: it may still sign, and expires later.
func (s *Set) Successor(now time.Time) bool {
	active, _ := s.active(now)
	return slices.ContainsFunc(s.members, func(m Member) bool {
		if state := m.StateAt(now); state != Published && state != Staged {
			return false
		}
		never := m.ActivateAt.IsZero() && !m.RetireAt.IsZero()
		return !never && (active == nil || m.Chain.NotAfter.After(active.Chain.NotAfter))
	})
}
