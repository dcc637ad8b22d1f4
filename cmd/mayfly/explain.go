// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func explainCommand() *cobra.Command {
	var options app.ExplainOptions
	var tokenFile, claimsFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain --config FILE (--token FILE|- | --claims FILE|-)",
		Short: "Print what a token would get, or why it gets nothing",
		Long: `Judge an ID token as mayfly serve does, step by step, and show the certificate that it
would get. Nothing is issued, and the token is never printed. The settings are those of an
issuer file or of a server configuration.

With --token the issuer is asked for its keys. With --claims, a JSON object with the claims
of a token, neither times nor a signature are judged. Where a token fails, the rest is
judged as if it had not. The exit code is 0 if a certificate would be issued, and 1 if not.`,
		Example: "  mayfly explain --config issuers.yaml --token token.jwt\n  mayfly explain --config mayfly.yaml --claims claims.json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if options.File == "" || (tokenFile == "") == (claimsFile == "") {
				return usageError{errors.New("--config and either --token or --claims are required; see mayfly explain --help")}
			}
			content, err := readInput(c.InOrStdin(), tokenFile+claimsFile)
			if err != nil {
				return err
			}
			if claimsFile != "" {
				options.Claims = content
			} else if options.Token = string(content); strings.TrimSpace(options.Token) == "" {
				return fmt.Errorf("%s is empty; an ID token is expected", tokenFile)
			}
			options.Environ = os.Environ()
			x, err := app.Explain(c.Context(), options)
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(c.OutOrStdout()).Encode(x)
			} else {
				err = printExplanation(c.OutOrStdout(), x)
			}
			if err == nil && x.Reason != "" {
				err = fmt.Errorf("no certificate: %s (%s)", x.Message, x.Reason)
			}
			return err
		},
	}
	c.Flags().StringVar(&options.File, "config", "", "an issuer file or a server configuration (required)")
	c.Flags().StringVar(&tokenFile, "token", "", "the file with the ID token, - for standard input")
	c.Flags().StringVar(&claimsFile, "claims", "", "a file with claims, JSON, - for standard input")
	c.Flags().BoolVar(&options.Compat, "compat", false, "read an issuer file as config check --compat does")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printExplanation(out io.Writer, x *app.Explanation) error {
	w := newTable(out)
	for _, step := range x.Steps {
		result := "pass"
		if !step.OK {
			result = "FAIL"
		}
		w.row(step.Name, result, step.Text)
		if step.Cause != "" {
			w.row("", "", step.Cause)
		}
	}
	if x.Unproven {
		fmt.Fprintln(w, "(times)\t\tnot judged: claims alone are given\n(signature)\t\tnot judged")
	}
	if c := x.Certificate; c != nil {
		if x.Reason == "" {
			printable.Fprintf(w, "\nThe certificate, for whoever proves a key by signing the claim %s:\n", c.Challenge)
		} else {
			fmt.Fprintln(w, "\nThe certificate that is refused:")
		}
		w.row("SAN", c.SAN)
		for _, extension := range c.Extensions {
			w.row(extension.Name, extension.Value)
		}
	}
	return w.Flush()
}
