// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

// The modes do not depend on the umask. The umask belongs to the process, so this test is not
// parallel, and parallel tests wait for it.
func TestModeOfTheSocket(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	own := uint32(os.Getuid())
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		syscall.Umask(umask)
		for _, test := range []struct {
			cfg  socket.ServerConfig
			want fs.FileMode
		}{
			{socket.ServerConfig{}, 0o600},
			{socket.ServerConfig{AllowUIDs: []uint32{own}}, 0o600},
			{socket.ServerConfig{AllowUIDs: []uint32{own, own + 1}}, 0o666},
		} {
			syscall.Umask(0o022)
			test.cfg.Path, test.cfg.Sign = newPath(t), signWith(t, newKey(t))
			syscall.Umask(umask)
			server := serve(t, test.cfg)
			info, err := os.Lstat(test.cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode(); got != fs.ModeSocket|test.want {
				t.Errorf("umask %03o: the mode is %s, want %s", umask, got, fs.ModeSocket|test.want)
			}
			if err := server.stop(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestListenAndWhatIsThere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before func(t *testing.T, path string)
		want   string // of the error; "" for success
		stays  bool   // the existing file stays, too
	}{
		"nothing":        {before: func(*testing.T, string) {}},
		"a stale socket": {before: stale},
		"another signer": {before: func(t *testing.T, path string) {
			serve(t, socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
		}, want: "another mayfly signer runs at", stays: true},
		"a file": {before: func(t *testing.T, path string) { write(t, path) }, want: "is no socket", stays: true},
		"a link": {before: func(t *testing.T, path string) {
			write(t, path+".key")
			if err := os.Symlink(path+".key", path); err != nil {
				t.Fatal(err)
			}
		}, want: "is no socket", stays: true},
		"a folder":          {before: func(t *testing.T, path string) { mkdir(t, path, 0o755) }, want: "is no socket", stays: true},
		"an open folder":    {before: func(t *testing.T, path string) { mkdir(t, filepath.Dir(path), 0o757) }, want: "only its owner may write"},
		"a group's folder":  {before: func(t *testing.T, path string) { mkdir(t, filepath.Dir(path), 0o775) }, want: "only its owner may write"},
		"a sticky folder":   {before: func(t *testing.T, path string) { mkdir(t, filepath.Dir(path), 0o777|fs.ModeSticky) }, want: "only its owner may write"},
		"another's folder":  {before: func(t *testing.T, path string) { chown(t, filepath.Dir(path), 4711) }, want: "belongs to uid 4711"},
		"no folder":         {before: func(t *testing.T, path string) { _ = os.Remove(filepath.Dir(path)) }, want: "mode 0750"},
		"a file for folder": {before: func(t *testing.T, path string) { _ = os.Remove(filepath.Dir(path)); write(t, filepath.Dir(path)) }, want: "is no folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			test.before(t, path)
			s, err := socket.NewServer(socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
			if err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			err = s.Listen()
			switch {
			case test.want != "":
				holds(t, err, test.want, "--socket: ")
			case err != nil:
				t.Error(err)
			default:
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := s.Serve(ctx); err != nil {
					t.Error(err)
				}
			}
			after, err := os.Lstat(path)
			if test.stays && (err != nil || !os.SameFile(before, after)) {
				t.Errorf("what was there is not: %v", err)
			}
			if test.want == "" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is still there after the end: %v", err)
			}
		})
	}
}

// stale leaves a socket at path without a listener. It never listens, since a process that another
// test starts would keep a listener for a moment.
func stale(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// A server that stops leaves a file at its path that is not its own.
func TestEndLeavesAnothersSocket(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	first := serve(t, socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
	for _, name := range []string{path, path + ".lock"} {
		if err := os.Rename(name, name+".away"); err != nil {
			t.Fatal(err)
		}
	}
	key := newKey(t)
	serve(t, socket.ServerConfig{Path: path, Sign: signWith(t, key)})
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	if _, err := open(t, path, key).Sign(t.Context(), []byte("message")); err != nil {
		t.Error(err)
	}
}

// Of two servers that start at once over a stale socket, one listens and keeps it.
func TestOneOfTwoListens(t *testing.T) {
	t.Parallel()
	for range 50 {
		path, key := newPath(t), newKey(t)
		stale(t, path)
		gate, ended := make(chan struct{}), make(chan error, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 2 {
			s, err := socket.NewServer(socket.ServerConfig{Path: path, Sign: signWith(t, key)})
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() {
				<-gate
				err := s.Listen()
				ended <- err
				if err == nil {
					_ = s.Serve(ctx)
				}
			})
		}
		close(gate)
		first, second := <-ended, <-ended
		if (first == nil) == (second == nil) {
			t.Fatalf("they ended with %v and %v", first, second)
		}
		holds(t, errors.Join(first, second), "another mayfly signer runs at")
		if _, err := open(t, path, key).Sign(t.Context(), []byte("message")); err != nil {
			t.Error(err)
		}
		cancel()
		group.Wait()
	}
}

// Check reports a socket that was removed or replaced under its server.
func TestCheck(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := socket.NewServer(socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { _ = s.Serve(ctx) }()
	defer cancel()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	holds(t, s.Check(t.Context()), "--socket", path, "restart mayfly signer")
	stale(t, path)
	holds(t, s.Check(t.Context()), "--socket", path, "replaced", "restart mayfly signer")
}
