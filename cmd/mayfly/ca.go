// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
)

func caCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ca",
		Short:   "Create and rotate the CA's keys and certificates",
		Example: "  mayfly ca init ./ca\n  mayfly ca status --set ca",
	}
	c.AddCommand(caInitCommand(), caAddCommand(), caActivateCommand(), caRetireCommand(), caStatusCommand(), caBundleCommand(),
		caCheckCommand(), caRequestCommand(), caSignIntermediateCommand(), caCeremonyCommand())
	return c
}

func caActivateCommand() *cobra.Command {
	var flags setFlags
	c := &cobra.Command{
		Use:   "activate ID",
		Short: "Decide when an authority begins to sign",
		RunE: func(c *cobra.Command, args []string) error {
			editor, err := flags.editor()
			if err != nil {
				return err
			}
			result, err := editor.Activate(c.Context(), args[0], flags.at)
			if err != nil {
				return err
			}
			return flags.print(c, result, fmt.Sprintf("Authority %s signs from %s.", args[0], result.Member.ActivateAt.Format(time.RFC3339)))
		},
	}
	c.ValidArgsFunction = flags.complete
	flags.editFlags(c)
	addTime(c, &flags.at, "at", "when: a time, a duration from now such as +36h or +3d, or now")
	return c
}

func caStatusCommand() *cobra.Command {
	var flags setFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what each authority of the set does, and what will happen when",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read()
			if err != nil {
				return err
			}
			return flags.printStatus(c, loaded.StatusAt(now))
		},
	}
	flags.readFlags(c)
	addTime(c, &flags.at, "at", "show it as it will be at this time (default: now)")
	return c
}

func caBundleCommand() *cobra.Command {
	var flags setFlags
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Print the trust bundle of the set",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read()
			if err != nil {
				return err
			}
			var blocks []string
			var chains []map[string][]string // as servers have it at /api/v2/trustBundle
			for _, chain := range loaded.Set.TrustBundle(now) {
				blocks = append(blocks, chain.PEM...)
				chains = append(chains, map[string][]string{"certificates": chain.PEM})
			}
			return flags.out.print(c, map[string]any{"chains": chains}, strings.Join(blocks, "\n\n")+"\n")
		},
	}
	flags.readFlags(c)
	addTime(c, &flags.at, "at", "as it will be at this time (default: now)")
	return c
}

// retireFlags are the flags of mayfly ca retire.
type retireFlags struct {
	setFlags
	since       time.Time
	compromised bool
}

func caRetireCommand() *cobra.Command {
	var flags retireFlags
	c := &cobra.Command{
		Use:   "retire ID",
		Short: "Decide when an authority stops signing",
		RunE:  func(c *cobra.Command, args []string) error { return flags.run(c, args[0]) },
	}
	c.ValidArgsFunction = flags.complete
	flags.editFlags(c)
	addTime(c, &flags.at, "at", "when: a time, a duration from now such as +36h or +3d, or now")
	c.Flags().BoolVar(&flags.compromised, "compromised", false, "its key may be in other hands: stop it now, and end its trust at --since")
	c.Flags().Var(&timeFlag{&flags.since, true}, "since", "with --compromised: the earliest time at which the key may have been in other hands; 2h is two hours ago (default: now)")
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
	if !f.compromised {
		result, err := editor.Retire(c.Context(), id, f.at)
		if err != nil {
			return err
		}
		return f.print(c, result, fmt.Sprintf("Authority %s signs no more from %s on.", id, result.Member.SignsUntil().Format(time.RFC3339)))
	}
	result, err := editor.Compromise(c.Context(), id, f.since)
	if err != nil {
		return err
	}
	return f.print(c, result, f.afterCompromise(result, editor.Now)...)
}

// afterCompromise states what the end of an authority's trust breaks, and the next steps.
func (f *retireFlags) afterCompromise(result *set.Result, now time.Time) (lines []string) {
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
		add("Nothing signs. Run: mayfly ca add %[1]s --root FOLDER, then mayfly ca activate %[1]s ID --at now --force", f.named())
		return lines
	case now.Sub(published.PublishAt) >= set.PublicationLead:
		force = ""
	}
	add("Nothing signs. Run: mayfly ca activate %s %s --at now%s", f.named(), published.ID, force)
	return lines
}

func caCheckCommand() *cobra.Command {
	var flags setFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Load the set as a server does, and ask the logs whether they accept its roots",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg, err := flags.server()
			if err != nil {
				return err
			}
			now := time.Now()
			ring := keyring.New(keyring.Config{Socket: cfg.CA.SignerSocket})
			defer func() { err = errors.Join(err, ring.Close()) }()
			loaded, err := set.Load(c.Context(), cfg, now, set.Keys{Ring: ring})
			if err != nil {
				return err
			}
			keys{err: c.ErrOrStderr()}.warn(append(loaded.Warnings, departures(loaded, now)...)...)
			authority, err := loaded.Set.Active(now)
			if err != nil {
				return fmt.Errorf("%s: %w", loaded.Name, err)
			}
			logs := len(cfg.CT.Logs) // that accept its roots; without --config there are none
			text := fmt.Sprintf("%s: generation %d is valid; authority %s signs\n", loaded.Name, loaded.Set.Generation(), authority.ID())
			if err := errors.Join(app.CheckLogRoots(c.Context(), cfg, loaded.Set, now)...); err != nil {
				if !flags.out.json() {
					fmt.Fprint(c.OutOrStdout(), text)
				}
				return err
			}
			if flags.config != "" {
				text += fmt.Sprintf("logs: %d accept its roots\n", logs)
			}
			asJSON := map[string]any{"set": loaded.Name, "generation": loaded.Set.Generation(), "signs": authority.ID(), "logs": logs}
			return flags.out.print(c, asJSON, text)
		},
	}
	flags.readFlags(c)
	return c
}

// departures reports where a chain differs from what mayfly itself would create, and which kinds of
// name it excludes. A server loads it nevertheless.
func departures(loaded *set.Loaded, now time.Time) (warnings []error) {
	for _, m := range loaded.Set.Members() {
		if unusable, err := m.Chain.Trial(now); err == nil {
			for _, kind := range ca.SANKinds() {
				if cause := unusable[kind]; cause != nil {
					warnings = append(warnings, fmt.Errorf("authority %s: no certificate with a %s verifies below its chain: %w", m.ID, kind, cause))
				}
			}
		}
		chain := m.Chain.Certificates
		if len(chain) < 2 {
			continue
		}
		for _, err := range []error{ceremony.Conform(chain[0], chain[1]), ceremony.Conform(chain[len(chain)-1], nil)} {
			if err != nil {
				warnings = append(warnings, fmt.Errorf("authority %s departs from the certificate specification: %w", m.ID, err))
			}
		}
	}
	return warnings
}
