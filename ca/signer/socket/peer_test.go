// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

const stranger = 65533

// as calls do in a thread of the user uid: the kernel records the user of the thread that connects
// or listens. The thread ends with do.
func as(t *testing.T, uid int, do func() error) error {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	return <-done
}

// folder returns the path of a socket in a folder with an owner and a mode.
func folder(t *testing.T, owner int, mode fs.FileMode) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = errors.Join(os.Chown(dir, owner, -1), os.Chmod(dir, mode))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "s")
}

// hello is how a client of gRPC begins.
const hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// The server accepts only the users that it allows. Root is not special. Refused connections are
// counted, and do not fill the log.
func TestPeersAreChecked(t *testing.T) {
	t.Parallel()
	own := uint32(os.Getuid())
	for name, test := range map[string]struct {
		uids  []uint32
		chmod bool // the socket was opened for all users
		user  int
		want  string // what the client meets: "no permission", "refused" or ""
	}{
		"another user, own file":     {nil, false, stranger, "no permission"},
		"another user, open file":    {nil, true, stranger, "refused"},
		"another user than the user": {[]uint32{own, 4711}, false, stranger, "refused"},
		"root, which is not allowed": {[]uint32{4711}, false, 0, "refused"},
		"the user":                   {[]uint32{own, stranger}, false, stranger, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refused sync.Map
			var lines strings.Builder
			path := folder(t, os.Getuid(), 0o755)
			s, err := NewServer(ServerConfig{Path: path, AllowUIDs: test.uids, Refused: func(r Refusal) { refused.Store(r, true) }, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
			if err == nil {
				err = s.Listen()
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.chmod {
				if err := os.Chmod(path, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx) }()
			k := &key{Config: Config{Path: path}}
			for range 10 {
				err := as(t, test.user, func() error {
					c, err := k.dial(t.Context())
					if err != nil {
						return err
					}
					defer func() { _ = c.Close() }()
					_, _ = io.WriteString(c, hello)
					_, err = c.Read(make([]byte, 1))
					return err
				})
				got := ""
				switch {
				case errors.Is(err, fs.ErrPermission) && !signer.IsTransient(err):
					got = "no permission"
				case err != nil:
					got = "refused"
				}
				if got != test.want {
					t.Fatalf("got %q (%v), want %q", got, err, test.want)
				}
			}
			cancel()
			<-served
			if _, counted := refused.Load(RefusedConnection); counted != (test.want == "refused") {
				t.Errorf("a refusal was counted: %t", counted)
			}
			if n := strings.Count(lines.String(), "its user is not allowed"); (n > 0) != (test.want == "refused") || n > 5 {
				t.Errorf("the log has %d lines", n)
			}
		})
	}
}

// A process that created the socket before the signer, in a folder that allows it, gets no request.
func TestListenersAreChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		owner   int // of the folder
		refused bool
	}{
		"in a folder of root's": {0, true},
		"in one of its own":     {stranger, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l net.Listener
			var path string
			if err := as(t, 0, func() error { path = folder(t, test.owner, 0o777|fs.ModeSticky); return nil }); err != nil {
				t.Fatal(err)
			}
			err := as(t, stranger, func() (err error) { l, err = net.Listen("unix", path); return err })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			c, err := (&key{Config: Config{Path: path}}).dial(t.Context())
			if (err != nil) != test.refused || err != nil && !strings.Contains(err.Error(), "uid 65533 listens there") {
				t.Errorf("error %v", err)
			}
			if err == nil {
				_ = c.Close()
			}
		})
	}
}

// oneConnection is a listener that accepts one connection.
type oneConnection chan net.Conn

func (l oneConnection) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (oneConnection) Close() error   { return nil }
func (oneConnection) Addr() net.Addr { return peer{} }

// The server closes a connection that has no request for two minutes.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(ServerConfig{Path: "s"})
		if err != nil {
			t.Fatal(err)
		}
		client, accepted := net.Pipe()
		l := make(oneConnection, 1)
		l <- accepted
		served := make(chan error, 1)
		go func() { served <- s.grpc.Serve(l) }()
		began := time.Now()
		go func() { _, _ = io.WriteString(client, hello) }()
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 4*time.Minute {
			t.Errorf("the idle connection was closed after %s, want 2 minutes and the time for its client to finish", took)
		}
		close(l)
		s.grpc.Stop()
		<-served
	})
}
