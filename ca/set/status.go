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

	"github.com/mayfly-ca/mayfly/internal/printable"
)

// endsSoon is how long before its expiry a certificate of a chain causes a warning: an intermediate
// takes a ceremony and a publication, and both need time.
const endsSoon = 90 * 24 * time.Hour

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
	ID         string     `json:"id"`
	State      string     `json:"state"`
	PublishAt  time.Time  `json:"publish_at"`
	ActivateAt *time.Time `json:"activate_at,omitempty"`
	SignsUntil *time.Time `json:"signs_until,omitempty"`
	// CompromisedAt is the time since which an attacker may have its key.
	CompromisedAt *time.Time `json:"compromised_at,omitempty"`
	ChainEnds     time.Time  `json:"chain_ends"`
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
	s := Status{Set: l.Name, Generation: l.Set.Generation(), At: seconds(now), Authorities: []AuthorityStatus{}, Schedule: []Event{}, Warnings: []string{}}
	for _, m := range l.Set.Members() {
		a := AuthorityStatus{ID: m.ID, State: m.StateAt(now).String(), PublishAt: m.PublishAt, ActivateAt: known(m.ActivateAt), SignsUntil: known(m.SignsUntil()), CompromisedAt: known(m.CompromisedAt), ChainEnds: m.Chain.NotAfter.UTC(), Signer: l.entries[m.index].Signer.Kind()}
		for _, c := range m.Chain.Certificates {
			a.Certificates = append(a.Certificates, CertificateStatus{c.Subject.String(), c.NotAfter.UTC()})
		}
		s.Authorities = append(s.Authorities, a)
		s.Schedule = append(s.Schedule, events(m, now)...)
	}
	slices.SortStableFunc(s.Schedule, func(a, b Event) int { return a.At.Compare(b.At) })
	for _, reason := range unjoin(l.Unfit) {
		s.Warnings = append(s.Warnings, "a server would not load this set: "+reason.Error())
	}
	for _, warning := range l.Warnings {
		s.Warnings = append(s.Warnings, warning.Error())
	}
	s.Warnings = append(s.Warnings, l.ending(now)...)
	return s
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// events are the future changes of m.
func events(m Member, now time.Time) (list []Event) {
	add := func(at time.Time, does string) {
		if !at.IsZero() && at.After(now) && !at.After(m.Chain.NotAfter) {
			list = append(list, Event{at.UTC(), m.ID, does})
		}
	}
	if m.StateAt(now) == Compromised {
		return nil
	}
	add(m.PublishAt, "enters the trust bundle")
	add(m.ActivateAt, "begins to sign")
	if !m.ActivateAt.IsZero() {
		add(m.SignsUntil(), "signs no more; stays in the trust bundle")
	}
	if m.StateAt(now) != Expired {
		add(m.Chain.NotAfter, "ends, and leaves the trust bundle")
	}
	return list
}

// ending warns of every certificate that expires soon in a chain that is still needed, and of a
// missing successor.
func (l *Loaded) ending(now time.Time) (warnings []string) {
	var active, undecided *Member
	dated := false
	for _, m := range l.Set.Members() {
		switch m.StateAt(now) {
		case Active:
			active = &m
		case Published, Staged:
			if m.ActivateAt.IsZero() && m.RetireAt.IsZero() {
				undecided = &m
			}
			dated = dated || !m.ActivateAt.IsZero()
		default:
			continue
		}
		for _, c := range m.Chain.Certificates {
			if left := c.NotAfter.Sub(now); left < endsSoon {
				warnings = append(warnings, fmt.Sprintf("authority %s: the certificate %s ends in %s, at %s", m.ID, c.Subject, span(left), stamp(c.NotAfter)))
			}
		}
	}
	if active == nil {
		return warnings
	}
	left := active.Chain.NotAfter.Sub(now)
	switch successor := l.Set.Successor(now); {
	case successor && !dated && undecided != nil && left < endsSoon:
		warnings = append(warnings, fmt.Sprintf("authority %s ends in %s, and it is not decided when %s begins to sign: decide it now, with mayfly ca activate %s", active.ID, span(left), undecided.ID, undecided.ID))
	case !successor && left < 2*endsSoon:
		warnings = append(warnings, fmt.Sprintf("nothing succeeds authority %s, which ends in %s, at %s: make its successor now, with mayfly ca add, so that it can be published before it signs", active.ID, span(left), stamp(active.Chain.NotAfter)))
	}
	return warnings
}

// Write writes the status for a person.
func (s Status) Write(out io.Writer) error {
	var b strings.Builder
	printable.Fprintf(&b, "CA set %s, generation %d, at %s\n\n", s.Set, s.Generation, stamp(s.At))
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "AUTHORITY\tSTATE\tIN THE TRUST BUNDLE\tSIGNS\tCHAIN ENDS\tKEY")
	for _, a := range s.Authorities {
		printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, a.State, s.bundled(a), s.signs(a), s.relative(a.ChainEnds), cmp.Or(a.Signer, "none"))
	}
	_ = w.Flush() // a strings.Builder never fails
	b.WriteString("\nWhat every replica will do, each by its own clock:\n")
	w = tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, e := range s.Schedule {
		printable.Fprintf(w, "  %s\tin %s\t%s %s\n", stamp(e.At), span(e.At.Sub(s.At)), e.Authority, e.Does)
	}
	_ = w.Flush()
	if len(s.Schedule) == 0 {
		b.WriteString("  nothing\n")
	}
	if len(s.Warnings) > 0 {
		b.WriteString("\nWarnings:\n")
	}
	for _, warning := range s.Warnings {
		printable.Fprintf(&b, "  - %s\n", warning)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (s Status) bundled(a AuthorityStatus) string {
	switch a.State {
	case Staged.String():
		return "from " + stamp(a.PublishAt)
	case Compromised.String(), Expired.String():
		return "no more"
	default:
		return "since " + stamp(a.PublishAt)
	}
}

func (s Status) signs(a AuthorityStatus) string {
	switch {
	case a.State == Compromised.String():
		return "no more, untrusted since " + stamp(*a.CompromisedAt)
	case a.ActivateAt == nil && a.SignsUntil != nil:
		return "never"
	case a.ActivateAt == nil:
		return "not decided (mayfly ca activate)"
	case a.State == Retired.String() || a.State == Expired.String():
		if a.SignsUntil == nil {
			return "no more"
		}
		return "no more, since " + stamp(*a.SignsUntil)
	}
	text := "from "
	if !a.ActivateAt.After(s.At) {
		text = "since "
	}
	text += stamp(*a.ActivateAt)
	if a.SignsUntil != nil {
		text += " until " + stamp(*a.SignsUntil)
	}
	return text
}

func (s Status) relative(t time.Time) string {
	if left := t.Sub(s.At); left >= 0 {
		return fmt.Sprintf("%s (in %s)", t.Format(time.DateOnly), span(left))
	}
	return t.Format(time.DateOnly) + " (ended)"
}

// span is a duration as a person says it.
func span(d time.Duration) string {
	switch days := int(d.Hours() / 24); {
	case d < 0:
		return "the past"
	case days >= 2:
		return fmt.Sprintf("%d days", days)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return d.Round(time.Second).String()
	}
}
