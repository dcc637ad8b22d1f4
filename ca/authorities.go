// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// PublicationLead is how long an authority should be in the trust bundle before its first
// signature. Verifiers need it by then, and many fetch the bundle once a day.
const PublicationLead = 24 * time.Hour

// Authorities holds the set in force, which a later set can replace. It is safe for concurrent use.
// A request must read the set only once.
type Authorities struct {
	current   atomic.Pointer[Set]
	replacing sync.Mutex
}

// NewAuthorities puts set in force.
func NewAuthorities(set *Set) *Authorities {
	a := &Authorities{}
	a.current.Store(set)
	return a
}

// Set returns the set in force.
func (a *Authorities) Set() *Set { return a.current.Load() }

// Replace puts next in force, or returns why not and keeps the current set. The generation never
// decreases, and one generation has one content. A chain in the trust bundle stays there until it
// expires, because verifiers rely on it.
func (a *Authorities) Replace(next *Set, now time.Time) error {
	a.replacing.Lock()
	defer a.replacing.Unlock()
	current := a.current.Load()
	if err := next.Succeeds(current, now); err != nil {
		return err
	}
	a.current.Store(next)
	return nil
}

// Succeeds returns why s must not replace current at now; nil if it may. Its errors have key paths.
func (s *Set) Succeeds(current *Set, now time.Time) error {
	switch {
	case s.generation < current.generation:
		return keypath.Errorf([]string{"generation"}, "generation %d is older than generation %d, which is in force; to go back, write the older content under generation %d",
			s.generation, current.generation, current.generation+1)
	case s.generation == current.generation && s.digest != current.digest:
		return keypath.Errorf([]string{"generation"}, "the content differs from that of generation %d, which is in force; every edit needs a new generation: write %d", s.generation, s.generation+1)
	}
	var errs []error
	bundle := s.TrustBundle(now)
	for _, m := range current.members {
		i := slices.IndexFunc(s.members, func(next Member) bool { return next.Chain.Equal(m.Chain) })
		switch m.StateAt(now) {
		case Compromised:
			if i >= 0 && (s.members[i].CompromisedAt.IsZero() || s.members[i].CompromisedAt.After(m.CompromisedAt)) {
				errs = append(errs, keypath.Errorf([]string{"authorities"}, "the key of authority %q is compromised since %s, and this set trusts it again or for longer; if that was a mistake, restart each server with this set",
					m.ID, stamp(m.CompromisedAt)))
			}
			continue
		case Published, Active, Retired:
		default:
			continue
		}
		if slices.ContainsFunc(bundle, m.Chain.Equal) || i >= 0 && s.members[i].compromised(now) {
			continue
		}
		errs = append(errs, keypath.Errorf([]string{"authorities"}, "authority %q is in the trust bundle until %s, and this set takes it out; verifiers would refuse what it signed: keep it, with the same chain and publish_at, and retire it",
			m.ID, stamp(m.Chain.NotAfter)))
	}
	return errors.Join(errs...)
}

// Equal reports whether both chains hold the same certificates.
func (c *Chain) Equal(other *Chain) bool { return slices.EqualFunc(c.DER, other.DER, bytes.Equal) }

// CheckAt reports whether the set can be put in force at now. An authority must be active, and no
// certificate of the one that signs may have expired. Verifiers must accept a leaf below the chain
// of each authority that has not retired. Warnings are failures to expect later. Both have key
// paths with the index that index returns for an authority's ID.
func (s *Set) CheckAt(now time.Time, index func(id string) int) (warnings []error, err error) {
	at := func(m Member, key, format string, args ...any) error {
		return keypath.Errorf([]string{"authorities", strconv.Itoa(index(m.ID)), key}, format, args...)
	}
	var errs []error
	signs, err := s.active(now)
	switch {
	case errors.As(err, new(*stoppedError)):
		// This is the last resort after a key was stolen. A server that refused the set would
		// continue to sign.
		warnings = append(warnings, keypath.Errorf([]string{"authorities"}, "every request is refused: %w", err))
	case err != nil:
		errs = append(errs, keypath.Errorf([]string{"authorities"}, "%s", s.whyNoneActive(err, now)))
	}
	for i, m := range s.members {
		if signs != nil && signs.ID == m.ID {
			if err := m.Chain.ValidAt(now); err != nil {
				errs = append(errs, at(m, "chain", "authority %q is to sign: %w", m.ID, err))
			}
		}
		state := m.StateAt(now)
		if state == Expired || state == Compromised {
			continue
		}
		if _, err := m.Chain.Trial(now); err != nil && state == Retired {
			warnings = append(warnings, at(m, "chain", "authority %q: %w", m.ID, err))
		} else if err != nil {
			errs = append(errs, at(m, "chain", "authority %q: %w", m.ID, err))
		}
		if state == Retired {
			continue
		}
		if len(m.Chain.Certificates) == 1 {
			warnings = append(warnings, at(m, "chain", "the root itself signs certificates: some clients require an intermediate, and a root that is online cannot be rotated; mayfly ca init makes both"))
		}
		if lead := m.ActivateAt.Sub(m.PublishAt); i > 0 && !m.ActivateAt.IsZero() && lead < PublicationLead && now.Before(m.ActivateAt.Add(PublicationLead)) {
			warnings = append(warnings, at(m, "activate_at", "%q signs %s after it is published, which is less than %s: verifiers that have fetched the trust bundle before refuse its certificates until they fetch it again", m.ID, lead, PublicationLead))
		}
	}
	if from, found := s.Gap(now); found && signs != nil && len(errs) == 0 {
		warnings = append(warnings, keypath.Errorf([]string{"authorities"}, "nothing signs from %s on, and every request will be refused: no other authority has begun by then", stamp(from)))
	}
	return warnings, errors.Join(errs...)
}

func (s *Set) whyNoneActive(err error, now time.Time) string {
	for _, m := range s.members {
		if m.ActivateAt.After(now) {
			return fmt.Sprintf("%v; %q is next, at %s: give it an earlier activate_at, or wait", err, m.ID, stamp(m.ActivateAt))
		}
	}
	return err.Error() + "; give an authority an activate_at (mayfly ca activate)"
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
		end, last := m.Chain.NotAfter.Add(-maxLifetime), m.until.IsZero()
		if !last && m.until.Before(end) {
			end = m.until
		}
		if !end.After(at) {
			continue // has stopped signing, or never signs
		}
		if last && i+1 == s.dated() {
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

// dated returns the number of members that have a date on which they begin to sign.
func (s *Set) dated() (n int) {
	for _, m := range s.members {
		if !m.ActivateAt.IsZero() {
			n++
		}
	}
	return n
}
