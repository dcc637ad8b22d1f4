// SPDX-License-Identifier: Apache-2.0

// Package siege attacks a real mayfly serve process, as one outsider can, and measures the effect
// on 16 honest clients. `make siege` runs it and prints the figures; without MAYFLY_SIEGE=1 its
// tests are skipped. Everything is on loopback addresses, and bounded in count and in time.
package siege

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	startLimit = time.Minute
	stopLimit  = 30 * time.Second
	mebibyte   = 1 << 20
)

// configuration is an operator's configuration, with %s for listen addresses.
const configuration = `
listen: {http: %q, grpc: %q, ops: %q}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {set: ca/ca.yaml}
ct:
  logs:
    - embedded: {name: "2026", dir: ./ctlog/2026, guard: ./guard/2026.json, key: ./2026.key, origin: log.example/2026}
log: {format: json, level: info}
`

// server is one mayfly serve process with a CA, an embedded log and an OpenID provider.
type server struct {
	t        *testing.T
	provider *provider.Provider
	http     string // address
	grpc     string
	ops      string
	pid      int
	log      string        // path of its output
	exited   chan struct{} // closed when the process has been reaped
}

// binary builds mayfly once; MAYFLY_BINARY names another one, to compare.
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MAYFLY_BINARY"); path != "" {
		return testworld.Executable("MAYFLY_BINARY", path)
	}
	dir, err := os.MkdirTemp("", "mayfly-siege-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mayfly")
	build := exec.Command("go", "build", "-o", path, "github.com/mayfly-ca/mayfly/cmd/mayfly")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building mayfly: %w\n%s", err, out)
	}
	return path, nil
})

// TestMain removes the binary that was built.
func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("MAYFLY_SIEGE") == "1" && os.Getenv("MAYFLY_BINARY") == "" {
		if path, err := binary(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// newServer starts a server that may open the given number of files. more is appended to its
// issuers.
func newServer(t *testing.T, files int, more string) *server {
	t.Helper()
	if os.Getenv("MAYFLY_SIEGE") != "1" {
		t.Skip("make siege runs this test")
	}
	mayfly, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &server{t: t, log: filepath.Join(dir, "log"), exited: make(chan struct{})}
	issuer := httptest.NewUnstartedServer(nil)
	url := "http://" + issuer.Listener.Addr().String()
	if s.provider, err = provider.New(provider.Config{IssuerURL: url, Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	issuer.Config.Handler = s.provider
	issuer.Start()
	t.Cleanup(issuer.Close)

	addresses, err := testworld.FreeAddresses("127.0.0.3", 3)
	if err != nil {
		t.Fatal(err)
	}
	s.http, s.grpc, s.ops = addresses[0], addresses[1], addresses[2]
	write(t, dir, "mayfly.yaml", fmt.Sprintf(configuration, s.http, s.grpc, s.ops))
	write(t, dir, "issuers.yaml", fmt.Sprintf("oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n%[2]s", url, more))
	for _, args := range [][]string{
		{"ca", "init", "--algorithm", "ecdsa-p256", filepath.Join(dir, "ca")},
		{"ctlog", "init", "--config", filepath.Join(dir, "mayfly.yaml")},
	} {
		if out, err := exec.CommandContext(t.Context(), mayfly, args...).CombinedOutput(); err != nil {
			t.Fatalf("mayfly %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	s.start(dir, mayfly, files)
	return s
}

// start runs mayfly serve until the test ends, and returns when it is ready. Signals go to this
// process and to no other.
func (s *server) start(dir, mayfly string, files int) {
	s.t.Helper()
	log, err := os.Create(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	// ulimit sets both limits, since otherwise Go raises the lower one.
	cmd := exec.Command("/bin/sh", "-c", `ulimit -n "$1" && exec "$2" serve --config "$3"`, "sh", strconv.Itoa(files), mayfly, filepath.Join(dir, "mayfly.yaml"))
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, log, log
	testworld.EndWithParent(cmd)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	go func() {
		defer close(s.exited)
		_ = cmd.Wait()
		_ = log.Close()
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if it has stopped already
		select {
		case <-s.exited:
		case <-time.After(stopLimit):
			s.t.Errorf("mayfly serve did not stop within %s of SIGTERM", stopLimit)
			_ = cmd.Process.Kill()
			<-s.exited
		}
	})
	ctx, cancel := context.WithTimeout(s.t.Context(), startLimit)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		if _, err := get(ctx, http.DefaultClient, "http://"+s.ops+"/readyz"); err == nil {
			return
		}
		if ctx.Err() != nil || !s.alive() {
			s.t.Fatalf("mayfly serve is not ready:\n%s", s.output())
		}
	}
}

func (s *server) alive() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// mustLive fails the test if the process has stopped.
func (s *server) mustLive() {
	s.t.Helper()
	if !s.alive() {
		output := s.output()
		s.t.Fatalf("mayfly serve has ended:\n%s", output[max(0, len(output)-4<<10):])
	}
}

func (s *server) output() []byte {
	s.t.Helper()
	output, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return output
}

// lines returns the log's lines, except those of successful requests and of certificates.
func (s *server) lines() (lines []string) {
	for line := range strings.Lines(string(s.output())) {
		if !strings.Contains(line, `"reason":"OK"`) && !strings.Contains(line, `"msg":"issued`) && !strings.Contains(line, `"msg":"certificate issued`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// peak is the largest resident size that the process has had, in MiB (VmHWM).
func (s *server) peak() int {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		s.t.Fatalf("no VmHWM in %s", status)
	}
	kib, _ := strconv.Atoi(string(found[1]))
	return kib >> 10
}

// metric returns a value without labels of the ops listener.
func (s *server) metric(name string) int {
	s.t.Helper()
	body, err := get(s.t.Context(), http.DefaultClient, "http://"+s.ops+"/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(body)
	if found == nil {
		s.t.Fatalf("there is no metric %s", name)
	}
	value, _ := strconv.ParseFloat(string(found[1]), 64)
	return int(value)
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(body)))
	}
	return body, err
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
