// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The help of every command shows an example that names the command, and only flags that it has.
func TestHelpShowsAnExample(t *testing.T) {
	t.Parallel()
	files, err := help.ReadDir("help")
	if err != nil {
		t.Fatal(err)
	}
	unused := map[string]bool{}
	for _, file := range files {
		unused[file.Name()] = true
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(line)
			if i := slices.Index(words, "|"); i >= 0 {
				words = words[:i]
			}
			for _, word := range words {
				if name, isFlag := strings.CutPrefix(word, "--"); isFlag && !c.HasSubCommands() && c.Flag(strings.TrimRight(name, ")")) == nil {
					t.Errorf("%s has no flag %s, which its example shows", c.CommandPath(), word)
				}
			}
		}
		for _, name := range strings.Fields(c.Annotations[required]) {
			if flag := c.Flag(name); flag == nil || !strings.Contains(flag.Usage, "(required)") {
				t.Errorf("%s: --%s is required, and its usage does not state that", c.CommandPath(), name)
			}
		}
		delete(unused, strings.ReplaceAll(c.CommandPath(), " ", "-")+".txt")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				walk(sub)
			}
		}
	}
	walk(newRoot(stdio{}))
	for name := range unused {
		t.Errorf("help/%s is of no command", name)
	}
}

// A signal cancels the context: the message states that, and not how far the command was.
func TestStoppedBySignal(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var stderr strings.Builder
	code := run(ctx, []string{"ctlog", "search", "--url", "http://127.0.0.1:1"}, stdio{out: io.Discard, err: &stderr})
	if code != 3 || stderr.String() != "mayfly: stopped by a signal\n" {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}
