// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testprocess"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	// roleVariable, if it is set, makes this binary run mayfly serve, with a clock that the test sets.
	roleVariable = "MAYFLY_FLEET_ROLE"
	// fullVariable selects the full form; make fleet sets it.
	fullVariable = "MAYFLY_FLEET"
	// patience is how long the test waits for anything.
	patience = 60 * time.Second
)

// full reports whether the full form runs: the real binary, HAProxy, and a TesseraCT log beside mayfly's.
func full() bool { return os.Getenv(fullVariable) != "" }

// TestMain is mayfly serve in the processes that the test starts.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		if err := testprocess.Serve(os.Args[1]); err != nil {
			os.Exit(1) // the error is in the log
		}
		os.Exit(0)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Unsetenv(name) // every process is on this machine
	}
	flag.Parse()
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// binary builds mayfly once; MAYFLY_BINARY names another one.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs(filepath.Join("..", "..", ".cache", "fleet"))
	if err != nil {
		return "", err
	}
	return testprocess.Binary(dir)
})

// process is a process of the fleet.
type process struct {
	*testprocess.Process
	log string // path of its output
}

// start starts cmd until the test ends. Its output is in log.
func start(t *testing.T, log string, cmd *exec.Cmd) *process {
	t.Helper()
	out := must(os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))(t)
	defer func() { _ = out.Close() }() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = out, out
	return &process{testprocess.Start(t, cmd), log}
}

// tail returns the end of the output.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-4<<10):])
}

// server is mayfly serve with a folder of its own.
type server struct {
	*process
	name, dir string
	http, ops string // addresses
	own       bool   // it runs in the test binary, with a clock that the test sets
}

// servers counts the servers, each of which has a host of its own: so no other takes a free port in between.
var servers atomic.Uint32

// newServer returns a server with a copy of the world's CA set and issuers. Its configuration is an example
// of deploy/examples/three-replicas with other addresses.
func (f *fleet) newServer(name, example string) *server {
	f.t.Helper()
	addresses := must(testworld.FreeAddresses(fmt.Sprintf("127.7.0.%d", servers.Add(1)), 2))(f.t)
	s := &server{name: name, dir: filepath.Join(f.Dir, name), http: addresses[0], ops: addresses[1], own: !full()}
	f.must(os.Mkdir(s.dir, 0o700))
	if out, err := exec.Command("cp", "-rp", filepath.Join(f.Dir, "ca"), filepath.Join(f.Dir, "issuers.yaml"), s.dir).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	f.must(os.WriteFile(filepath.Join(s.dir, "submit.token"), []byte("a-token-of-32-characters-for-logs\n"), 0o600))
	text := must(os.ReadFile(filepath.Join("..", "..", "deploy", "examples", "three-replicas", example)))(f.t)
	f.must(os.WriteFile(filepath.Join(s.dir, "mayfly.yaml"), text, 0o600))
	return s
}

// replace replaces old, which must be there, in the server's configuration.
func (s *server) replace(t *testing.T, old, next string) {
	t.Helper()
	path := filepath.Join(s.dir, "mayfly.yaml")
	text := must(os.ReadFile(path))(t)
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("%s holds no %q:\n%s", path, old, text)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte(old), []byte(next)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// write replaces a file of the server at once, as an operator's tools do.
func (s *server) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// start starts the server, and returns when it is ready.
func (s *server) start(f *fleet) {
	f.t.Helper()
	s.launch(f)
	s.awaitReady(f)
}

// launch starts the server.
func (s *server) launch(f *fleet) {
	f.t.Helper()
	config := filepath.Join(s.dir, "mayfly.yaml")
	cmd := exec.Command(os.Args[0], config)
	cmd.Env = []string{roleVariable + "=serve", "GORACE=atexit_sleep_ms=0 halt_on_error=1"}
	if !s.own {
		cmd = exec.Command(must(binary())(f.t), "serve", "--config", config)
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME=/nonexistent", "MAYFLY_OIDC_ALLOW_LOOPBACK=true",
		"MAYFLY_LISTEN_HTTP="+s.http, "MAYFLY_LISTEN_GRPC="+s.http, "MAYFLY_LISTEN_OPS="+s.ops)
	if !full() {
		cmd.Env = append(cmd.Env, "MAYFLY_SHUTDOWN_GRACE=500ms")
	}
	s.process = start(f.t, filepath.Join(f.Dir, s.name+".log"), cmd)
}

func (s *server) awaitReady(f *fleet) {
	f.t.Helper()
	f.await("a ready server "+s.name, func() bool {
		if !s.Alive() {
			f.t.Fatalf("the server %s has stopped:\n%s", s.name, s.tail())
		}
		return ready(s.http)
	})
}

// ready reports whether the server at the address answers within a second that it is ready.
func ready(address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := get(ctx, "http://"+address+"/readyz")
	return err == nil
}

// get returns the body of an answer with status 200.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, strings.TrimSpace(string(body)))
	}
	return body, err
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
