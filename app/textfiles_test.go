// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// textFiles are the files of a world that operators write, with the place of each in mayfly.yaml.
var textFiles = map[string]string{"ca/*-a/chain.pem": ":5:", "ca/*-a/key.pem": ":5:", "ca/*-a/pass": ":5:", "log.pub": ":8:", "cert.pem": "TLS", "key.pem": "TLS"}

func worldWithTLS(t *testing.T) *testworld.World {
	t.Helper()
	w := newWorld(t)
	writeTLS(t, w.Dir, 1)
	write(t, w, "mayfly.yaml", string(must(os.ReadFile(w.ConfigFile))(t))+"tls: {certificate: cert.pem, key: key.pem}\n")
	return w
}

func rewrite(t *testing.T, w *testworld.World, pattern string, change func(string) string) {
	t.Helper()
	file := must(filepath.Glob(filepath.Join(w.Dir, pattern)))(t)[0]
	if err := os.WriteFile(file, []byte(change(string(must(os.ReadFile(file))(t)))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A byte order mark, as Windows' editors write it, changes nothing.
func TestByteOrderMarks(t *testing.T) {
	t.Parallel()
	w := worldWithTLS(t)
	for pattern := range textFiles {
		rewrite(t, w, pattern, func(text string) string { return "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n") })
	}
	for _, name := range []string{"mayfly.yaml", "issuers.yaml"} {
		rewrite(t, w, name, func(text string) string { return "\ufeff" + text })
	}
	if _, err := build(t, w); err != nil {
		t.Error(err)
	}
}

// Text that hides a PEM block, and UTF-16, are refused with the file's name and place.
func TestTextThatHidesABlock(t *testing.T) {
	t.Parallel()
	for pattern, place := range textFiles {
		for name, change := range map[string]func(string) string{
			"indented": func(text string) string { return " " + text },
			"UTF-16": func(text string) string {
				out := []byte("\xff\xfe")
				for _, unit := range utf16.Encode([]rune(text)) {
					out = append(out, byte(unit), byte(unit>>8))
				}
				return string(out)
			},
		} {
			if strings.HasSuffix(pattern, "pass") && name == "indented" {
				continue // another password
			}
			t.Run(pattern+" "+name, func(t *testing.T) {
				t.Parallel()
				w := worldWithTLS(t)
				rewrite(t, w, pattern, change)
				want := map[string]string{"indented": "line 1", "UTF-16": "UTF-16"}[name]
				_, err := build(t, w)
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), place) {
					t.Errorf("got error %v, want one that says %q and %q", err, want, place)
				}
			})
		}
	}
}
