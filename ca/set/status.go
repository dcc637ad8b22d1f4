// SPDX-License-Identifier: Apache-2.0

package set

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// Status is what a set does at one moment, and what it does later.
type Status struct {
	Set         string            `json:"set"`
	Generation  uint64            `json:"generation"`
	At          time.Time         `json:"at"`
	Authorities []AuthorityStatus `json:"authorities"`
	// Schedule is every change that is still to come, the next one first.
	Schedule []Event  `json:"schedule"`
	Warnings []string `json:"warnings"`
}

// AuthorityStatus is one authority. Times that are not set are omitted.
type AuthorityStatus struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Since      time.Time `json:"since,omitzero"` // of the state
	PublishAt  time.Time `json:"publish_at"`
	ActivateAt time.Time `json:"activate_at,omitzero"`
	SignsUntil time.Time `json:"signs_until,omitzero"`
	// CompromisedAt is the time since which an attacker may have its key.
	CompromisedAt time.Time `json:"compromised_at,omitzero"`
	ChainEnds     time.Time `json:"chain_ends"`
	// Signer is the kind of the signer that the set names; "" for none.
	Signer       string              `json:"signer,omitempty"`
	Certificates []CertificateStatus `json:"certificates"`
}

// CertificateStatus is one certificate of a chain.
type CertificateStatus struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

// Event is a change at one instant, the same on every replica.
type Event struct {
	At        time.Time `json:"at"`
	Authority string    `json:"authority"`
	Does      string    `json:"does"`
}

// StatusAt returns what the set does at now and later.
func (l *Loaded) StatusAt(now time.Time) Status {
	s := Status{Set: l.Name, Generation: l.Set.generation, At: seconds(now), Authorities: []AuthorityStatus{}, Schedule: []Event{}, Warnings: []string{}}
	for _, reason := range keypath.Split(l.Inactive) {
		s.Warnings = append(s.Warnings, "a server would not load this set: "+reason.Error())
	}
	for _, warning := range l.Warnings {
		s.Warnings = append(s.Warnings, warning.Error())
	}
	for _, m := range l.Set.members {
		state := m.StateAt(now)
		a := AuthorityStatus{ID: m.ID, State: state.String(), Since: m.Since(now), PublishAt: m.PublishAt, ActivateAt: m.ActivateAt, SignsUntil: m.until,
			CompromisedAt: m.CompromisedAt, ChainEnds: m.Chain.NotAfter.UTC(), Signer: l.entries[m.index].Signer.Kind()}
		for _, c := range m.Chain.Certificates {
			a.Certificates = append(a.Certificates, CertificateStatus{c.Subject.String(), c.NotAfter.UTC()})
			if left := c.NotAfter.Sub(now); state <= Active && left < endsSoon {
				s.Warnings = append(s.Warnings, fmt.Sprintf("authority %s: the certificate %s ends in %s, at %s", m.ID, c.Subject, printable.Span(left), stamp(c.NotAfter)))
			}
		}
		s.Authorities = append(s.Authorities, a)
		s.Schedule = append(s.Schedule, events(m, now)...)
	}
	slices.SortStableFunc(s.Schedule, func(a, b Event) int { return a.At.Compare(b.At) })
	return s
}

// events are the future changes of m.
func events(m Member, now time.Time) (list []Event) {
	if m.StateAt(now) >= Compromised {
		return nil
	}
	add := func(at time.Time, does string) {
		if at.After(now) && !at.After(m.Chain.NotAfter) {
			list = append(list, Event{at.UTC(), m.ID, does})
		}
	}
	add(m.PublishAt, "enters the trust bundle")
	add(m.ActivateAt, "begins to sign")
	if !m.ActivateAt.IsZero() {
		add(m.until, "signs no more; stays in the trust bundle")
	}
	add(m.Chain.NotAfter, "ends, and leaves the trust bundle")
	return list
}

// Write writes the status for a person.
func (s Status) Write(out io.Writer) error {
	var b strings.Builder
	printable.Fprintf(&b, "CA set %s, generation %d, at %s\n\n", s.Set, s.Generation, stamp(s.At))
	table := func(row string, each func(w *tabwriter.Writer)) {
		w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
		fmt.Fprint(w, row)
		each(w)
		_ = w.Flush() // a strings.Builder never fails
	}
	table("AUTHORITY\tSTATE\tPUBLISHED\tSIGNS FROM\tSIGNS UNTIL\tCHAIN ENDS\tKEY\n", func(w *tabwriter.Writer) {
		for _, a := range s.Authorities {
			state := a.State
			if !a.CompromisedAt.IsZero() {
				state += " since " + stamp(a.CompromisedAt)
			} else if !a.Since.IsZero() {
				state += " for " + printable.Span(s.At.Sub(a.Since))
			}
			printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, state, date(a.PublishAt), date(a.ActivateAt), date(a.SignsUntil), date(a.ChainEnds), cmp.Or(a.Signer, "none"))
		}
	})
	table("\nWhat every replica will do, each by its own clock:\n", func(w *tabwriter.Writer) {
		for _, e := range s.Schedule {
			printable.Fprintf(w, "  %s\t%s\t%s %s\n", stamp(e.At), printable.Relative(e.At, s.At), e.Authority, e.Does)
		}
		if len(s.Schedule) == 0 {
			fmt.Fprintln(w, "  nothing")
		}
	})
	if len(s.Warnings) > 0 {
		b.WriteString("\nWarnings:\n")
	}
	for _, warning := range s.Warnings {
		printable.Fprintf(&b, "  - %s\n", warning)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// date is a time in a table; one that is not decided is a dash.
func date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return stamp(t)
}
