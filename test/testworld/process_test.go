// SPDX-License-Identifier: Apache-2.0

package testworld

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExecutable(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(here, "..", "..")
	for path, expected := range map[string]string{
		"process.go":                       filepath.Join(here, "process.go"),
		"go.mod":                           filepath.Join(root, "go.mod"),
		filepath.Join(root, "go.mod"):      filepath.Join(root, "go.mod"),
		"absent":                           "",
		"test":                             "",
		filepath.Join(here, "also-absent"): "",
	} {
		found, err := Executable("PEER", path)
		if found != expected || (err == nil) != (expected != "") {
			t.Errorf("%s: %q, %v; %q is expected", path, found, err, expected)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "PEER names ") || !strings.Contains(err.Error(), filepath.Base(path))) {
			t.Errorf("%s: the error does not name the variable and the file: %v", path, err)
		}
	}
}
