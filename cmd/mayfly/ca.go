// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
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
	var at time.Time
	c := &cobra.Command{
		Use:   "activate ID",
		Short: "Decide when an authority begins to sign",
		Long: `Decide when a published authority begins to sign. The one that signs until then retires at
the same instant, on every replica.

The default is the earliest time that breaks nobody: when it has been published for the
minimum lead, and at least five minutes from now, so that every replica has the file.`,
		Example: "  mayfly ca activate --set ca 2026-b\n  mayfly ca activate --set ca 2026-b --at 2026-12-01T09:00:00Z",
		RunE: func(c *cobra.Command, args []string) error {
			editor, err := flags.editor()
			if err != nil {
				return err
			}
			result, err := editor.Activate(c.Context(), args[0], at)
			if err != nil {
				return err
			}
			return flags.print(c, result, fmt.Sprintf("Authority %s signs from %s.", args[0], result.Member.ActivateAt.Format(time.RFC3339)))
		},
	}
	c.ValidArgsFunction = flags.complete
	flags.editFlags(c)
	addTime(c, &at, "at", "when: a time, a duration from now such as +36h, or now")
	return c
}

func caStatusCommand() *cobra.Command {
	var flags setFlags
	var at time.Time
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what each authority of the set does, and what will happen when",
		Long: `Show the CA set: the state of each authority, and every change that is still to come.
Each replica makes these changes by its own clock, at the same instant. No key is opened
and nothing is asked over the network, so that this can run anywhere; what running
replicas have loaded is in their metric mayfly_ca_set_generation.`,
		Example: "  mayfly ca status --set ca/ca.yaml\n  mayfly ca status --config mayfly.yaml -o json\n  mayfly ca status --set ca --at +48h",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read(at)
			if err != nil {
				return err
			}
			if flags.out.json() {
				return printJSON(c.OutOrStdout(), loaded.StatusAt(now))
			}
			return printStatus(c.OutOrStdout(), loaded.StatusAt(now))
		},
	}
	flags.readFlags(c)
	addOutput(c, &flags.out)
	addTime(c, &at, "at", "show it as it will be at this time (default: now)")
	return c
}

func caBundleCommand() *cobra.Command {
	var flags setFlags
	var at time.Time
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Print the trust bundle of the set",
		Long: `Print the trust bundle that a server with this set serves: the active chain first, then
those that are published, then those that have retired and have not ended. It is PEM, or
with -o json what a server returns at /api/v2/trustBundle.`,
		Example: "  mayfly ca bundle --set ca > bundle.pem",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read(at)
			if err != nil {
				return err
			}
			var blocks []string
			var chains []map[string][]string // as servers have it at /api/v2/trustBundle
			for _, chain := range loaded.Set.TrustBundle(now) {
				blocks = append(blocks, chain.PEM...)
				chains = append(chains, map[string][]string{"certificates": chain.PEM})
			}
			if flags.out.json() {
				return printJSON(c.OutOrStdout(), map[string]any{"chains": chains})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), strings.Join(blocks, "\n\n"))
			return err
		},
	}
	flags.readFlags(c)
	addOutput(c, &flags.out)
	addTime(c, &at, "at", "as it will be at this time (default: now)")
	return c
}
