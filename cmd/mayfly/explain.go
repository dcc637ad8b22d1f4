// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func explainCommand() *cobra.Command {
	var options app.ExplainOptions
	var token tokenFlags
	var claimsFile string
	var out output
	c := &cobra.Command{
		Use:   "explain",
		Short: "Print what a token would get, or why it gets nothing",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			switch {
			case claimsFile == "":
				options.Token, err = token.read(c)
			case !token.given():
				options.Claims, err = readInput(c.InOrStdin(), claimsFile)
			}
			switch {
			case err != nil:
				return err
			case len(options.Claims) == 0 && options.Token == "":
				return usageError{errors.New("exactly one of --token-file (or SIGSTORE_ID_TOKEN) and --claims is required; see mayfly explain --help")}
			case isToken(string(options.Claims)):
				return usageError{errors.New("--claims: found an ID token, expected a JSON object with claims; give a token as --token-file")}
			case strings.HasPrefix(options.Token, "{"):
				return usageError{errors.New("--token-file: found a JSON object, expected an ID token; give claims as --claims")}
			}
			options.Environ = os.Environ()
			x, err := app.Explain(c.Context(), options)
			if err != nil {
				return err
			}
			if out.json() {
				err = json.NewEncoder(c.OutOrStdout()).Encode(x)
			} else {
				var text strings.Builder
				err = errors.Join(printExplanation(&text, x), paint(c.OutOrStdout(), text.String(),
					colour{`^([a-z ]+  +)(pass)\b`, green}, colour{`^([a-z ]+  +)(FAIL)\b`, red}))
			}
			if err == nil && x.Reason != "" {
				err = fmt.Errorf("no certificate: %s (%s)", x.Message, x.Reason)
			}
			if x.Reason == string(refusal.IssuerUnreachable) {
				err = coded{err, 3}
			}
			return err
		},
	}
	addConfig(c, &options.File, "an issuer file or a server configuration (required)")
	token.add(c)
	c.Flags().StringVar(&claimsFile, "claims", "", "a file with claims, JSON, - for standard input")
	c.Flags().BoolVar(&options.Compat, "compat", false, "read an issuer file as config check --compat does")
	addOutput(c, &out)
	require(c, "config")
	return c
}

func printExplanation(out io.Writer, x *app.Explanation) error {
	w := newTable(out)
	for _, name := range slices.Sorted(maps.Keys(x.Assumed)) {
		w.row("("+name+")", "assumed", fmt.Sprintf("the claims have no %s; assumed is %q, as for a test beside the entry", name, x.Assumed[name]))
	}
	for _, step := range x.Steps {
		result := "pass"
		if !step.OK {
			result = "FAIL"
		}
		w.row(step.Name, result, step.Text)
		if step.Cause != "" && (step.Name != "policy" || len(x.Rules) == 0) { // the rules show it too
			w.row("", "", step.Cause)
		}
		if step.Name != "policy" {
			continue
		}
		for _, rule := range x.Rules {
			w.row("", "", fmt.Sprintf("rule %q:", rule.Name))
			for _, part := range rule.Parts {
				w.row("", "", "  "+part.String())
			}
		}
	}
	if x.Unproven {
		fmt.Fprintln(w, "(times)\t\tnot judged: claims alone are given\n(signature)\t\tnot judged")
	}
	if c := x.Certificate; c != nil {
		if x.Reason == "" {
			printable.Fprintf(w, "\nThe certificate, for a client that proves its key by signing the claim %s:\n", c.Challenge)
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
