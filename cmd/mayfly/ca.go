// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func caCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ca",
		Short:   "Create and rotate the CA's keys and certificates",
		Example: "  mayfly ca init ./ca\n  mayfly ca status --set ca",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(caInitCommand(), caAddCommand(), caActivateCommand(), caRetireCommand(), caStatusCommand(), caBundleCommand(),
		caCheckCommand(), caRequestCommand(), caSignIntermediateCommand(), caCeremonyCommand())
	return c
}
