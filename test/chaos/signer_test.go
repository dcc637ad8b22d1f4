// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

type signFunc = func(ctx context.Context, message []byte) ([]byte, error)

// place is the other side of a server's signer: it signs with the CA's key, or with a fault.
type place struct {
	key   signer.Key
	fault atomic.Pointer[signFunc]
	calls atomic.Int64
}

// useSet makes the server use the CA set in which the world's authority is, with its keys behind a socket, or
// in its own process where path is "". It returns the folder of the authority.
func (w *world) useSet(path string) string {
	w.t.Helper()
	text := must(os.ReadFile(w.ConfigFile))(w.t)
	found := regexp.MustCompile(`(?m)^  file: \{chain: (.*)/chain.pem, .*$`).FindSubmatch(text)
	next := "  set: ca/ca.yaml"
	if path != "" {
		next += "\n  signer_socket: " + path
	}
	w.rewrite("mayfly.yaml", string(found[0]), next)
	return filepath.Join(w.Dir, string(found[1]))
}

// newSocket returns a path for a socket. The path of t.TempDir can be too long for one.
func newSocket(t testing.TB) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "m"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// usePlace makes the server use keys of this process.
func (w *world) usePlace() *place {
	w.t.Helper()
	path := newSocket(w.t)
	dir := w.useSet(path)
	key, _, err := file.Open(filepath.Join(dir, "key.pem"), filepath.Join(dir, "pass"))
	if err != nil {
		w.t.Fatal(err)
	}
	p := &place{key: signer.InMemory(key)}
	s := must(socket.NewServer(socket.ServerConfig{Path: path, Sign: p.sign}))(w.t)
	if err := s.Listen(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return p
}

func (p *place) sign(ctx context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
	p.calls.Add(1)
	if fault := p.fault.Load(); fault != nil {
		return (*fault)(ctx, message)
	}
	return p.key.Sign(ctx, message)
}

// TestSigner gives each fault to the process that holds the CA's key.
func TestSigner(t *testing.T) {
	t.Parallel()
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	for name, fault := range map[string]func(p *place) signFunc{
		"fails": func(*place) signFunc {
			return func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the device is broken") }
		},
		"is busy": func(*place) signFunc {
			return func(context.Context, []byte) ([]byte, error) {
				return nil, signer.Transient(errors.New("the service is unavailable"), time.Second)
			}
		},
		"hangs": func(*place) signFunc {
			return func(ctx context.Context, _ []byte) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"signs with another key": func(*place) signFunc { return signer.InMemory(crypto.Signer(other)).Sign },
		"signs another message": func(p *place) signFunc {
			return func(ctx context.Context, message []byte) ([]byte, error) {
				return p.key.Sign(ctx, append(bytes.Clone(message), 0))
			}
		},
	} {
		if !full() && (name == "is busy" || name == "signs another message") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			p := w.usePlace()
			w.start()
			w.line("no fault")
			w.load()
			w.steady()
			w.line("signer slow")
			slow := func(ctx context.Context, message []byte) ([]byte, error) {
				select {
				case <-time.After(300 * time.Millisecond):
				case <-ctx.Done():
				}
				return p.key.Sign(ctx, message)
			}
			p.fault.Store(&slow)
			w.asked(&p.calls)
			w.steady()
			w.line("signer %s", name)
			w.become(func(s *state) { s.signer = false })
			f := fault(p)
			p.fault.Store(&f)
			w.refused("SIGNER_UNAVAILABLE")
			w.recover(theForm().bound, func(s *state) { s.signer = true }, func() { p.fault.Store(nil) })
			w.steady()
			w.judge(nil)
		})
	}
}

// TestSignerProcess stops, continues, kills and restarts mayfly signer.
func TestSignerProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	path := newSocket(t)
	w.useSet(path)
	run := func() *process {
		p := start(t, command(t, w.own, "signer", filepath.Join(w.Dir, "ca", "ca.yaml"), path))
		w.await("the socket of mayfly signer", func() bool { _, err := os.Stat(path); return err == nil })
		return p
	}
	p := run()
	w.start()
	w.line("no fault")
	w.load()
	w.steady()
	w.line("mayfly signer: SIGSTOP")
	w.become(func(s *state) { s.signer = false })
	p.Signal(syscall.SIGSTOP)
	w.refused("SIGNER_UNAVAILABLE")
	w.recover(theForm().bound, func(s *state) { s.signer = true }, func() { p.Signal(syscall.SIGCONT) })
	w.steady()
	w.line("mayfly signer: kill -9")
	w.become(func(s *state) { s.signer = false })
	p.Kill()
	w.refused("SIGNER_UNAVAILABLE")
	w.recover(theForm().bound, func(s *state) { s.signer = true }, func() { run() })
	w.steady()
	w.judge(nil)
}
