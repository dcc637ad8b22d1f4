// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func caActivateCommand() *cobra.Command {
	var flags setFlags
	var at string
	c := &cobra.Command{
		Use:   "activate ID",
		Short: "Decide when an authority begins to sign",
		Long: `Decide when a published authority begins to sign. The one that signs until then retires at
the same instant, on every replica.

The default is the earliest time that breaks nobody: when it has been published for the
minimum lead, and at least five minutes from now, so that every replica has the file.`,
		Example: "  mayfly ca activate --set ca 2026-b\n  mayfly ca activate --set ca 2026-b --at 2026-12-01T09:00:00Z",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			editor, err := flags.editor()
			if err != nil {
				return err
			}
			when, err := parseTime("at", at)
			if err != nil {
				return err
			}
			result, err := editor.Activate(c.Context(), args[0], when)
			if err != nil {
				return err
			}
			return flags.print(c, result, fmt.Sprintf("Authority %s signs from %s.", args[0], result.Member.ActivateAt.Format(time.RFC3339)))
		},
	}
	flags.editFlags(c)
	c.Flags().StringVar(&at, "at", "", "when: a time, a duration from now such as +36h, or now")
	return c
}
