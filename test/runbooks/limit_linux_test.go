// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// A small disk is full of the audit log: the server issues again by itself once the script has moved closed files.
func TestSmallDiskFull(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.rewrite("mayfly.yaml", "audit: {dir: audit}", "audit: {dir: audit, max_size: 1MiB}")
	if err := os.Mkdir(m.path("audit"), 0o700); err != nil {
		t.Fatal(err)
	}
	view := m.mount("audit", 5<<19)
	m.start()
	m.ready()
	end := m.load()
	m.refused("AUDIT_UNAVAILABLE")
	end()
	m.await("a server that is not ready", func() bool { return m.get("http://"+m.ops+"/readyz") == "" })
	m.runbook(0, "disk-full.sh", "-c", m.path("mayfly.yaml"), "-a", m.path("archive"))
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	m.mayfly("audit", "verify", m.path("archive"))
	m.mayfly("audit", "verify", view)
}

// mount makes a folder a disk of its own, for the server and the scripts, and returns where the test sees it. It skips
// the test where that is not permitted.
func (m *machine) mount(folder string, size int) (view string) {
	m.t.Helper()
	script := fmt.Sprintf(`mount -t tmpfs -o size=%d,mode=700 runbooks "$0" && echo ready && exec cat`, size)
	holder := exec.Command("unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, m.path(folder))
	testworld.EndWithParent(holder)
	in, out := must(holder.StdinPipe())(m.t), must(holder.StdoutPipe())(m.t)
	if err := holder.Start(); err != nil {
		m.t.Skipf("a namespace is not permitted: %v", err)
	}
	m.t.Cleanup(func() {
		_ = in.Close()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		m.t.Skip("a mount in a namespace is not permitted")
	}
	pid := fmt.Sprint(holder.Process.Pid)
	m.inside = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"nsenter", "--preserve-credentials", "--target", pid, "--user", "--mount", cmd.Path}, cmd.Args[1:]...)
		cmd.Path, cmd.Err = exec.LookPath("nsenter")
	}
	return filepath.Join("/proc", pid, "root", m.path(folder))
}

// limitFiles makes each write of the server beyond a size fail, as on a full disk.
func (m *machine) limitFiles(size uint64) {
	m.t.Helper()
	limit := unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(m.server.Cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		m.t.Fatal(err)
	}
}

// Keys that belong to the user of mayfly signer: the script states who can back them up, and leaves nothing behind.
func TestBackupNeedsTheKeys(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	key := m.path("ca", m.active(), "key.pem")
	if err := os.Chmod(key, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // without the privileges of root
		m.inside = func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER }
		probe := exec.Command("true")
		if m.prepare(probe); probe.Run() != nil {
			t.Skip("a namespace is not permitted")
		}
	}
	kept := filepath.Join(t.TempDir(), "backup")
	if out := m.runbook(1, "backup.sh", "-c", m.path("mayfly.yaml"), kept); !strings.Contains(out, key+" is not readable") {
		t.Errorf("the key is not named:\n%s", out)
	}
	if _, err := os.Stat(kept); err == nil {
		t.Error("an incomplete backup is left")
	}
}
