// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
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
	for _, umask := range []int{0, 0o022, 0o777} {
		for want, uids := range map[fs.FileMode][]uint32{0o600: {own}, 0o666: {own, own + 1}} {
			syscall.Umask(0o022)
			path := newPath(t)
			syscall.Umask(umask)
			server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: uids})
			info, err := os.Lstat(path)
			must(t, err, server.stop())
			if got := info.Mode(); got != fs.ModeSocket|want {
				t.Errorf("umask %03o: the mode is %s, want %s", umask, got, fs.ModeSocket|want)
			}
		}
	}
}

func TestListenAndWhatIsThere(t *testing.T) {
	t.Parallel()
	mode := func(mode fs.FileMode) func(string) error {
		return func(path string) error { return os.Chmod(filepath.Dir(path), mode) }
	}
	for name, test := range map[string]struct {
		before func(path string) error
		want   string // of the error; "" for success
		stays  bool   // the existing file stays, too
	}{
		"nothing":        {before: func(string) error { return nil }},
		"a stale socket": {before: stale},
		"a file":         {before: func(path string) error { return os.WriteFile(path, nil, 0o600) }, want: "is no socket", stays: true},
		"a link": {before: func(path string) error {
			return errors.Join(os.WriteFile(path+".key", nil, 0o600), os.Symlink(path+".key", path))
		}, want: "is no socket", stays: true},
		"a folder":         {before: func(path string) error { return os.Mkdir(path, 0o755) }, want: "is no socket", stays: true},
		"an open folder":   {before: mode(0o757), want: "only its owner may write"},
		"a group's folder": {before: mode(0o775), want: "only its owner may write"},
		"a sticky folder":  {before: mode(0o777 | fs.ModeSticky), want: "only its owner may write"},
		"another's folder": {before: func(path string) error { return os.Chown(filepath.Dir(path), 4711, -1) }, want: "belongs to uid 4711"},
		"no folder":        {before: func(path string) error { return os.Remove(filepath.Dir(path)) }},
		"a file for folder": {before: func(path string) error {
			return errors.Join(os.Remove(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		}, want: "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			if err := test.before(path); errors.Is(err, fs.ErrPermission) {
				t.Skip("only root can give a folder away")
			} else if err != nil {
				t.Fatal(err)
			}
			s, err := socket.NewServer(socket.ServerConfig{Path: path})
			must(t, err)
			before, _ := os.Lstat(path)
			if err = s.Listen(); test.want != "" {
				holds(t, err, test.want, "--socket: ")
			} else {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				must(t, err, s.Serve(ctx))
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

// A folder that is missing alone is created, so that no other user may enter or change it. None is created above it.
func TestListenCreatesTheFolder(t *testing.T) {
	t.Parallel()
	above := filepath.Dir(newPath(t))
	must(t, os.Chmod(above, 0o777)) // as an emptyDir of Kubernetes
	path := filepath.Join(above, "new", "s")
	s, err := socket.NewServer(socket.ServerConfig{Path: path})
	must(t, err, s.Listen())
	info, err := os.Stat(filepath.Dir(path))
	must(t, err)
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		t.Errorf("the folder has mode %04o, want 0750 at most", mode)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, s.Serve(ctx))
	s, err = socket.NewServer(socket.ServerConfig{Path: filepath.Join(above, "none", "new", "s")})
	must(t, err)
	holds(t, s.Listen(), "mode 0750")
	if _, err := os.Stat(filepath.Join(above, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder above was created: %v", err)
	}
}

// stale leaves a socket at path without a listener.
func stale(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd))
}

// Of two servers that start at once over a stale socket, one listens and keeps it.
func TestOneOfTwoListens(t *testing.T) {
	t.Parallel()
	for range 50 {
		path, key := newPath(t), newKey(t)
		must(t, stale(path))
		var errs [2]error
		var group sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i := range errs {
			s, err := socket.NewServer(socket.ServerConfig{Path: path, Sign: signWith(t, key)})
			must(t, err)
			group.Go(func() {
				if errs[i] = s.Listen(); errs[i] == nil {
					go func() { _ = s.Serve(ctx) }()
				}
			})
		}
		group.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("they ended with %v", errs)
		}
		holds(t, errors.Join(errs[:]...), "another mayfly signer runs at")
		must(t, sign(t, open(t, path, key)))
		cancel()
	}
}

// Check reports a socket that was removed or replaced under its server, which leaves the other one
// there when it stops.
func TestReplacedSocket(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := socket.NewServer(socket.ServerConfig{Path: path})
	must(t, err)
	must(t, s.Listen())
	must(t, s.Check(t.Context()), os.Remove(path))
	holds(t, s.Check(t.Context()), "--socket", path, "restart mayfly signer")
	must(t, stale(path))
	holds(t, s.Check(t.Context()), "--socket", path, "replaced", "restart mayfly signer")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, s.Serve(ctx))
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other socket: %v", err)
	}
}

// A socket that another process has created keeps its mode, and stays when the server stops.
func TestPassedSocketStays(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o660); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{path, path + "2"} {
		s, err := socket.NewServer(socket.ServerConfig{Path: other, Listener: l, Sign: func(context.Context, [32]byte, []byte) ([]byte, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(); (err != nil) != (other != path) {
			t.Fatalf("%s: %v", other, err)
		}
		if other != path {
			continue
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := s.Serve(ctx); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o660 {
			t.Errorf("after the stop: %v, %v", info, err)
		}
		if _, err := os.Lstat(path + ".lock"); !os.IsNotExist(err) {
			t.Errorf("there is a lock: %v", err)
		}
	}
}
