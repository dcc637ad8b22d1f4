// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"net/url"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
)

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

// sarif returns the result for code review, as SARIF 2.1.0 (OASIS). A problem without a line, such as
// one of an environment variable, is at the begin of the checked file, as each result must have a
// place.
func (c checkedConfig) sarif(file string) any {
	type object = map[string]any
	text := func(text string) object { return object{"text": text} }
	rule := func(id, short, full string) object {
		return object{
			"id": id, "shortDescription": text(short), "fullDescription": text(full),
			"help": text("docs/configuration.md of mayfly describes each key."),
		}
	}
	results := []object{}
	for _, p := range c.Problems {
		if p.Line == 0 && p.File != file {
			p.File, p.Message = file, p.File+": "+p.Message
		}
		line, column := max(p.Line, 1), max(p.Column, 1)
		results = append(results, object{
			"ruleId": "config-" + p.Severity, "level": p.Severity, "message": text(p.Message),
			"locations": []object{{"physicalLocation": object{
				"artifactLocation": object{"uri": artifact(p.File)},
				"region":           object{"startLine": line, "startColumn": column, "endLine": line, "endColumn": column + 1},
			}}},
		})
	}
	driver := object{"name": "mayfly", "informationUri": "https://github.com/mayfly-ca/mayfly", "version": version(), "rules": []object{
		rule("config-error", "Mistake in the configuration", "mayfly serve refuses this configuration."),
		rule("config-warning", "Warning about the configuration", "mayfly serve accepts this configuration with a warning."),
	}}
	return object{
		"$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json", "version": "2.1.0",
		"runs": []object{{"tool": object{"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}},
	}
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
