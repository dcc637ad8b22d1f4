// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func caBundleCommand() *cobra.Command {
	var flags setFlags
	var at string
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Print the trust bundle of the set, as PEM",
		Long: `Print the trust bundle that a server with this set serves: the active chain first, then
those that are published, then those that have retired and have not ended.`,
		Example: "  mayfly ca bundle --set ca > bundle.pem",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, now, err := flags.read(at)
			if err != nil {
				return err
			}
			var blocks []string
			for _, chain := range loaded.Set.TrustBundle(now) {
				blocks = append(blocks, chain.PEM...)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), strings.Join(blocks, "\n\n"))
			return err
		},
	}
	flags.readFlags(c)
	c.Flags().StringVar(&at, "at", "", "as it will be at this time (default: now)")
	return c
}
