// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// Each script is described in the documents, is run by a test, prints its help, and refuses what it does not know.
func TestEachRunbook(t *testing.T) {
	t.Parallel()
	m := &machine{t: t, dir: t.TempDir()}
	var tests, documents strings.Builder
	for pattern, into := range map[string]*strings.Builder{"*_test.go": &tests, "../../docs/*.md": &documents} {
		for _, file := range must(filepath.Glob(pattern))(t) {
			into.Write(must(os.ReadFile(file))(t))
		}
	}
	scripts := must(filepath.Glob("../../deploy/runbooks/*.sh"))(t)
	if len(scripts) < 12 {
		t.Fatalf("found %s", scripts)
	}
	for _, script := range scripts {
		name := filepath.Base(script)
		if name == "lib.sh" {
			continue
		}
		if info := must(os.Stat(script))(t); info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be executed", name)
		}
		if !strings.Contains(tests.String(), `, "`+name+`"`) || !regexp.MustCompile("[`/]"+name).MatchString(documents.String()) {
			t.Errorf("%s has no test, or no document names it", name)
		}
		help := m.runbook(0, name, "-h")
		if !strings.Contains(help, name+" ") || strings.Contains(help, "lib.sh") {
			t.Errorf("the help of %s is:\n%s", name, help)
		}
		for _, args := range [][]string{{"-Z"}, {}, {"-c"}, {"-c", "mayfly.yaml", "too", "many", "arguments"}} {
			m.runbook(2, name, args...)
		}
	}
}

// A backup has each file that a configuration can name.
func TestBackupHasEachFile(t *testing.T) {
	t.Parallel()
	script := string(must(os.ReadFile("../../deploy/runbooks/backup.sh"))(t))
	elsewhere := map[string]string{
		"ca.set": "ca.set", "audit.dir": "audit.dir", "ct.logs.*.embedded.dir": "ctlog copy", "ct.logs.*.embedded.guard": "embedded.guard",
		"ca.signer_socket": "ca.signer_socket", // of another process
		// Of the cluster, which gives new ones.
		"oidc.kubernetes.ca_file": "", "oidc.kubernetes.token_file": "",
	}
	patterns := regexp.MustCompile(`[a-z][a-z_]+(\.[a-z_*]+)*`).FindAllString(script, -1) // of the command case, too
	keys := 0
	var walk func(above string, of reflect.Type)
	walk = func(above string, of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		for i := range of.NumField() {
			f := of.Field(i)
			key := strings.TrimPrefix(above+"."+f.Tag.Get("key"), ".")
			next := f.Type
			if next.Kind() == reflect.Pointer || next.Kind() == reflect.Slice {
				next = next.Elem()
			}
			switch {
			case f.Tag.Get("key") == "":
				if f.Anonymous && next.Kind() == reflect.Struct {
					walk(above, f.Type)
				}
			case f.Tag.Get("kind") == "path":
				part, known := elsewhere[key]
				keys++
				if !known && !slices.ContainsFunc(patterns, func(pattern string) bool {
					matched, _ := path.Match(pattern, strings.ReplaceAll(key, "*", "0"))
					return matched
				}) || !strings.Contains(script, part) {
					t.Errorf("backup.sh does not copy what %s names", key)
				}
			case next.Kind() == reflect.Struct:
				if f.Type.Kind() == reflect.Slice {
					key += ".*"
				}
				walk(key, f.Type)
			}
		}
	}
	walk("", reflect.TypeFor[config.Server]())
	if keys < 15 {
		t.Errorf("found %d keys of files", keys)
	}
}

// The checks before production: a server that is ready for it, and one that lacks everything.
func TestPreflight(t *testing.T) {
	t.Parallel()
	m := newMachine(t, `trusted_proxies: [10.0.0.0/8]
shutdown: {grace: 1s}
rate_limits: [{name: all, by: issuer, rate: 100/s, burst: 1000}]
`)
	m.addLog("2026b")
	m.mayfly("ctlog", "init", "--config", m.path("mayfly.yaml"), "--name", "2026b")
	m.start()
	m.ready()
	kept := filepath.Join(t.TempDir(), "backup")
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), kept)
	if err := os.Rename(m.path("ca", "root"), filepath.Join(t.TempDir(), "offline")); err != nil {
		t.Fatal(err)
	}
	out := m.runbook(1, "preflight.sh", "-c", m.path("mayfly.yaml"), "-b", kept, "-p", fmt.Sprint(m.server.Cmd.Process.Pid))
	lines := map[string]bool{}
	for line := range strings.Lines(out) {
		if passed := strings.HasPrefix(line, "ok "); passed || strings.HasPrefix(line, "FAIL ") {
			_, title, _ := strings.Cut(line, " ")
			title, _, _ = strings.Cut(strings.TrimSpace(title), ":")
			lines[title] = passed
		}
	}
	for _, title := range []string{"configuration, issuers and logs", "ready", "no restart is pending", "CA set", "root offline", "audit log", "two logs", "rate limits", "TLS, or a proxy", "ops listener private", "grace", "trust root", "backup"} {
		if !lines[title] {
			t.Errorf("%s is not ok:\n%s", title, out)
		}
	}
	for _, title := range []string{"no warnings", "guard on another disk"} { // of a test: loopback issuers, one disk
		if passed, found := lines[title]; passed || !found {
			t.Errorf("%s does not fail:\n%s", title, out)
		}
	}
	m.rewrite("mayfly.yaml", "audit: {dir: audit}\n", "")
	m.rewrite("mayfly.yaml", "trusted_proxies: [10.0.0.0/8]\n", "")
	m.await("a pending restart", func() bool {
		return strings.Contains(m.get("http://"+m.ops+"/status"), `"restart_pending":true`)
	})
	out = m.runbook(1, "preflight.sh", "-o", "-c", m.path("mayfly.yaml"))
	for _, title := range []string{"no restart is pending", "audit log", "TLS, or a proxy"} {
		if !strings.Contains(out, "FAIL    "+title+":") {
			t.Errorf("%s does not fail:\n%s", title, out)
		}
	}
	// What cannot be seen is not ok.
	pid := fmt.Sprint(m.server.Cmd.Process.Pid)
	m.server.Stop(m.t)
	if err := os.RemoveAll(m.path("ctlog", "2026")); err != nil {
		t.Fatal(err)
	}
	out = m.runbook(1, "preflight.sh", "-o", "-c", m.path("mayfly.yaml"), "-p", pid)
	for _, title := range []string{"ready", "no restart is pending", "clock synchronised", "guard on another disk", "not root", "no core dumps", "file descriptors"} {
		if !strings.Contains(out, "FAIL    "+title+":") {
			t.Errorf("%s does not fail without a server:\n%s", title, out)
		}
	}
}
