// SPDX-License-Identifier: Apache-2.0

package set

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An edit keeps the read permissions of the set, whatever the umask.
func TestEditKeepsTheMode(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	if err := os.Chmod(f.set, 0o666); err != nil {
		t.Fatal(err)
	}
	owner := -1
	if os.Getuid() == 0 {
		owner = 12345
		if err := os.Chown(f.set, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	f.must(f.editor(time.Hour).Add(t.Context(), f.entry("2026-b")))
	info, err := os.Stat(f.set)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o666 {
		t.Errorf("the edited set has mode %v", info.Mode())
	}
	if is := int(info.Sys().(*syscall.Stat_t).Uid); owner >= 0 && is != owner {
		t.Errorf("the edited set belongs to user %d", is)
	}
}

// Status warns of an authority that waits for its date while there is time to act. An authority
// that will never sign is no successor.
func TestStatusTellsWhatKeepsASuccessorBack(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	const late = 3*365*24*time.Hour - 30*24*time.Hour
	f.entryFrom("2029-a", begin.Add(24*time.Hour))
	f.write(f.set, f.read(f.set)+"  - {id: 2029-a, chain: 2029-a/chain.pem, publish_at: 2026-11-23T12:00:00Z}\n")
	for addition, want := range map[string]string{"": "not decided when 2029-a begins", ", retire_at: 2029-12-01T00:00:00Z": "nothing succeeds authority 2026-a"} {
		content := f.read(f.set)
		f.write(f.set, strings.Replace(content, "publish_at: 2026-11-23T12:00:00Z}", "publish_at: 2026-11-23T12:00:00Z"+addition+"}", 1))
		loaded, err := Read(Source{Path: f.set}, begin.Add(late))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(loaded.StatusAt(begin.Add(late)).Warnings, "\n"); !strings.Contains(got, want) {
			t.Errorf("with %q the warnings are %q, want %q among them", addition, got, want)
		}
		f.write(f.set, content)
	}
}
