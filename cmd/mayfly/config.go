// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Write an issuer file, and check and show configuration files",
		Example: "  mayfly config init github --org octo-org --file issuers.yaml\n  mayfly config check mayfly.yaml",
	}
	c.AddCommand(configInitCommand(), configCheckCommand(), configShowCommand())
	return c
}

func configCheckCommand() *cobra.Command {
	var options app.CheckOptions
	var explainDefaults bool
	var form output
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Find every mistake in an issuer file or a server configuration",
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
			return printCheck(c, report, options.File, form.form, explainDefaults)
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

// printCheck prints the report in a form. It returns an error if there are mistakes.
func printCheck(c *cobra.Command, report *app.CheckReport, file, form string, explainDefaults bool) (err error) {
	out := c.OutOrStdout()
	if explainDefaults {
		out = c.ErrOrStderr()
	}
	checked := newCheckedConfig(report, file)
	switch form {
	case "json":
		err = printJSON(out, checked)
	case "sarif":
		err = printJSON(out, checked.sarif(file))
	default:
		for _, mistake := range report.Mistakes {
			_ = paint(out, printable.Lines(mistake)+"\n", colour{`^()(.+?:\d+:\d+:)`, red})
		}
		for _, warning := range report.Warnings {
			_ = paint(out, printable.Lines(asWarning(warning))+"\n", colour{`^()(.+?:\d+:\d+: warning:|warning:)`, yellow})
		}
		if len(report.Mistakes) == 0 {
			_, err = printable.Fprintf(out, "%s: %s\n", file, report.Summary())
		}
	}
	switch {
	case err != nil:
		return err
	case len(report.Mistakes) > 0:
		return errors.New(report.Summary())
	case explainDefaults && report.BuiltIn == "":
		_, err = printable.Fprintf(out, "no entry uses a built-in CI provider\n")
	case explainDefaults:
		_, err = fmt.Fprint(c.OutOrStdout(), report.BuiltIn)
	}
	return err
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

// checkedConfig is the result of mayfly config check. Its JSON keys are stable.
type checkedConfig struct {
	Problems []problem    `json:"problems"`
	Summary  checkSummary `json:"summary"`
}

// checkSummary counts what was found and checked.
type checkSummary struct {
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	app.CheckCounts
}

// problem is a mistake or a warning. Line and Column are 0 for one without a line; Key is empty for
// one that is not about the value of a key.
type problem struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity string   `json:"severity"` // error or warning
	Message  string   `json:"message"`
	Key      []string `json:"key"`
}

// newCheckedConfig returns the result for a program; file is the file that was checked.
func newCheckedConfig(report *app.CheckReport, file string) checkedConfig {
	c := checkedConfig{[]problem{}, checkSummary{len(report.Mistakes), len(report.Warnings), report.CheckCounts}}
	for i, err := range append(report.Mistakes, report.Warnings...) {
		p := problem{File: file, Severity: "error", Message: err.Error(), Key: []string{}}
		if i >= len(report.Mistakes) {
			p.Severity = "warning"
		}
		if m := (config.Mistake{}); errors.As(err, &m) {
			p.File, p.Line, p.Column, p.Message, p.Key = m.File, m.Line, m.Column, m.Text, m.Path()
		}
		c.Problems = append(c.Problems, p)
	}
	return c
}

// sarifFrame is a SARIF file without results.
//
//go:embed sarif.json
var sarifFrame []byte

// sarif returns the result for code review, as SARIF 2.1.0 (OASIS). A problem without a line, such as
// one of an environment variable, is at the begin of the checked file, as each result must have a
// place.
func (c checkedConfig) sarif(file string) any {
	type object = map[string]any
	results := []object{}
	for _, p := range c.Problems {
		if p.Line == 0 && p.File != file {
			p.File, p.Message = file, p.File+": "+p.Message
		}
		line, column := max(p.Line, 1), max(p.Column, 1)
		results = append(results, object{
			"ruleId": "config-" + p.Severity, "level": p.Severity, "message": object{"text": p.Message},
			"locations": []object{{"physicalLocation": object{
				"artifactLocation": object{"uri": artifact(p.File)},
				"region":           object{"startLine": line, "startColumn": column, "endLine": line, "endColumn": column + 1},
			}}},
		})
	}
	var run object
	_ = json.Unmarshal(sarifFrame, &run) // the transcripts would fail
	run["results"] = results
	run["tool"].(object)["driver"].(object)["version"] = version()
	const schema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	return object{"$schema": schema, "version": "2.1.0", "runs": []object{run}}
}

// artifact returns the URI of a file, relative to the working directory if it is below it.
func artifact(file string) string {
	absolute, err := filepath.Abs(file)
	here, errHere := filepath.Abs(".")
	if relative, errRelative := filepath.Rel(here, absolute); cmp.Or(err, errHere, errRelative) == nil && filepath.IsLocal(relative) {
		return (&url.URL{Path: filepath.ToSlash(relative)}).String()
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(absolute)}).String()
}
