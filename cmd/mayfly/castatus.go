// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func caStatusCommand() *cobra.Command {
	var flags setFlags
	var at string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what each authority of the set does, and what will happen when",
		Long: `Show the CA set: the state of each authority, and every change that is still to come.
Each replica makes these changes by its own clock, at the same instant. No key is opened
and nothing is asked over the network, so that this can run anywhere; what running
replicas have loaded is in their metric mayfly_ca_set_generation.`,
		Example: "  mayfly ca status --set ca/ca.yaml\n  mayfly ca status --config mayfly.yaml --json\n  mayfly ca status --set ca --at +48h",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read(at)
			if err != nil {
				return err
			}
			if flags.asJSON {
				return printJSON(c.OutOrStdout(), loaded.StatusAt(now))
			}
			return loaded.StatusAt(now).Write(c.OutOrStdout())
		},
	}
	flags.readFlags(c)
	c.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&at, "at", "", "show it as it will be at this time (default: now)")
	return c
}
