// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func caRetireCommand() *cobra.Command {
	var flags setFlags
	var at string
	c := &cobra.Command{
		Use:   "retire ID",
		Short: "Decide when an authority ends to sign",
		Long: `Decide when an authority ends to sign: by default when its successor begins, or at once for
one that never signed. It stays in the trust bundle until its certificates end, since
signatures that it certified are verified for as long. Its key is read no more an hour
after, and can then be destroyed.

After a key was stolen: mayfly ca retire ID --at now --force. It stops issuance if no other
authority is active.`,
		Example: "  mayfly ca retire --set ca 2026-a",
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
			result, err := editor.Retire(c.Context(), args[0], when)
			if err != nil {
				return err
			}
			return flags.print(c, result, fmt.Sprintf("Authority %s signs no more from %s on.", args[0], result.Member.SignsUntil().Format(time.RFC3339)))
		},
	}
	flags.editFlags(c)
	c.Flags().StringVar(&at, "at", "", "when: a time, a duration from now such as +36h, or now")
	return c
}
