// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// TestManual writes a man page for each command, and the completions of shells, into the folders man and
// completions of $MAYFLY_MANUAL; "make man" names one. The generator is a library of this test, so that the binary
// does not contain it.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := cmp.Or(os.Getenv("MAYFLY_MANUAL"), t.TempDir())
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	for _, folder := range []string{man, completions} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := newRoot(stdio{})
	root.DisableAutoGenTag = true
	plain(root)
	header := &doc.GenManHeader{Section: "1", Source: "mayfly", Manual: "mayfly"}
	if os.Getenv("SOURCE_DATE_EPOCH") == "" {
		header.Date = new(time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC))
	}
	if err := doc.GenManTree(root, header, man); err != nil {
		t.Fatal(err)
	}
	pages := checkPages(t, newRoot(stdio{}), man)
	if written, err := os.ReadDir(man); err != nil || len(written) != pages || pages < 30 {
		t.Errorf("%d commands have pages, and the folder has %d files, %v", pages, len(written), err)
	}
	for file, shell := range map[string]string{"mayfly.bash": "bash", "_mayfly": "zsh", "mayfly.fish": "fish"} {
		path := filepath.Join(completions, file)
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if code := run(t.Context(), []string{"completion", shell}, stdio{out: out, err: t.Output()}); code != 0 {
			t.Errorf("mayfly completion %s: exit code %d", shell, code)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "__complete") {
			t.Errorf("%s completes nothing: %v", file, err)
		}
		if _, err := exec.LookPath(shell); err == nil {
			if message, err := exec.CommandContext(t.Context(), shell, "-n", path).CombinedOutput(); err != nil {
				t.Errorf("%s -n %s: %v, %s", shell, file, err, message)
			}
		}
	}
}

// plain escapes what the generator would read as Markdown: help texts are plain. Lines with an indentation keep
// their form.
func plain(c *cobra.Command) {
	special := regexp.MustCompile("[\\\\`*_<>\\[\\]#|&~]")
	escape := func(text string) string {
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if !strings.HasPrefix(line, "    ") {
				lines[i] = special.ReplaceAllString(strings.TrimLeft(line, " "), `\$0`)
			}
		}
		return strings.Join(lines, "\n")
	}
	c.Long, c.Short = escape(c.Long), escape(c.Short)
	c.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = escape(strings.ReplaceAll(f.Usage, "`", "")) })
	for _, sub := range c.Commands() {
		plain(sub)
	}
}

// checkPages requires for c and each command below it a page that groff, if there is one, formats without a
// warning, and that has the command's name, flags and example. It returns their number.
func checkPages(t *testing.T, c *cobra.Command, dir string) (pages int) {
	t.Helper()
	name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
	page, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	text := strings.NewReplacer(`\-`, "-", `\&`, "", `\fB`, "", `\fP`, "", `\[rs]`, `\`, `\e`, `\`).Replace(string(page))
	expected := append(strings.Split(c.Example, "\n"), c.CommandPath())
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			expected = append(expected, "--"+f.Name)
		}
	})
	for _, want := range expected {
		if !strings.Contains(text, strings.TrimSpace(want)) {
			t.Errorf("%s does not have %q", name, want)
		}
	}
	if groff, err := exec.LookPath("groff"); err == nil {
		// Long lines of examples are neither broken nor adjusted, which is no fault.
		out, err := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-Kutf8", "-ww", "-Wbreak", "-z", filepath.Join(dir, name)).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("groff %s: %v, %s", name, err, out)
		}
	}
	pages = 1
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
			pages += checkPages(t, sub, dir)
		}
	}
	return pages
}
