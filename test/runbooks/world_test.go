// SPDX-License-Identifier: Apache-2.0

// Package runbooks runs each script of deploy/runbooks with the binary, from the fault to the recovery.
// Everything is on this machine.
package runbooks

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testprocess"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	// patience is how long a test waits for anything.
	patience = 60 * time.Second
	// clockVariable, if it is set, makes this binary run mayfly serve, with a clock that the test sets.
	clockVariable = "MAYFLY_RUNBOOKS_CLOCK"
)

func TestMain(m *testing.M) {
	if os.Getenv(clockVariable) != "" {
		_ = os.Unsetenv(clockVariable)
		if err := testprocess.Serve(os.Args[1]); err != nil {
			os.Exit(1) // the error is in the log
		}
		os.Exit(0)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Unsetenv(name) // every process is on this machine
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // the tests mostly wait
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// built is the folder of the binary that was built.
var built string

// program builds mayfly once; MAYFLY_BINARY names another one.
var program = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "mayfly-runbooks-"); err != nil {
		return "", err
	}
	return testprocess.Binary(built)
})

// machine is the folder of a server: its configuration and all of its files.
type machine struct {
	*testworld.World
	t         *testing.T
	dir       string // paths in the configuration are relative to it
	http, ops string // addresses
	server    *testprocess.Process
	output    *testprocess.Tail // of the server
	ownClock  bool
	inside    func(*exec.Cmd) // makes a process run in other namespaces; nil for none
	ca        *client.Client
}

// servers counts the machines: each has addresses of its own, so that no other takes a free one.
var servers atomic.Uint32

// newMachine creates a CA with an embedded log and an audit log. settings are added to its configuration.
func newMachine(t *testing.T, settings string) *machine {
	t.Helper()
	m := &machine{World: must(testworld.New(t.TempDir()))(t), t: t}
	t.Cleanup(m.Close)
	m.dir = m.Dir
	server := servers.Add(1)
	addresses := must(testworld.FreeAddresses(fmt.Sprintf("127.7.%d.%d", server>>8, server&255), 2))(t)
	m.http, m.ops = addresses[0], addresses[1]
	m.ca = must(client.New(client.Config{URL: "http://" + m.http}))(t)
	m.write("mayfly.yaml", fmt.Sprintf(`listen: {http: %[1]q, grpc: %[1]q, ops: %[2]q}
public_url: https://ca.example
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {set: ca/ca.yaml}
audit: {dir: audit}
%[3]sct:
  logs:
    - embedded: {name: "2026", dir: ctlog/2026, guard: guard/2026.json, key: ctlog-2026.key, origin: ca.example/ctlog/2026}
`, m.http, m.ops, settings))
	m.write("ctlog-2026.pub", m.mayfly("ctlog", "init", "--config", m.path("mayfly.yaml")))
	return m
}

func (m *machine) path(names ...string) string {
	return filepath.Join(append([]string{m.dir}, names...)...)
}

func (m *machine) read(name string) string {
	m.t.Helper()
	return string(must(os.ReadFile(m.path(name)))(m.t))
}

// write replaces a file at once, as an operator's tools do.
func (m *machine) write(name, text string) {
	m.t.Helper()
	path := m.path(name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		m.t.Fatal(err)
	}
}

// rewrite replaces old, which must be there once, in a file.
func (m *machine) rewrite(name, old, next string) {
	m.t.Helper()
	text := m.read(name)
	if strings.Count(text, old) != 1 {
		m.t.Fatalf("%s holds %q %d times:\n%s", name, old, strings.Count(text, old), text)
	}
	m.write(name, strings.Replace(text, old, next, 1))
}

func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "GORACE=atexit_sleep_ms=0 halt_on_error=1"}
}

// mayfly runs a command that must succeed, and returns what it prints.
func (m *machine) mayfly(args ...string) string {
	m.t.Helper()
	cmd := exec.Command(must(program())(m.t), args...)
	cmd.Env = environment()
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("mayfly %s: %v\n%s%s", strings.Join(args, " "), err, out, problem.Bytes())
	}
	return string(out)
}

// runbook runs a script that must return an exit code, and returns what it prints: never a secret.
func (m *machine) runbook(code int, name string, args ...string) string {
	m.t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{must(filepath.Abs("../../deploy/runbooks/" + name))(m.t)}, args...)...)
	cmd.Env = append(environment(), "MAYFLY="+must(program())(m.t))
	m.prepare(cmd)
	out, err := cmd.CombinedOutput()
	if found := cmd.ProcessState.ExitCode(); found != code {
		m.t.Fatalf("%s %s: exit code %d, want %d (%v)\n%s", name, strings.Join(args, " "), found, code, err, out)
	}
	passwords := must(filepath.Glob(m.path("ca", "*", "pass*")))(m.t)
	for _, file := range passwords {
		if secret := bytes.TrimSpace(must(os.ReadFile(file))(m.t)); len(secret) > 0 && bytes.Contains(out, secret) {
			m.t.Errorf("%s prints the password in %s", name, file)
		}
	}
	if bytes.Contains(out, []byte("PRIVATE KEY")) {
		m.t.Errorf("%s prints a key", name)
	}
	return string(out)
}

// prepare makes a command run where the machine is, and end with the test.
func (m *machine) prepare(cmd *exec.Cmd) {
	testworld.EndWithParent(cmd)
	if m.inside != nil {
		m.inside(cmd)
	}
}

// start starts the server, which ends with the test at the latest.
func (m *machine) start() {
	m.t.Helper()
	cmd := exec.Command(must(program())(m.t), "serve", "--config", m.path("mayfly.yaml"))
	cmd.Env = environment()
	if m.ownClock {
		cmd = exec.Command(os.Args[0], m.path("mayfly.yaml"))
		cmd.Env = append(environment(), clockVariable+"=1")
	}
	m.prepare(cmd)
	m.output = testprocess.NewTail(0)
	cmd.Stdout, cmd.Stderr = m.output, m.output
	m.server = testprocess.Start(m.t, cmd)
}

// ready waits until the server is ready.
func (m *machine) ready() {
	m.t.Helper()
	m.await("a ready server", func() bool {
		if !m.server.Alive() {
			m.t.Fatalf("the server has stopped:\n%s", m.output)
		}
		return m.get("http://"+m.ops+"/readyz") != ""
	})
}

// get returns what a URL answers with 200; otherwise "".
func (m *machine) get(url string) string {
	response, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

// await waits until condition holds.
func (m *machine) await(what string, condition func() bool) {
	m.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			m.t.Fatalf("there is not %s within %s:\n%s", what, patience, m.output.String())
		}
	}
}

// request gets a certificate, and returns the chain, or the reason of the refusal.
func (m *machine) request() (chain []string, reason string) {
	chain, err := m.Request(context.Background(), m.ca, false)
	var refused *client.Error
	switch {
	case errors.As(err, &refused):
		return nil, refused.Reason
	case err != nil:
		return nil, "NO_ANSWER"
	}
	return chain, ""
}

// issues gets a certificate, which must verify with the key of a log.
func (m *machine) issues(log string) (chain []string) {
	m.t.Helper()
	chain, reason := m.request()
	if reason != "" {
		m.t.Fatalf("a request is refused with %s:\n%s", reason, m.output.String())
	}
	m.verifies(chain, log)
	return chain
}

func (m *machine) verifies(chain []string, log string) {
	m.t.Helper()
	if err := testworld.VerifyChain([]byte(strings.Join(chain, "\n")), m.Root, []byte(m.read("ctlog-"+log+".pub"))); err != nil {
		m.t.Errorf("a certificate does not verify with the key of log %s: %v", log, err)
	}
}

// refused waits until a request is refused for a reason.
func (m *machine) refused(reason string) {
	m.t.Helper()
	m.await("a refusal with "+reason, func() bool {
		_, found := m.request()
		return found == reason
	})
}

// load requests certificates until it is called back, which returns what clients got.
func (m *machine) load() (end func() [][]string) {
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var mu sync.Mutex
	var chains [][]string
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if chain, reason := m.request(); reason == "" {
					mu.Lock()
					chains = append(chains, chain)
					mu.Unlock()
				}
			}
		})
	}
	end = func() [][]string {
		stop()
		clients.Wait()
		return chains
	}
	m.t.Cleanup(func() { end() })
	return end
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
