// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/migrate"
)

func migrateCommand() *cobra.Command {
	var options migrate.Options
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Write the files of a server from the settings of a Fulcio",
		RunE: func(c *cobra.Command, _ []string) error {
			sources := 0
			for _, name := range []string{"from-flags", "from-config", "from-helm-values"} {
				if c.Flag(name).Value.String() != "" {
					sources++
				}
			}
			if sources != 1 {
				return usageError{errors.New("exactly one of --from-flags, --from-config and --from-helm-values is required; see mayfly migrate --help")}
			}
			if err := migrate.Run(c.Context(), options); err != nil {
				return err
			}
			_, err := printable.Fprintf(c.OutOrStdout(), "%s is written and passes mayfly config check; %s has what each setting became, and the next steps\n",
				options.Out, filepath.Join(options.Out, "report.md"))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&options.Flags, "from-flags", "", "the command line of Fulcio, as a shell reads it")
	f.StringVar(&options.ConfigFile, "from-config", "", "a configuration file of Fulcio")
	f.StringVar(&options.HelmValues, "from-helm-values", "", "the values of Fulcio's Helm chart")
	f.StringVar(&options.EnvFile, "env-file", "", "a file with the variables of Fulcio's environment, as NAME=VALUE")
	f.StringArrayVar(&options.Set, "set", nil, "a setting of Fulcio as `NAME=VALUE`, in place of the source's")
	f.StringVar(&options.Root, "root", "", "a folder with a copy of the files of Fulcio's container, below which its paths are read")
	f.StringVar(&options.CASet, "ca-set", "", "the CA set of a new CA (mayfly ca init), in place of Fulcio's")
	f.StringArrayVar(&options.Ignore, "ignore", nil, "a `value` of Fulcio's chart that is not migrated, as server.image")
	f.StringVar(&options.Out, "out", "", "the new or empty directory for the results (required)")
	for _, name := range []string{"from-config", "from-helm-values", "ca-set"} {
		_ = c.MarkFlagFilename(name, "yaml", "yml") // it fails only without the flag
	}
	require(c, "out")
	return c
}
