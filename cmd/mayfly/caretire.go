// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/set"
)

// retireFlags are the flags of mayfly ca retire.
type retireFlags struct {
	setFlags
	at, since   time.Time
	compromised bool
}

func caRetireCommand() *cobra.Command {
	var flags retireFlags
	c := &cobra.Command{
		Use:   "retire ID",
		Short: "Decide when an authority stops signing",
		Long: `Decide when an authority stops signing: by default when its successor begins, or at once for
one that never signed. It stays in the trust bundle until its certificates expire, since
signatures that it certified are verified for as long. Its key is read no more an hour
after, and can then be destroyed.

With --compromised its key is, or may be, in other hands. It stops signing at once and leaves
the trust bundle, and its window in trusted_root.json ends at --since: verifiers refuse every
signature with a later timestamp, honest ones included. It needs no --force, and issuance stops
if no other authority is active. docs/rotation.md has the runbook.`,
		Example: "  mayfly ca retire --set ca 2026-a\n  mayfly ca retire --set ca 2026-a --compromised --since 2026-11-29T22:00:00Z",
		RunE:    func(c *cobra.Command, args []string) error { return flags.run(c, args[0]) },
	}
	c.ValidArgsFunction = flags.complete
	flags.editFlags(c)
	addTime(c, &flags.at, "at", "when: a time, a duration from now such as +36h, or now")
	c.Flags().BoolVar(&flags.compromised, "compromised", false, "its key may be in other hands: stop it now, and end its trust at --since")
	addTime(c, &flags.since, "since", "with --compromised: the earliest time at which the key may have been in other hands, or a duration such as -2h (default: now)")
	return c
}

func (f *retireFlags) run(c *cobra.Command, id string) error {
	switch {
	case !f.since.IsZero() && !f.compromised:
		return usageError{errors.New("--since needs --compromised")}
	case !f.at.IsZero() && f.compromised:
		return usageError{errors.New("--at and --compromised exclude each other: a compromised authority stops now; --since names when its trust ends")}
	}
	editor, err := f.editor()
	if err != nil {
		return err
	}
	if f.compromised {
		result, err := editor.Compromise(c.Context(), id, f.since)
		if err != nil {
			return err
		}
		return f.print(c, result, compromised(result, editor.Now)...)
	}
	result, err := editor.Retire(c.Context(), id, f.at)
	if err != nil {
		return err
	}
	return f.print(c, result, fmt.Sprintf("Authority %s signs no more from %s on.", id, result.Member.SignsUntil().Format(time.RFC3339)))
}

// compromised states what the end of an authority's trust breaks, and the next steps.
func compromised(result *set.Result, now time.Time) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	m := result.Member
	since := m.CompromisedAt.UTC().Format(time.RFC3339)
	add("Authority %s is compromised since %s. It signs no more, and has left the trust bundle.", m.ID, since)
	windows := result.Set.Windows(now)
	ended := false // before the compromise, with its retirement
	if i := slices.IndexFunc(windows, func(w set.Window) bool { return w.ID == m.ID }); i < 0 {
		add("It has signed nothing that is trusted, and leaves trusted_root.json.")
	} else {
		ended = windows[i].End.Before(m.CompromisedAt)
		add("Its window in trusted_root.json ends at %s.", windows[i].End.UTC().Format(time.RFC3339))
	}
	if !m.ActivateAt.IsZero() && !ended {
		add("Honest certificates that it issued after %s break, and so do signatures with a later timestamp: they must be made again.", since)
	}
	add("")
	add("Now: bring this set to every server, and publish trusted_root.json to the verifiers. The runbook is in docs/rotation.md (A key was stolen).")
	var published *set.Member
	for _, other := range result.Set.Members() {
		switch other.StateAt(now) {
		case set.Active:
			add("Authority %s signs.", other.ID)
			return lines
		case set.Published:
			if published == nil {
				published = &other
			}
		}
	}
	force := " --force"
	switch {
	case published == nil:
		add("Nothing signs. Run: mayfly ca add, then mayfly ca activate ID --at now --force")
		return lines
	case now.Sub(published.PublishAt) >= set.PublicationLead:
		force = ""
	}
	add("Nothing signs. Run: mayfly ca activate %s --at now%s", published.ID, force)
	return lines
}
