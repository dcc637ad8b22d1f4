// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	// roleVariable, if it is set, makes this binary run a command of mayfly in a process of its own, with
	// the race detector and with a clock that the test sets.
	roleVariable = "MAYFLY_CHAOS_ROLE"
	// fullVariable selects the full form; make chaos sets it.
	fullVariable = "MAYFLY_CHAOS"

	stopLimit = 30 * time.Second
)

// full reports whether the full form runs, whose processes run the real binary.
func full() bool { return os.Getenv(fullVariable) != "" }

// TestMain plays the role that the environment names, or runs the tests.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			os.Exit(1) // the error is in the log
		}
		os.Exit(0)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Unsetenv(name) // every process is on this machine
	}
	flag.Parse()
	if !full() { // the short form mostly waits
		_ = flag.Set("test.parallel", "32")
	}
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler))
	code := m.Run()
	if full() {
		printTable(os.Stdout)
	}
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// play runs mayfly serve FILE, or mayfly signer SET SOCKET, until a signal. Each line of its input is
// what its clock shows from then on beyond the time, such as 1h.
func play(role string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var ahead atomic.Int64
	began := time.Now()
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if d, err := time.ParseDuration(lines.Text()); err == nil {
				ahead.Store(int64(d))
			}
		}
	}()
	if role == "signer" {
		return app.Sign(ctx, app.SignerOptions{Set: args[0], Socket: args[1], LogOutput: os.Stderr, Log: config.Log{Format: "text", Level: "error"}})
	}
	return app.Serve(ctx, app.Options{
		ConfigFile: args[0], Environ: os.Environ(), LogOutput: os.Stderr, LibraryLog: embedded.RouteTesseraLogs,
		Now:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Steady: func() time.Duration { return time.Since(began) },
	})
}

// binary builds mayfly once; MAYFLY_BINARY names another one, to compare.
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MAYFLY_BINARY"); path != "" {
		return testworld.Executable("MAYFLY_BINARY", path)
	}
	dir, err := os.MkdirTemp("", "mayfly-chaos-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "mayfly")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/mayfly-ca/mayfly/cmd/mayfly").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building mayfly: %w\n%s", err, out)
	}
	return path, nil
})

// built is the folder of the binary that was built.
var built string

// process is one process of mayfly. Signals go to it and to no other.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has been reaped
	clock  func(ahead time.Duration)
	output *tail
}

// command returns the command of a role, in the test binary where own is set.
func command(t testing.TB, own bool, role string, args ...string) *exec.Cmd {
	t.Helper()
	var cmd *exec.Cmd
	if own {
		cmd = exec.Command(os.Args[0], args...)
		cmd.Env = []string{roleVariable + "=" + role, "GORACE=atexit_sleep_ms=0 halt_on_error=1"}
	} else {
		options := map[string][]string{"serve": {"--config"}, "signer": {"--set", "--socket"}}[role]
		cmd = exec.Command(must(binary())(t), role)
		for i, arg := range args {
			cmd.Args = append(cmd.Args, options[i], arg)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME=/nonexistent")
	testworld.EndWithParent(cmd)
	return cmd
}

// start starts a process until the test ends.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, exited: make(chan struct{}), output: &tail{}}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	in := must(cmd.StdinPipe())(t)
	p.clock = func(ahead time.Duration) { _, _ = fmt.Fprintln(in, ahead) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		if p.alive() {
			p.stop(t)
		}
	})
	return p
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) } // fails only if it has stopped already

// kill is kill -9, and returns when the process has ended.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// stop is an ordinary shutdown.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopLimit):
		t.Errorf("a process did not stop within %s of SIGTERM:\n%s", stopLimit, p.output)
		p.kill()
	}
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// tail keeps the end of the output of a process.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text = append(t.text, b...); len(t.text) > 2*tailSize {
		t.text = bytes.Clone(t.text[len(t.text)-tailSize:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
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
