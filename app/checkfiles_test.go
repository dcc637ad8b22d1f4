// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
)

// TestModeWarningPointsToItsKey: with ca.file, a file that every user can read is reported at the
// line and column of the key that names it. A file as Kubernetes mounts it is not reported.
func TestModeWarningPointsToItsKey(t *testing.T) {
	t.Parallel()
	for mode, warned := range map[os.FileMode]bool{0o640: false, 0o440: false, 0o644: true} {
		w := newWorld(t)
		for _, name := range []string{"key.pem", "pass"} {
			if err := os.Chmod(must(filepath.Glob(filepath.Join(w.Dir, "ca", "*-a", name)))(t)[0], mode); err != nil {
				t.Fatal(err)
			}
		}
		line := strings.Split(string(must(os.ReadFile(w.ConfigFile))(t)), "\n")[4]
		var log bytes.Buffer
		edit(t, w, "mayfly.yaml", "level: error", "level: warn")
		built, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile, LogOutput: &log})
		if err != nil {
			t.Fatal(err)
		}
		if err := built.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, key := range []string{"key", "password_file"} {
			want := fmt.Sprintf("mayfly.yaml:5:%d: ", strings.Index(line, key+": ")+len(key)+3)
			if got := strings.Contains(log.String(), want); got != warned {
				t.Errorf("mode %04o: warned at %q: %v, want %v:\n%s", mode, want, got, warned, &log)
			}
		}
	}
}
