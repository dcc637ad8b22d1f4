// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

// place is a signing process with faults that a test can start.
type place struct {
	t       *testing.T // the process stops with it, whichever subtest started the process
	path    string
	sign    signFunc
	fault   atomic.Pointer[signFunc] // replaces sign; nil for none
	running *running
}

func (p *place) start() {
	p.running = serve(p.t, socket.ServerConfig{Path: p.path, ShutdownTimeout: time.Minute, Sign: func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		if fault := p.fault.Load(); fault != nil {
			return (*fault)(ctx, key, message)
		}
		return p.sign(ctx, key, message)
	}})
}

// signs makes the place sign by fault until mend is called.
func (p *place) signs(fault signFunc) func(*testing.T) func() {
	return func(*testing.T) func() {
		p.fault.Store(&fault)
		return func() { p.fault.Store(nil) }
	}
}

// fails makes the place return err.
func (p *place) fails(err error) func(*testing.T) func() {
	return p.signs(func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return nil, err })
}

// replaced puts another server at the socket.
func (p *place) replaced(serve func(net.Listener)) func(*testing.T) func() {
	return func(t *testing.T) func() {
		must(t, p.running.stop())
		l, err := net.Listen("unix", p.path)
		must(t, err)
		go serve(l)
		return func() {
			_ = l.Close()
			p.start()
		}
	}
}

// answers returns a server that answers each request with answer and disconnects.
func answers(answer string) func(net.Listener) {
	return func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
			}()
		}
	}
}

func hang(ctx context.Context, _ [sha256.Size]byte, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestConformance(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := &place{t: t, path: newPath(t), sign: signWith(t, key)}
	p.start()
	open := func(path string) func(context.Context) (signer.Key, error) {
		return func(ctx context.Context) (signer.Key, error) {
			return socket.Open(ctx, socket.Config{Path: path, Public: key.Public()})
		}
	}
	other, file := newPath(t), newPath(t)
	serve(t, socket.ServerConfig{Path: other, Sign: signWith(t, newKey(t))})
	must(t, os.WriteFile(file, nil, 0o600))

	const running, release = "is mayfly signer running?", "this release"
	fault := func(name string, transient bool, begin func(*testing.T) func(), wants ...string) signertest.Fault {
		return signertest.Fault{Name: name, Begin: begin, Transient: transient, Silent: name == "hangs", Wants: wants}
	}
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: open(p.path),
		Faults: []signertest.Fault{
			fault("not running", true, func(t *testing.T) func() { must(t, p.running.stop()); return p.start }, p.path, "no such file", running),
			fault("hangs", true, p.signs(hang), "deadline exceeded"),
			fault("disconnects", true, p.replaced(answers("")), p.path, release),
			fault("is another program", true, p.replaced(answers("220 ready\r\n")), p.path, release),
			fault("is a later release", false, p.replaced(func(l net.Listener) {
				server := grpc.NewServer()
				_ = server.Serve(l)
				server.Stop()
			}), p.path, "run the same release"),
			fault("its own key is out", true, p.fails(signer.Transient(errors.New("the token was taken out"), 0)), p.path, "its key is unavailable", "the token was taken out"),
			fault("has not taken up the key", true, p.fails(socket.ErrUnknownKey), p.path, "does not have the key", "does it read the same one?"),
			fault("does not permit it", false, p.fails(fmt.Errorf("%w: it has basic constraints", signer.ErrNotPermitted)), p.path, "it may not sign this", "it has basic constraints"),
			fault("signs wrongly", false, p.signs(func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
				return p.sign(ctx, key, append(message, 'x'))
			}), "does not verify"),
		},
		Mistakes: []signertest.Mistake{
			{Name: "no such socket", Open: open(p.path + ".not"), Wants: []string{p.path + ".not", "no such file", running}},
			{Name: "an abstract socket", Open: open("@mayfly"), Wants: []string{"ca.signer_socket", "no abstract socket"}},
			{Name: "a file", Open: open(file), Wants: []string{file, "it is no socket", "ca.signer_socket"}},
			{Name: "a folder", Open: open(filepath.Dir(file)), Wants: []string{"it is no socket", "ca.signer_socket"}},
			{Name: "of another CA", Open: open(other), Wants: []string{other, "does not have the key"}},
		},
	})
}

// After a restart no caller gets an error: all kept connections are dead, but one attempt of each
// signature suffices.
func TestRestartCostsNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := &place{t: t, path: newPath(t), sign: signWith(t, key)}
	p.start()
	opened := open(t, p.path, key)
	for range 5 {
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				if err := sign(t, opened); err != nil {
					t.Error(err)
				}
			})
		}
		clients.Wait()
		must(t, p.running.stop())
		p.start()
	}
}

// After an outage, one caller gets an error at most: it causes a new connection without a backoff.
func TestOutageLeavesNoBackoff(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := &place{t: t, path: newPath(t), sign: signWith(t, key)}
	opened := open(t, p.path, key)
	for range 10 { // until the backoff of the connection is at its maximum
		if sign(t, opened) == nil {
			t.Fatal("a process that does not run has signed")
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.start()
	_ = sign(t, opened)
	time.Sleep(25 * time.Millisecond) // the pause before signer.Signer's retry
	must(t, sign(t, opened))
}

// Sign under way returns when its ctx ends, and when Close is called.
func TestSignEnds(t *testing.T) {
	t.Parallel()
	key, path, asked := newKey(t), newPath(t), make(chan struct{}, 1)
	serve(t, socket.ServerConfig{Path: path, ShutdownTimeout: time.Millisecond, Sign: func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		asked <- struct{}{}
		return hang(ctx, key, message)
	}})
	for _, want := range []error{context.Canceled, signer.ErrClosed} {
		ctx, cancel := context.WithCancel(t.Context())
		opened := open(t, path, key)
		ended := make(chan error, 1)
		go func() {
			_, err := opened.Sign(ctx, message)
			ended <- err
		}()
		<-asked
		if want == signer.ErrClosed {
			must(t, opened.Close())
		} else {
			cancel()
		}
		if err := <-ended; !errors.Is(err, want) || signer.IsTransient(err) {
			t.Errorf("got error %v, want %v", err, want)
		}
		cancel()
	}
}
