// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
)

// breakage is one mistake in config/issuers.yaml with the built-in ci-issuer-metadata appended, which
// has the same content as the peer's public identity file: the replacement of a line, and a part of the mistake that is reported at a line.
type breakage struct {
	line, at      int
	want, instead string
}

func breakages(t *testing.T) (all []breakage) {
	t.Helper()
	_, text, _ := strings.Cut(string(must(os.ReadFile("testdata/mistakes.txt"))(t)), "\n\n")
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n\n") {
		first, instead, _ := strings.Cut(block, "\n")
		place, want, _ := strings.Cut(first, " ")
		b := breakage{want: want, instead: instead}
		if n, _ := fmt.Sscanf(place, "%d@%d", &b.line, &b.at); n == 1 {
			b.at = b.line
		}
		all = append(all, b)
	}
	if len(all) < 60 {
		t.Fatalf("there are %d variants only", len(all))
	}
	return all
}

// publicIssuers is config/issuers.yaml, with the metadata that Fulcio needs.
func publicIssuers(t *testing.T) string {
	t.Helper()
	return string(must(os.ReadFile("../config/issuers.yaml"))(t)) + string(must(os.ReadFile("../identity/ciproviders.yaml"))(t))
}

// checkBroken checks the issuer file with mistakes.
func checkBroken(t *testing.T, all ...breakage) []error {
	t.Helper()
	lines := strings.Split(publicIssuers(t), "\n")
	for _, b := range all {
		lines[b.line-1] = b.instead
	}
	file := filepath.Join(t.TempDir(), "issuers.yaml")
	must(0, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))(t)
	return must(app.Check(t.Context(), app.CheckOptions{File: file}))(t).Mistakes
}

// found requires that b is reported among mistakes.
func (b breakage) found(t *testing.T, mistakes []error) {
	t.Helper()
	if !slices.ContainsFunc(mistakes, func(mistake error) bool {
		var m config.Mistake
		return errors.As(mistake, &m) && m.Line == b.at && strings.Contains(m.Text, b.want)
	}) {
		t.Errorf("line %d, %q: no mistake with %q at line %d:\n%v", b.line, b.instead, b.want, b.at, errors.Join(mistakes...))
	}
}

// Each broken variant is refused with the line at fault, and most with no other mistake.
func TestBrokenVariants(t *testing.T) {
	t.Parallel()
	alone, all := 0, breakages(t)
	for _, b := range all {
		mistakes := checkBroken(t, b)
		b.found(t, mistakes)
		if len(mistakes) == 1 {
			alone++
		}
	}
	if alone < len(all)*8/10 {
		t.Errorf("only %d of %d variants have one mistake for one mistake", alone, len(all))
	}
}

// Mistakes of the file's form and of its settings are reported together, in the order of the file and
// each with its place.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	together := slices.DeleteFunc(breakages(t), func(b breakage) bool {
		return strings.Contains(b.instead, "\n") || !slices.ContainsFunc([]string{"tpye", `issuer-claim: $.a[*]`, "ci-provider: github", `client-id: null`, "nofunction", `unknown key "nam"`},
			func(one string) bool { return strings.Contains(b.instead+b.want, one) })
	})
	mistakes := checkBroken(t, together...)
	if len(together) < 6 || len(mistakes) != len(together) {
		t.Errorf("%d mistakes told for %d:\n%v", len(mistakes), len(together), errors.Join(mistakes...))
	}
	for _, b := range together {
		b.found(t, mistakes)
	}
	last := 0
	for _, mistake := range mistakes {
		var m config.Mistake
		if !errors.As(mistake, &m) || m.Line < last || m.Column == 0 || !strings.HasPrefix(m.Error(), fmt.Sprintf("%s:%d:%d: ", m.File, m.Line, m.Column)) {
			t.Errorf("out of order, or without its place: %v", mistake)
		}
		last = m.Line
	}
}

func TestThePublicIssuersHaveNoMistake(t *testing.T) {
	t.Parallel()
	appended := filepath.Join(t.TempDir(), "issuers.yaml")
	must(0, os.WriteFile(appended, []byte(publicIssuers(t)), 0o600))(t)
	for file, compat := range map[string]bool{"../config/issuers.yaml": false, appended: true} {
		report, err := app.Check(t.Context(), app.CheckOptions{File: file, Compat: compat})
		if err != nil || len(report.Mistakes) > 0 || report.Entries != 20 || len(report.Warnings) != 18 {
			t.Errorf("%+v, %v", report, err)
		}
		for _, warning := range report.Warnings { // all but the two for people are for everyone
			if !strings.Contains(warning.Error(), ": every caller of ") {
				t.Error(warning)
			}
		}
	}
}
