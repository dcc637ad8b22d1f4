// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// manager is a service manager: it has the socket of the REST API, and receives notifications.
type manager struct {
	t       *testing.T
	binary  string
	socket  *os.File
	address string
	notify  *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "mayfly") // by this name, the test binary is the command: see TestMain
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, binary)
	}
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.7:0") // no other test has ports there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	// An abstract name, which the kernel releases with the socket.
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("@mayfly-test-%d-%s", os.Getpid(), t.Name())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notify.Close() })
	return &manager{t: t, binary: binary, socket: socket, address: listener.Addr().String(), notify: notify}
}

// start starts mayfly serve with the socket as number 3. LISTEN_PID and WATCHDOG_PID are its own process.
func (m *manager) start(w *testworld.World, name string) *exec.Cmd {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0" serve --config "$1"`, m.binary, w.ConfigFile)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES="+name, "WATCHDOG_USEC=400000",
		"NOTIFY_SOCKET="+m.notify.LocalAddr().String(), "MAYFLY_LISTEN_HTTP="+m.address)
	cmd.ExtraFiles = []*os.File{m.socket}
	testworld.EndWithParent(cmd)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	return cmd
}

// await reads notifications until each of lines has come, and returns all of them in order.
func (m *manager) await(lines ...string) (received []string) {
	m.t.Helper()
	missing := map[string]bool{}
	for _, line := range lines {
		missing[line] = true
	}
	buffer := make([]byte, 4096)
	for len(missing) > 0 {
		if err := m.notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			m.t.Fatal(err)
		}
		n, err := m.notify.Read(buffer)
		if err != nil {
			m.t.Fatalf("%v did not come: %v; before: %q", missing, err, received)
		}
		for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
			received = append(received, line)
			delete(missing, line)
		}
	}
	return received
}

// request gets a certificate over a connection of its own.
func (m *manager) request(w *testworld.World) error {
	c, err := client.New(client.Config{URL: "http://" + m.address})
	if err != nil {
		return err
	}
	chain, err := w.Request(m.t.Context(), c, false)
	return errors.Join(err, w.Verify(chain))
}

// A server that a service manager has started with a socket reports when it is ready, its state, that it
// is alive, and that it stops. No connection is refused or lost during a restart, also while no process
// runs.
func TestRestartUnderAServiceManager(t *testing.T) {
	t.Parallel()
	w, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	m := newManager(t)
	first := m.start(w, "http")
	received := m.await("READY=1", "STATUS=ready", "WATCHDOG=1")
	for _, line := range received {
		if line == "WATCHDOG=1" {
			t.Fatal("WATCHDOG=1 before READY=1")
		} else if line == "READY=1" {
			break
		}
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := m.request(w); err != nil {
					t.Errorf("a request during the restart: %v", err)
					return
				}
			}
		})
	}
	if err := m.request(w); err != nil {
		t.Fatal(err)
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.await("STOPPING=1", "EXTEND_TIMEOUT_USEC=35000000") // drain 20s, and 15s for the rest
	if err := first.Wait(); err != nil {
		t.Fatalf("the first process: %v", err)
	}
	between := make(chan error, 1)
	connection, err := net.Dial("tcp", m.address) // accepted by the kernel, while nothing runs
	if err != nil {
		t.Fatalf("while no process runs: %v", err)
	}
	_ = connection.Close()
	go func() { between <- m.request(w) }()
	second := m.start(w, "http")
	m.await("READY=1")
	if err := <-between; err != nil {
		t.Errorf("a request while no process ran: %v", err)
	}
	close(stop)
	clients.Wait()
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second process: %v", err)
	}
}

// A socket with a name that is not a listener's stops the start with exit code 1.
func TestSocketWithAnUnknownName(t *testing.T) {
	t.Parallel()
	w, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	cmd := newManager(t).start(w, "mayfly.socket")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("found %v, expected exit code 1", err)
	}
}
