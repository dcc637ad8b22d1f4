// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit   = time.Minute      // for a server to become ready
	stopLimit    = 10 * time.Second // for a server to stop after SIGTERM, before SIGKILL
	commandLimit = 2 * time.Minute  // for one client command
)

// process is a server that the suite has started. The test's cleanup stops it, with a signal to
// this process and no other.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // path of its output
	exited chan struct{} // closed when the process has been reaped
	err    error         // the result of Wait; read it only after exited
}

// start runs path with args in the background, with the environment env and its output in a file
// that is shown if the test fails. It stops with the test, and before the timeout of the test
// binary, which would run no cleanup.
func start(t *testing.T, name string, env []string, path string, args ...string) *process {
	t.Helper()
	logPath := filepath.Join(t.TempDir(), name+".log")
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	deadline, ok := t.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Hour)
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline.Add(-stopLimit))
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	p := &process{name: name, cmd: cmd, log: logPath, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		p.err = cmd.Wait()
		_ = log.Close()
	}()
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, p.output())
		}
	})
	return p
}

// stop stops the process if it still runs.
func (p *process) stop(t *testing.T) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has stopped already
	select {
	case <-p.exited:
	case <-time.After(stopLimit):
		t.Errorf("%s did not end within %s of SIGTERM", p.name, stopLimit)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// output returns the last 8 KiB of the process's output.
func (p *process) output() []byte {
	const limit = 8 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-limit):]
}

// awaitReady returns when url answers 200, and fails the test if the process stops first or the
// limit passes. The only signal of a foreign server is its health endpoint, so this is the suite's
// only polling loop.
func (p *process) awaitReady(t *testing.T, client *http.Client, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := get(ctx, client, url)
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended before it was ready", p.name)
		case <-ctx.Done():
			t.Fatalf("%s was not ready within %s: %v", p.name, startLimit, err)
		case <-tick.C:
		}
	}
}

// get returns the body of an answer with status 200, and an error for any other.
func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// freePorts returns n TCP ports of 127.0.0.1 that were free a moment ago; they were all held at
// once, so they differ.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// loopback returns the loopback address with the given port.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// sandbox is where a client command runs: an empty home and working folder, and an environment
// without the machine's own settings.
type sandbox struct {
	dir string
	env []string
}

// newSandbox returns a separate sandbox for this test. Its proxies have no listener, so any
// connection to other than loopback addresses fails at once.
func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	dir := t.TempDir()
	const nowhere = "http://127.0.0.1:1"
	return &sandbox{dir: dir, env: []string{
		"HOME=" + dir,
		"TMPDIR=" + dir,
		"PATH=" + os.Getenv("PATH"),
		"HTTP_PROXY=" + nowhere, "HTTPS_PROXY=" + nowhere,
		"NO_PROXY=127.0.0.1,localhost",
	}}
}

// setenv adds name=value to the environment of the commands that follow.
func (s *sandbox) setenv(name, value string) { s.env = append(s.env, name+"="+value) }

// write puts content into a file of the working folder and returns its path.
func (s *sandbox) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run executes a command and returns its standard output; the error contains its standard error.
func (s *sandbox) run(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// mustRun is run for a command that must succeed.
func (s *sandbox) mustRun(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	stdout, err := s.run(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return stdout
}

// mustFail is run for a command that must fail with this reason. A command that did not exit by
// itself, or fails for another reason, has not refused its input.
func (s *sandbox) mustFail(t *testing.T, why, name string, args ...string) {
	t.Helper()
	_, err := s.run(t, name, args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Fatalf("%s %s accepted what it must refuse", filepath.Base(name), args[0])
	case !errors.As(err, &exit) || exit.ExitCode() <= 0:
		t.Fatalf("running: %v", err)
	case !bytes.Contains([]byte(err.Error()), []byte(why)):
		t.Fatalf("it failed, but not with %q: %v", why, err)
	}
}
