// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// addLog adds an entry for a new log, before the others.
func (m *machine) addLog(name string) {
	m.t.Helper()
	m.rewrite("mayfly.yaml", "  logs:\n", fmt.Sprintf(`  logs:
    - embedded: {name: %[1]q, dir: ctlog/%[1]s, guard: guard/%[1]s.json, key: ctlog-%[1]s.key, origin: ca.example/ctlog/%[1]s}
`, name))
}

// The directory of the only log is gone: a new log takes its place, and the old one's key stays in the trust root.
func TestLogLost(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	before := m.issues("2026")
	m.server.Kill()
	if err := os.RemoveAll(m.path("ctlog")); err != nil {
		t.Fatal(err)
	}
	config := m.path("mayfly.yaml")
	out := m.runbook(1, "ctlog-new.sh", "-c", config, "-l", "2026b", "-o", m.path("out"))
	_, entry, _ := strings.Cut(out, "- {url: ")
	entry, _, found := strings.Cut(entry, "\n")
	if !found {
		t.Fatalf("the script names no entry in the place of the lost log:\n%s", out)
	}
	text := m.read("mayfly.yaml")
	text = text[:strings.Index(text, "    - embedded:")] + "    - {url: " + strings.ReplaceAll(entry, "OLD", "2026") + "\n"
	m.write("mayfly.yaml", text)
	m.addLog("2026b")
	m.runbook(0, "ctlog-new.sh", "-c", config, "-l", "2026b", "-o", m.path("out"))
	m.write("ctlog-2026b.pub", m.read("out/ctlog-2026b.pub"))
	for range 2 { // an earlier run has stopped after the log was created, or after its key was written
		m.runbook(0, "ctlog-new.sh", "-c", config, "-l", "2026b", "-o", m.path("out"))
		if m.read("out/ctlog-2026b.pub") != m.read("ctlog-2026b.pub") {
			t.Errorf("another run writes the key %q", m.read("out/ctlog-2026b.pub"))
		}
		if err := os.Remove(m.path("out", "ctlog-2026b.pub")); err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	m.ready()
	m.issues("2026b")
	m.verifies(before, "2026")
	if n := strings.Count(m.read("out/trusted_root.json"), `"logId"`); n != 2 {
		t.Errorf("the trust root has %d logs, want both:\n%s", n, m.read("out/trusted_root.json"))
	}
}

// Two copies of the directory were written: the guard refuses one of them, and a new log takes its place.
func TestLogForked(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	for name, from := range map[string]string{"copy": "ctlog", "copied-guard": "guard"} {
		if err := os.CopyFS(m.path(name), os.DirFS(m.path(from))); err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	swap := func(a, b string) {
		for _, step := range [][2]string{{a, "aside"}, {b, a}, {"aside", b}} {
			if err := os.Rename(m.path(step[0]), m.path(step[1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap("ctlog", "copy")
	swap("guard", "copied-guard")
	m.start() // the copy, which grows in another way
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	swap("guard", "copied-guard") // the guard knows the other history
	m.start()
	m.refused("CT_UNAVAILABLE")
	if log := m.output.String(); !strings.Contains(log, `"reason":"forked"`) {
		t.Errorf("the log is not refused as forked:\n%s", log)
	}
	m.server.Stop(m.t)
	m.addLog("2026b")
	out := m.runbook(0, "ctlog-new.sh", "-c", m.path("mayfly.yaml"), "-l", "2026b", "-o", m.path("out"))
	if !strings.Contains(out, "log 2026 takes no entry") {
		t.Errorf("the script does not show the old log:\n%s", out)
	}
	m.write("ctlog-2026b.pub", m.read("out/ctlog-2026b.pub"))
	m.start()
	m.ready()
	m.issues("2026b")
}

// The clock steps by an hour and back: the script shows it, and waits until the server issues again.
func TestClockWrong(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.ownClock = true
	m.start()
	m.ready()
	m.runbook(0, "clock-wrong.sh", "-c", m.path("mayfly.yaml"))
	step := func(ahead time.Duration) {
		if err := m.server.Ahead(ahead); err != nil {
			t.Fatal(err)
		}
	}
	step(time.Hour)
	m.refused("CLOCK_WRONG")
	m.await("a failed check", func() bool { return m.get("http://"+m.ops+"/readyz") == "" })
	out := m.runbook(1, "clock-wrong.sh", "-c", m.path("mayfly.yaml"), "-w", "1")
	if !strings.Contains(out, "clock fails since") || !strings.Contains(out, "runbook: docs/operations.md#the-clock-is-wrong") {
		t.Errorf("the observation is not shown:\n%s", out)
	}
	step(0)
	m.runbook(0, "clock-wrong.sh", "-u", "http://"+m.ops, "-w", "30")
	m.issues("2026")
}

// A provider is compromised: nothing is listed before its entry is disabled, then every certificate of its tokens.
func TestIssuerCompromised(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	for range 3 {
		m.issues("2026")
	}
	issuers := m.read("issuers.yaml")
	_, issuer, _ := strings.Cut(issuers, "issuer-url: ")
	issuer, _, _ = strings.Cut(issuer, "\n")
	args := []string{"-c", m.path("mayfly.yaml"), "-i", issuer, "-t", "1h", "-o", m.path("out"), "-w"}
	m.runbook(1, "issuer-compromised.sh", append(args, "0")...)
	if _, err := os.Stat(m.path("out")); err == nil {
		t.Error("a list is written while the issuer is enabled")
	}
	m.write("issuers.yaml", strings.Replace(issuers, "    type: email\n", "    type: email\n    disabled: true\n", 1))
	out := m.runbook(0, "issuer-compromised.sh", append(args, "20")...)
	m.refused("ISSUER_NOT_CONFIGURED")
	if !strings.Contains(out, "3 person@example.com") {
		t.Errorf("the identities are not counted:\n%s", out)
	}
	for name, expected := range map[string]int{"log-2026.jsonl": 3, "audit.jsonl": 6} {
		if n := strings.Count(m.read("out/"+name), "\n"); n != expected {
			t.Errorf("%s has %d lines, want %d", name, n, expected)
		}
	}
	m.write("issuers.yaml", issuers) // the way back
	m.await("a certificate", func() bool { _, reason := m.request(); return reason == "" })
}

// The disk of the audit log is full: the script moves closed files to another disk, and issuance resumes.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.rewrite("mayfly.yaml", "audit: {dir: audit}", "audit: {dir: audit, max_size: 1MiB}")
	m.start()
	m.ready()
	closed := m.path("audit", "audit-000000000001.jsonl")
	end := m.load()
	m.await("a second file", func() bool { return len(must(filepath.Glob(m.path("audit", "audit-*")))(t)) > 1 })
	end()
	m.limitFiles(1)
	m.refused("AUDIT_UNAVAILABLE")
	m.runbook(1, "disk-full.sh", "-c", m.path("mayfly.yaml"), "-a", m.path("ca", "..", "audit"))
	m.runbook(0, "disk-full.sh", "-n", "-c", m.path("mayfly.yaml"), "-s", "-a", m.path("archive"))
	if _, err := os.Stat(closed); err != nil {
		t.Errorf("a dry run moves a file: %v", err)
	}
	out := m.runbook(0, "disk-full.sh", "-c", m.path("mayfly.yaml"), "-s", "-a", m.path("archive"))
	for _, part := range []string{"- log: ", "- guard: ", "- audit: "} {
		if !strings.Contains(out, part) {
			t.Errorf("the line %q is missing:\n%s", part, out)
		}
	}
	if _, err := os.Stat(closed); err == nil {
		t.Error("the closed file is still in the audit log")
	}
	// Nothing is left to move, also where the other disk is below the audit log.
	if err := os.CopyFS(m.path("audit", "old"), os.DirFS(m.path("archive"))); err != nil {
		t.Fatal(err)
	}
	open := must(filepath.Glob(m.path("audit", "audit-*")))(t)
	m.runbook(0, "disk-full.sh", "-c", m.path("mayfly.yaml"), "-a", m.path("audit", "old"))
	if left := must(filepath.Glob(m.path("audit", "audit-*")))(t); !slices.Equal(left, open) {
		t.Errorf("of %s in use, %s are left", open, left)
	}
	m.limitFiles(1 << 40)
	m.await("a certificate", func() bool { _, reason := m.request(); return reason == "" })
	m.server.Stop(m.t)
	m.mayfly("audit", "verify", m.path("archive"))
	m.mayfly("audit", "verify", m.path("audit"))
	m.mayfly("ctlog", "fsck", "--config", m.path("mayfly.yaml"))
}

// A record was changed: the script keeps the evidence. The server goes on with a new directory.
func TestAuditBroken(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	config := m.path("mayfly.yaml")
	m.runbook(0, "audit-broken.sh", "-c", config, "-o", m.path("whole"))
	m.runbook(1, "audit-broken.sh", "-c", config, "-o", m.path("tail"), "-H", strings.Repeat("0", 64))
	m.runbook(2, "audit-broken.sh", "-c", config, "-o", m.path("other"), "-H", "x;y")
	file := "audit/audit-000000000001.jsonl"
	m.write(file, strings.Replace(m.read(file), "person@", "nobody@", 1))
	out := m.runbook(1, "audit-broken.sh", "-c", config, "-o", m.path("evidence"))
	if !strings.Contains(out, "record 2 was changed") {
		t.Errorf("the place is not named:\n%s", out)
	}
	if m.read("evidence/"+file) != m.read(file) {
		t.Error("the evidence is no copy")
	}
	m.runbook(1, "audit-broken.sh", "-c", config, "-o", m.path("evidence"))
	m.rewrite("mayfly.yaml", "audit: {dir: audit}", "audit: {dir: audit-2}")
	m.start()
	m.ready()
	m.issues("2026")
	m.mayfly("audit", "verify", m.path("audit-2"))
}
