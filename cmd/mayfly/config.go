// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Check configuration files",
		Example: "  mayfly config check mayfly.yaml",
		Args:    cobra.NoArgs,
	}
	c.AddCommand(configCheckCommand())
	return c
}

func configCheckCommand() *cobra.Command {
	var options app.CheckOptions
	c := &cobra.Command{
		Use:   "check [--compat] [--no-files] [--online] FILE",
		Short: "Find every mistake in an issuer file or a server configuration",
		Long: `Read an issuer file, or a server configuration and all files that it names, as mayfly serve
does, and run the tests beside issuers. Each mistake is one line,
FILE:LINE:COLUMN: and a sentence. The exit code is 0 where there is none, and 1 where there
is one or the file cannot be read.

A server configuration is refused exactly where mayfly serve would refuse to start: chains,
keys and their passwords, logs, tokens and the TLS certificate are read. Nothing is written
or locked, so that it runs beside a server. Services, modules and processes that hold keys
are not asked. --no-files reads the configuration and the issuer file only, for a machine
that has no other.`,
		Example: "  mayfly config check issuers.yaml\n  mayfly config check --no-files mayfly.yaml\n  mayfly config check --online mayfly.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("exactly one file is expected; see mayfly config check --help")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			options.File, options.Environ = args[0], os.Environ()
			report, err := app.Check(c.Context(), options)
			if err != nil {
				return err
			}
			for _, mistake := range report.Mistakes {
				printable.Fprintf(c.OutOrStdout(), "%v\n", mistake)
			}
			for _, warning := range report.Warnings {
				printable.Fprintf(c.OutOrStdout(), "%v\n", asWarning(warning))
			}
			if len(report.Mistakes) > 0 {
				return errors.New(report.Summary())
			}
			printable.Fprintf(c.OutOrStdout(), "%s: %s\n", args[0], report.Summary())
			return nil
		},
	}
	c.Flags().BoolVar(&options.Compat, "compat", false, "what Fulcio tolerates in an issuer file is a warning")
	c.Flags().BoolVar(&options.NoFiles, "no-files", false, "do not read the files that a server configuration names, except the issuer file")
	c.Flags().BoolVar(&options.Online, "online", false, "ask each issuer for its discovery document and keys, and each remote log for its tree head")
	return c
}

// asWarning marks a mistake that does not count as one.
func asWarning(err error) error {
	var m config.Mistake
	if errors.As(err, &m) {
		m.Text = "warning: " + m.Text
		return m
	}
	return fmt.Errorf("warning: %w", err)
}
