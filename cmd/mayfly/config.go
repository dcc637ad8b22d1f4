// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Write an issuer file, and check configuration files",
		Example: "  mayfly config init github --org octo-org --file issuers.yaml\n  mayfly config check mayfly.yaml",
	}
	c.AddCommand(configInitCommand(), configCheckCommand())
	return c
}

func configCheckCommand() *cobra.Command {
	var options app.CheckOptions
	var explainDefaults bool
	var form output
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Find every mistake in an issuer file or a server configuration",
		Long: `Read an issuer file, or a server configuration and all files that it names, as mayfly serve
does, and run the tests beside issuers. Each mistake is one line,
FILE:LINE:COLUMN: and a sentence. The exit code is 0 where there is none, 1 where there is
one, and 3 where the file itself cannot be read.

A server configuration is refused exactly where mayfly serve would refuse to start: chains,
keys and their passwords, logs, tokens and the TLS certificate are read. Nothing is written
or locked, so that it runs beside a server. Services, modules and processes that hold keys
are not asked. --no-files reads the configuration and the issuer file only, for a machine
that has no other.

-o json and -o sarif print the same for programs; SARIF 2.1.0 is for code scanning, with
file names relative to the working directory.

--explain-defaults prints the built-in CI providers that the entries use, as the section
ci-issuer-metadata that Fulcio needs; warnings are then on standard error. An entry of the
file replaces a built-in provider of the same name.`,
		Example: "  mayfly config check issuers.yaml\n  mayfly config check --no-files mayfly.yaml\n  mayfly config check --online mayfly.yaml\n" +
			"  mayfly config check --no-files -o sarif mayfly.yaml > mayfly.sarif\n" +
			"  mayfly config check --explain-defaults issuers.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 == (options.File != "") {
				return usageError{errors.New("exactly one file is expected: FILE or --config; see mayfly config check --help")}
			}
			if explainDefaults && form.form != "text" {
				return usageError{errors.New("--explain-defaults prints YAML and excludes -o " + form.form)}
			}
			options.File, options.Environ = cmp.Or(options.File, strings.Join(args, "")), os.Environ()
			report, err := app.Check(c.Context(), options)
			if err != nil {
				return err
			}
			if form.form != "text" {
				checked := newCheckedConfig(report, options.File)
				var result any = checked
				if form.form == "sarif" {
					result = checked.sarif(options.File)
				}
				err = printJSON(c.OutOrStdout(), result)
				if err == nil && len(report.Mistakes) > 0 {
					err = errors.New(report.Summary())
				}
				return err
			}
			out := c.OutOrStdout()
			if explainDefaults {
				out = c.ErrOrStderr()
			}
			for _, mistake := range report.Mistakes {
				_ = paint(out, printable.Lines(mistake)+"\n", colour{`^()(.+?:\d+:\d+:)`, red})
			}
			for _, warning := range report.Warnings {
				_ = paint(out, printable.Lines(asWarning(warning))+"\n", colour{`^()(.+?:\d+:\d+: warning:|warning:)`, yellow})
			}
			if len(report.Mistakes) > 0 {
				return errors.New(report.Summary())
			}
			printable.Fprintf(out, "%s: %s\n", options.File, report.Summary())
			if explainDefaults && report.BuiltIn == "" {
				printable.Fprintf(out, "no entry uses a built-in CI provider\n")
			} else if explainDefaults {
				fmt.Fprint(c.OutOrStdout(), report.BuiltIn)
			}
			return nil
		},
	}
	addConfig(c, &options.File, "the file, as FILE")
	addOutput(c, &form, "sarif")
	c.Flags().BoolVar(&options.Compat, "compat", false, "what Fulcio tolerates in an issuer file is a warning")
	c.Flags().BoolVar(&explainDefaults, "explain-defaults", false, "print the built-in CI providers that the entries use, as ci-issuer-metadata")
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
