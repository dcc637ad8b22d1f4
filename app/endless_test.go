// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
)

// A pipe without a writer would block the process, and a device may have no end. Each is refused at
// once, in the place of each file that a server reads.
func TestEndlessFiles(t *testing.T) {
	t.Parallel()
	w := worldWithTLS(t)
	config := string(must(os.ReadFile(w.ConfigFile))(t))
	before, _, _ := strings.Cut(config, "ca:\n")
	_, after, _ := strings.Cut(config, "ct:\n")
	begin := time.Now()
	for _, pattern := range []string{"mayfly.yaml", "issuers.yaml", "ca/ca.yaml", "ca/*-a/chain.pem", "ca/*-a/key.pem", "ca/*-a/pass", "log.pub", "cert.pem", "key.pem"} {
		if pattern == "ca/ca.yaml" {
			write(t, w, "mayfly.yaml", before+"ca: {set: ca/ca.yaml}\nct:\n"+after)
		}
		path := must(filepath.Glob(filepath.Join(w.Dir, pattern)))(t)[0]
		if err := os.Rename(path, path+".kept"); err != nil {
			t.Fatal(err)
		}
		for want, put := range map[string]func() error{
			"is a pipe":   func() error { return syscall.Mkfifo(path, 0o600) },
			"is a device": func() error { return os.Symlink("/dev/zero", path) },
		} {
			if err := put(); err != nil {
				t.Fatal(err)
			}
			report, err := app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile})
			if err == nil {
				err = errors.Join(report.Mistakes...)
			}
			if err == nil || !strings.Contains(err.Error(), path+" "+want) {
				t.Errorf("%s: got error %v, want one with %q", pattern, err, want)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(path+".kept", path); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the checks took %s", took)
	}
}
