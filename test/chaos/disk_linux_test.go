// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// namespace is a process that holds namespaces of the kernel, which end with it.
type namespace struct {
	holder int
	kinds  []string // options of nsenter
}

// newNamespace runs prepare in new namespaces until the test ends, with $0. It skips the test where that is not
// permitted.
func newNamespace(t *testing.T, kinds []string, prepare, argument string) namespace {
	t.Helper()
	cmd := exec.Command("unshare", append(slices.Clone(kinds), "/bin/sh", "-c", prepare+" && echo ready && exec cat", argument)...)
	testworld.EndWithParent(cmd)
	var problem strings.Builder
	cmd.Stderr = &problem
	in := must(cmd.StdinPipe())(t)
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Skipf("a namespace is not permitted: %v", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Skipf("a namespace is not permitted: %s", problem.String())
	}
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(kind string) bool { return kind == "--map-root-user" })
	return namespace{cmd.Process.Pid, kinds}
}

// enter makes a command run in the namespaces.
func (n namespace) enter(cmd *exec.Cmd) *exec.Cmd {
	args := append([]string{"nsenter", "--preserve-credentials", "--target", fmt.Sprint(n.holder)}, n.kinds...)
	cmd.Args = append(append(args, cmd.Path), cmd.Args[1:]...)
	cmd.Path, cmd.Err = exec.LookPath("nsenter")
	return cmd
}

// disk is a small file system.
type disk struct {
	namespace
	path string // inside
	view string // the same folder, from outside
}

const diskSize = 64 << 20

func newDisk(t *testing.T) *disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	n := newNamespace(t, []string{"--user", "--map-root-user", "--mount"}, fmt.Sprintf(`mount -t tmpfs -o size=%d,mode=700 chaos "$0"`, diskSize), path)
	return &disk{n, path, filepath.Join("/proc", fmt.Sprint(n.holder), "root", path)}
}

// fill leaves the given number of bytes free.
func (d *disk) fill(t testing.TB, free int64) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(d.view, &stat); err != nil {
		t.Fatal(err)
	}
	f := must(os.Create(filepath.Join(d.view, "filler")))(t)
	defer func() { _ = f.Close() }()
	block := make([]byte, 64<<10)
	for rest := int64(stat.Bavail)*stat.Bsize - free; rest > 0; rest -= int64(len(block)) {
		if _, err := f.Write(block[:min(rest, int64(len(block)))]); err != nil {
			return // the server was faster
		}
	}
}

func (d *disk) clear(t testing.TB) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.view, "filler")); err != nil {
		t.Fatal(err)
	}
}

// remount changes an option of the mount, as the kernel does with ro after an I/O error. It waits for a moment in
// which no file is being written, which the kernel does not.
func (w *world) remount(d *disk, option string) {
	w.t.Helper()
	w.await("a mount that is "+option, func() bool {
		return d.enter(exec.Command("mount", "-o", "remount,"+option, d.path)).Run() == nil
	})
}

// limitFiles makes each write of the server beyond a size fail with EFBIG, as a failing disk does with EIO;
// unix.RLIM_INFINITY ends that.
func (w *world) limitFiles(size uint64) {
	w.t.Helper()
	limit := unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(w.server.Cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		w.t.Fatal(err)
	}
}

// TestDisk gives each fault to the disk of an embedded log, which is the only log.
func TestDisk(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	w := newWorld(t, 0)
	w.inside = d.enter
	cfg, key := w.embed(d.view, d.path)
	w.start()
	w.line("no fault")
	w.load()
	w.steady()
	for _, fault := range []struct {
		name        string
		begin, mend func()
		stops       bool // Tessera may stop the process (docs/ctlog.md), which its supervisor starts again
	}{
		{"nearly full", func() { d.fill(t, diskSize/4) }, func() { d.clear(t) }, false},
		{"full", func() { d.fill(t, 0) }, func() { d.clear(t) }, false},
		{"write errors", func() { w.limitFiles(1) }, func() { w.limitFiles(unix.RLIM_INFINITY) }, false},
		{"read-only", func() { w.remount(d, "ro") }, func() { w.remount(d, "rw") }, true},
	} {
		w.line("disk of the only log: %s", fault.name)
		w.become(func(s *state) { s.logs, s.server = 0, !fault.stops })
		fault.begin()
		if fault.stops {
			w.refused("CT_UNAVAILABLE", noAnswer)
		} else {
			w.refused("CT_UNAVAILABLE")
		}
		w.recover(theForm().bound, func(s *state) { s.logs, s.server = 1, true }, func() {
			if fault.mend(); !w.server.Alive() {
				w.start()
			}
		})
		w.steady()
	}
	w.judgeEmbedded(cfg, key)
}

// TestDiskBesideLog gives the faults to the disk of one of two logs: no request may be refused.
func TestDiskBesideLog(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	w := newWorld(t, 1)
	w.inside = d.enter
	cfg, key := w.embed(d.view, d.path)
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	w.line("disk of one of two logs: full")
	d.fill(t, 0)
	w.asked(&w.logs[0].calls)
	w.steady()
	d.clear(t)
	w.line("disk of one of two logs: write errors")
	w.limitFiles(1)
	w.asked(&w.logs[0].calls)
	w.steady()
	w.limitFiles(unix.RLIM_INFINITY)
	w.steady()
	w.judgeEmbedded(cfg, key)
}

// TestDiskOfAudit gives each fault to the disk of the audit log: nothing is issued without a record, and
// issuance resumes by itself.
func TestDiskOfAudit(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	w := newWorld(t, 1)
	w.inside = d.enter
	w.useAudit(filepath.Join(d.path, "audit"))
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	for _, fault := range []struct {
		name        string
		begin, mend func()
	}{
		{"full", func() { d.fill(t, 0) }, func() { d.clear(t) }},
		{"write errors", func() { w.limitFiles(1) }, func() { w.limitFiles(unix.RLIM_INFINITY) }},
		{"read-only", func() {
			w.limitFiles(1) // with its file open for writing, this disk could not become read-only; the server closes it after an error
			w.remount(d, "ro")
			w.limitFiles(unix.RLIM_INFINITY)
			w.await("the new error", func() bool { return strings.Contains(string(w.fetch("/readyz?verbose")), "read-only file system") })
		}, func() { w.remount(d, "rw") }},
	} {
		w.line("disk of the audit log: %s", fault.name)
		w.become(func(s *state) { s.audit = false })
		fault.begin()
		w.refused("AUDIT_UNAVAILABLE")
		w.recover(theForm().bound, func(s *state) { s.audit = true }, fault.mend)
		w.steady()
	}
	w.judge(nil)
	w.server.Stop(t)
	w.judgeAudit(filepath.Join(d.view, "audit"))
}
