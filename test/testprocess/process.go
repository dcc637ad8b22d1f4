// SPDX-License-Identifier: Apache-2.0

// Package testprocess runs mayfly in processes of its own, for tests of outages: the real binary, or the test
// binary with a clock that the test sets.
package testprocess

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const stopLimit = 30 * time.Second

// Process is a process that a test has started. Signals go to it and to no other.
type Process struct {
	Cmd    *exec.Cmd
	in     io.Writer
	exited chan struct{} // closed when the process has been reaped
}

// Start starts cmd, which has its output already, until the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	testworld.EndWithParent(cmd)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Cmd: cmd, in: in, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		if p.Alive() {
			p.Stop(t)
		}
	})
	return p
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.Cmd.Process.Signal(s) } // fails only if it has stopped already

// Kill is kill -9, and returns when the process has ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Stop is an ordinary shutdown, also of a process that SIGSTOP has stopped.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	p.Signal(syscall.SIGCONT)
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopLimit):
		t.Errorf("a process did not stop within %s of SIGTERM:\n%v", stopLimit, p.Cmd.Stderr)
		p.Kill()
	}
}

// Alive reports whether the process has not ended.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Ahead sets how far the clock of a process that runs Serve is ahead of the time.
func (p *Process) Ahead(d time.Duration) error {
	_, err := fmt.Fprintln(p.in, d)
	return err
}

// Serve is mayfly serve until SIGTERM. Each line of its input is what its clock shows from then on beyond the
// time, such as 1h.
func Serve(file string) error {
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
	return app.Serve(ctx, app.Options{
		ConfigFile: file, Environ: os.Environ(), LogOutput: os.Stderr, LibraryLog: embedded.RouteTesseraLogs,
		Now:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Steady: func() time.Duration { return time.Since(began) },
	})
}

// Binary builds mayfly in the folder dir, with the race detector where the test has it: its packages are then built
// already. MAYFLY_BINARY names another one.
func Binary(dir string) (string, error) {
	if path := os.Getenv("MAYFLY_BINARY"); path != "" {
		return testworld.Executable("MAYFLY_BINARY", path)
	}
	path := filepath.Join(dir, "mayfly")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-o", path}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "github.com/mayfly-ca/mayfly/cmd/mayfly")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building mayfly: %w\n%s", err, out)
	}
	return path, nil
}

// Tail keeps the end of the output of a process. It is an io.Writer and a fmt.Stringer.
type Tail struct {
	mu   sync.Mutex
	text []byte
	size int
}

// NewTail returns a Tail of at least size bytes, or of everything if size is 0.
func NewTail(size int) *Tail { return &Tail{size: size} }

// Write implements io.Writer.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text = append(t.text, b...); t.size > 0 && len(t.text) > 2*t.size {
		t.text = slices.Clone(t.text[len(t.text)-t.size:])
	}
	return len(b), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
