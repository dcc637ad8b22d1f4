// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSizes prints what a certificate leaves on the disk; `make sizes` runs it (docs/operations.md). The short form
// asserts that each part grows.
func TestSizes(t *testing.T) {
	t.Parallel()
	count := 300
	if os.Getenv("MAYFLY_SIZES") != "" {
		count = 5_000
	}
	m := newMachine(t, "")
	m.start()
	m.ready()
	log, audit, lines := m.bytes("ctlog"), m.bytes("audit"), len(m.output.String())
	end := m.load()
	m.await("certificates", func() bool { return m.issued() >= count })
	chains := end()
	answer := len(strings.Join(chains[0], "\n"))
	copied := time.Now()
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), m.path("backup"))
	took := time.Since(copied)
	m.server.Stop(m.t)
	count = m.issued()
	for name, grown := range map[string]int64{
		"log": m.bytes("ctlog") - log, "audit log": m.bytes("audit") - audit, "ordinary log": int64(len(m.output.String()) - lines),
	} {
		if grown < int64(count) {
			t.Errorf("%s grew by %d bytes for %d certificates", name, grown, count)
		}
		t.Logf("%s: %d bytes a certificate", name, grown/int64(count))
	}
	t.Logf("certificates: %d, the chain of one: %d bytes, files of the log: %d, a backup: %v", count, answer, m.files("ctlog"), took.Round(time.Millisecond))
}

// issued is how many entries the log has, published or not.
func (m *machine) issued() (n int) {
	content, _ := os.ReadFile(m.path("ctlog", "2026", ".state", "treeState"))
	_, _ = fmt.Sscanf(string(content), `{"size":%d`, &n)
	return n
}

// bytes is the space that the files of a folder take on the disk.
func (m *machine) bytes(folder string) (sum int64) {
	m.each(folder, func(info fs.FileInfo) {
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += s.Blocks * 512
		}
	})
	return sum
}

func (m *machine) files(folder string) (n int) {
	m.each(folder, func(fs.FileInfo) { n++ })
	return n
}

func (m *machine) each(folder string, do func(fs.FileInfo)) {
	_ = filepath.WalkDir(m.path(folder), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil { // it may have been replaced
				do(info)
			}
		}
		return nil
	})
}
