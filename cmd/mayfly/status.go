// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/server"
)

func statusCommand() *cobra.Command {
	var base string
	var out output
	c := &cobra.Command{
		Use:   "status",
		Short: "Print the state of a running server, what is wrong first",
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := fetch(c.Context(), base, "/status", nil, "name the ops listener of a server of this release (listen.ops) with --url")
			var state server.State
			if err == nil {
				err = json.Unmarshal(body, &state)
			}
			if err == nil && state.Version != server.StateVersion {
				err = fmt.Errorf("%s answers with version %d of the state, and this mayfly reads version %d: use the mayfly of that server", base, state.Version, server.StateVersion)
			}
			if err != nil {
				return coded{err, 3}
			}
			if out.json() {
				err = printJSON(c.OutOrStdout(), json.RawMessage(body))
			} else {
				err = paint(c.OutOrStdout(), describeState(base, state), colour{`^(.*: )(ready)`, green}, colour{`^(.*: )(NOT READY)`, red},
					colour{`^(.*?  )(ok|closed)\b`, green}, colour{`^(.*?  )(failed|open|half-open|failing|expired)\b`, red}, colour{`^(.*?  )(degraded|pending)\b`, yellow})
			}
			if err == nil && state.Status != "SERVING" {
				err = errors.New("the server is not ready")
			}
			return err
		},
	}
	c.Flags().StringVar(&base, "url", "http://127.0.0.1:2112", "the server's ops listener")
	addOutput(c, &out)
	return c
}

// maxRows is how many components of a kind are shown to a person.
const maxRows = 20

// describeState returns the state for a person: first what is wrong, then everything.
func describeState(base string, s server.State) string {
	var b strings.Builder
	ready := "ready"
	if s.Status != "SERVING" {
		ready = "NOT READY"
	}
	printable.Fprintf(&b, "mayfly %s at %s, started %s: %s since %s (%s)\n", s.Release, base, printable.Relative(s.Started, s.At), ready,
		s.Since.Format(time.RFC3339), printable.Relative(s.Since, s.At))
	for _, critical := range []bool{true, false} {
		for _, c := range s.Checks {
			if c.Failed() && c.Critical == critical {
				printable.Fprintf(&b, "\n%s fails since %s (%s)\n", c.Name, c.Since.Format(time.RFC3339), printable.Relative(c.Since, s.At))
				lines := strings.Split(c.Error, "\n")
				for _, line := range lines[:min(len(lines), maxRows/2)] {
					printable.Fprintf(&b, "  %s\n", line)
				}
				printable.Fprintf(&b, "  runbook: %s\n", c.Runbook)
			}
		}
	}
	if s.RestartPending {
		b.WriteString("\nThe configuration file has changed: the changes take effect at a restart.\n  runbook: docs/operations.md#a-change-is-not-in-force\n")
	}
	if s.KernelClock == "unsynchronised" {
		b.WriteString("\nThe kernel states that nothing synchronises the clock of that machine.\n  runbook: docs/operations.md#the-clock-is-wrong\n")
	}
	describeComponents(&b, s)
	printable.Fprintf(&b, "\n%d of the issuer entries are listed; all by state: %s\n", min(len(s.Issuers), maxRows), strings.TrimPrefix(fmt.Sprint(s.IssuerStates), "map"))
	printable.Fprintf(&b, "generation of the issuers: %d, of the CA set: %d\n", s.ConfigGeneration, s.SetGeneration)
	for _, l := range s.Limits {
		printable.Fprintf(&b, "%s: %d of %d in use\n", l.Name, l.InUse, l.Limit)
	}
	return b.String()
}

// describeComponents writes the tables of a state.
func describeComponents(b *strings.Builder, s server.State) {
	w := newTable(b)
	row := func(name, state, detail string, h server.History) {
		since, last := "the start", "-"
		if !h.Since.IsZero() && !h.Since.Equal(s.Started) {
			since = printable.Relative(h.Since, s.At)
		}
		if h.LastError != "" {
			last = printable.Relative(h.LastErrorAt, s.At) + ": " + short(h.LastError)
		}
		w.row(name, state, since, detail, last)
	}
	title := func(name string) {
		fmt.Fprintln(w)
		w.row(name, "STATE", "SINCE", "", "LAST ERROR")
	}
	title("CHECK")
	for _, c := range s.Checks {
		row(c.Name, c.State, "", c.History)
	}
	for _, kind := range []struct {
		title string
		list  []server.Component
	}{{"AUTHORITY", s.Authorities}, {"KEY", s.Keys}, {"LOG", s.Logs}, {"ISSUER", s.Issuers}} {
		title(kind.title)
		for _, c := range kind.list[:min(len(kind.list), maxRows)] {
			detail := c.Kind
			if !c.LastSuccess.IsZero() {
				detail += ", last success " + printable.Relative(c.LastSuccess, s.At)
			}
			if !c.ChainEnds.IsZero() {
				detail = "chain ends " + printable.Relative(c.ChainEnds, s.At)
			}
			row(c.Name, c.State, detail, c.History)
		}
	}
	_ = w.Flush() // a strings.Builder never fails
}

// short returns the beginning of the first line of a text.
func short(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if runes := []rune(text); len(runes) > 80 {
		return string(runes[:80]) + "…"
	}
	return text
}
