// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
)

// Every file that an operator writes is read by the same rules, and a file that breaks them is
// refused at its place: text that hides its content, a pipe that blocks, and a device without an end.
// A byte order mark, as editors of Windows write it, changes nothing.
func TestFilesOfOperators(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withTLS)
	all := map[string]string{"mayfly.yaml": "mayfly.yaml", "issuers.yaml": "issuers.yaml", chainFile: ":5:", caKeyFile: ":5:", caPassword: ":5:", "log.pub": ":8:", "cert.pem": ":9:", "key.pem": ":9:"}
	for pattern, place := range all {
		file := path(w, pattern)
		kept := string(must(os.ReadFile(file))(t))
		put := func(content string) func() error {
			return func() error { return os.WriteFile(file, []byte(content), 0o600) }
		}
		for want, change := range map[string]func() error{
			"":         put("\ufeff" + strings.ReplaceAll(kept, "\n", "\r\n")),
			"line 1":   put(" " + kept),
			"UTF-16":   put("\xff\xfe" + strings.Join(strings.Split(kept, ""), "\x00") + "\x00"),
			"a pipe":   func() error { return syscall.Mkfifo(file, 0o600) },
			"a device": func() error { return os.Symlink("/dev/zero", file) },
		} {
			if want == "line 1" && !strings.HasPrefix(kept, "-----BEGIN") || want == "UTF-16" && strings.HasSuffix(file, ".yaml") {
				continue // not of PEM; a test of package config
			}
			must(0, errors.Join(os.Remove(file), change()))(t)
			report, err := app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile})
			if err == nil {
				err = errors.Join(report.Mistakes...)
			}
			expect(t, pattern, err, want)
			if want != "" && err != nil && !strings.Contains(err.Error(), place) {
				t.Errorf("%s: got error %v, want one at %s", pattern, err, place)
			}
			must(0, errors.Join(os.Remove(file), put(kept)()))(t)
		}
	}
}
