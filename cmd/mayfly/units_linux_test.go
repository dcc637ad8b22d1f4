// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// systemdAnalyze returns the path of systemd-analyze, and skips the test where it is absent.
func systemdAnalyze(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed, so the units are not judged")
	}
	return path
}

// TestUnitsAreConfined requires an exposure of at most 1.5, of 10, by systemd's own measure.
func TestUnitsAreConfined(t *testing.T) {
	t.Parallel()
	analyze := systemdAnalyze(t)
	units, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("found %q, %v; expected two services", units, err)
	}
	for _, unit := range units {
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15", "--no-pager", unit).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Overall exposure level") {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// TestUnitsAreValid requires that systemd knows each setting of the units.
func TestUnitsAreValid(t *testing.T) {
	t.Parallel()
	analyze := systemdAnalyze(t)
	units, err := filepath.Glob("../../deploy/systemd/*.s*")
	if err != nil || len(units) != 5 {
		t.Fatalf("found %q, %v; expected five units", units, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, arguments := t.TempDir(), []string{"verify", "--man=no"}
	for _, unit := range units {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed on this machine.
		content = []byte(strings.ReplaceAll(string(content), "ExecStart=/usr/bin/mayfly", "ExecStart="+self))
		path := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, path)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, arguments...).CombinedOutput(); err != nil || strings.Contains(string(out), dir) {
		t.Errorf("%v\n%s", err, out)
	}
}
