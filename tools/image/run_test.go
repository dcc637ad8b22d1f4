// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// limit is how long a server may take to be ready, and a command to end.
const limit = time.Minute

// unpack writes the files of an image to a folder of the test, with their modes, and as root with their owners.
func unpack(t *testing.T, image v1.Image) (root string) {
	t.Helper()
	root = t.TempDir()
	headers, content := entries(t, image)
	for _, name := range sorted(headers) {
		path, header := filepath.Join(root, name), headers[name]
		var err error
		if header.FileInfo().IsDir() {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, content[name], 0o600)
		}
		if os.Geteuid() == 0 {
			err = errors.Join(err, os.Chown(path, header.Uid, header.Gid))
		}
		if err = errors.Join(err, os.Chmod(path, header.FileInfo().Mode())); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func sorted[V any](m map[string]V) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The image's binary states the commit that the image's label states.
func TestBinaryOfTheImageStatesItsCommit(t *testing.T) {
	t.Parallel()
	image, _ := built(t)
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	out := command(t, filepath.Join(unpack(t, image), "usr/bin/mayfly"), "version")
	commit := file.Config.Labels["org.opencontainers.image.revision"]
	if !strings.HasPrefix(out, "mayfly ") || strings.Contains(out, "commit: ") && !strings.Contains(out, commit) {
		t.Errorf("the label states commit %s, the binary:\n%s", commit, out)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

// server is a process in the background, which the test stops.
type server struct {
	output string // the file with its output
	pid    int
}

func start(t *testing.T, name string, args ...string) server {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = file, file
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill := time.AfterFunc(limit, func() { _ = c.Process.Kill() })
		defer kill.Stop()
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("%s ended with %v", filepath.Base(name), err)
		}
		if content, _ := os.ReadFile(file.Name()); t.Failed() {
			t.Logf("%s", content)
		}
	})
	return server{file.Name(), c.Process.Pid}
}

// await returns the first group of a pattern in the output.
func (s server) await(t *testing.T, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		content, err := os.ReadFile(s.output)
		if err != nil {
			t.Fatal(err)
		}
		if groups := found.FindSubmatch(content); groups != nil {
			return string(groups[1])
		}
	}
	content, _ := os.ReadFile(s.output)
	t.Fatalf("the output has no %s:\n%s", pattern, content)
	return ""
}

const settings = `listen: {http: "127.0.0.1:0", grpc: "127.0.0.1:0", ops: "127.0.0.1:0"}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {set: ca/ca.yaml}
ct: {logs: [{embedded: {name: "2026", dir: /var/lib/mayfly/ctlog, guard: /var/lib/mayfly/guard/2026.json, key: /var/lib/mayfly/ctlog.key, origin: ca.example/ctlog/2026}}]}
audit: {dir: /var/lib/mayfly/audit}
`

// container is the image with a mounted configuration. Its processes run as the image states, with a root that
// they cannot write.
type container struct{ root, script, user string }

// newContainer mounts the folder etc as /etc/mayfly.
func newContainer(t *testing.T, image v1.Image, etc string) container {
	t.Helper()
	probe := exec.Command("unshare", "--mount", "mount", "-t", "tmpfs", "probe", t.TempDir())
	if out, err := probe.CombinedOutput(); err != nil || os.Geteuid() != 0 {
		t.Skipf("a mount namespace needs root and unshare of util-linux: %v, %s", err, out)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := container{root: unpack(t, image), user: strings.Split(file.Config.User, ":")[0]}
	state := t.TempDir()
	// t.TempDir is below folders that only root can enter; the container's root is at /.
	c.script = fmt.Sprintf(`set -e
mount --bind %[1]s %[1]s
mount --bind %[2]s %[1]s/etc/mayfly
mount --bind %[3]s %[1]s/var/lib/mayfly
for at in %[1]s %[1]s/etc/mayfly; do mount -o remount,bind,ro,nosuid,nodev $at; done
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmp %[1]s/tmp
exec unshare --root=%[1]s --wd=%[4]s --setgid=%[5]s --setuid=%[5]s "$@"`, c.root, etc, state, file.Config.WorkingDir, c.user)
	for _, dir := range []string{etc, state} {
		command(t, "chown", "-R", file.Config.User, dir)
	}
	return c
}

// args are those of unshare, which runs the command of the image with args.
func (c container) args(args ...string) []string {
	return append([]string{"--mount", "sh", "-c", c.script, "sh", "/usr/bin/mayfly"}, args...)
}

// From nothing to a first certificate with the image's binary: the CA's files and the configuration are mounted
// and the passwords are in files. mayfly dev, from the same image, is the OpenID provider.
func TestImageIssuesACertificate(t *testing.T) {
	t.Parallel()
	image, _ := built(t)
	etc := t.TempDir()
	c := newContainer(t, image, etc)
	mayfly := filepath.Join(c.root, "usr/bin/mayfly")
	provider := start(t, mayfly, "dev", "--listen", "127.0.0.1:0").await(t, `(?m)^ready: (\S+)$`)
	command(t, mayfly, "ca", "init", filepath.Join(etc, "ca"))
	issuer := provider + "/dev/oidc"
	issuers := fmt.Sprintf("oidc-issuers:\n  %s: {issuer-url: %[1]q, client-id: sigstore, type: email}\n", issuer)
	for name, content := range map[string]string{"mayfly.yaml": settings, "issuers.yaml": issuers} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "chown", "-R", c.user, etc)

	command(t, "unshare", c.args("ctlog", "init", "--config", "/etc/mayfly/mayfly.yaml")...)
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	served := start(t, "unshare", c.args(file.Config.Cmd...)...)
	url := "http://" + served.await(t, `"msg":"serving".*"http":"([^"]+)"`)
	awaitReady(t, "http://"+served.await(t, `"msg":"serving".*"ops":"([^"]+)"`)+"/readyz")

	served.isConfined(t, c.user)

	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(command(t, mayfly, "token", "--url", provider, "--email", "you@example.com")), 0o600); err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(t.TempDir(), "chain.pem")
	command(t, mayfly, "request", "--url", url, "--token-file", token, "--key", filepath.Join(t.TempDir(), "key.pem"), "--certificate", chain)
	if out := command(t, mayfly, "inspect", chain); !strings.Contains(out, "you@example.com") || !strings.Contains(out, "Logged") {
		t.Errorf("the certificate is:\n%s", out)
	}
}

// isConfined reads from the kernel that a process runs as a user, with no capability, and with a root and a
// configuration that are read-only.
func (s server) isConfined(t *testing.T, user string) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	mounts, errMounts := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.pid))
	if err = errors.Join(err, errMounts); err != nil {
		t.Fatal(err)
	}
	ids := strings.Join([]string{user, user, user, user}, "\t")
	for _, line := range []string{"Uid:\t" + ids, "Gid:\t" + ids, "Groups:\t ", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), "\n"+line+"\n") {
			t.Errorf("the process has no %q in its status:\n%s", line, status)
		}
	}
	for _, at := range []string{"/", "/etc/mayfly"} {
		if !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ ` + at + ` ro,`).Match(mounts) {
			t.Errorf("%s is not read-only:\n%s", at, mounts)
		}
	}
}

// awaitReady waits until a server is ready.
func awaitReady(t *testing.T, url string) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatalf("%s is not ready within %s", url, limit)
}
