// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the mistakes in testdata/mistakes, and docs/configuration.md")

// TestMistakes reads the files of each archive in testdata/mistakes, and compares their mistakes with
// those that follow each file. -update writes them: check that each is at the place that its author
// must change, and names the key.
func TestMistakes(t *testing.T) {
	t.Parallel()
	ceremony := func(content []byte) error {
		path := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadCeremony(path)
		return err
	}
	for archive, parse := range map[string]func([]byte) error{
		"server":       func(c []byte) error { _, _, err := ParseServer("m", c, nil); return err },
		"issuers":      func(c []byte) error { _, _, err := ParseIssuers("m", c, false, nil); return err },
		"issuers-json": func(c []byte) error { _, _, err := ParseIssuers("m", c, false, nil); return err },
		"caset":        func(c []byte) error { _, _, err := ParseCASet("m", c); return err },
		"signer":       func(c []byte) error { _, err := ParseSigner("m", c, "dir"); return err },
		"ceremony":     ceremony,
	} {
		path := "testdata/mistakes/" + archive + ".txtar"
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, f := range a.Files {
			want[f.Name] = string(f.Data)
		}
		a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { return strings.HasSuffix(f.Name, ", mistakes") })
		var written []txtar.File
		for _, f := range a.Files {
			got := ""
			if err := parse(f.Data); err == nil {
				t.Errorf("%s, %s: no mistake", archive, f.Name)
			} else {
				got = err.Error() + "\n"
				if i := strings.LastIndex(got, string(filepath.Separator)+"m:"); archive == "ceremony" && i >= 0 {
					lines := strings.Split(got, "\n")
					for i, line := range lines {
						lines[i] = line[strings.LastIndex(line, string(filepath.Separator)+"m:")+1:]
					}
					got = strings.Join(lines, "\n")
				}
			}
			if diff := cmp.Diff(want[f.Name+", mistakes"], got); diff != "" && !*update {
				t.Errorf("%s, %s (-want +got):\n%s", archive, f.Name, diff)
			}
			written = append(written, f, txtar.File{Name: f.Name + ", mistakes", Data: []byte(got)})
		}
		if *update {
			if err := os.WriteFile(path, bytes.TrimLeft(txtar.Format(&txtar.Archive{Files: written}), "\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
