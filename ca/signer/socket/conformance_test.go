// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"io"
	"net"
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
	fault   atomic.Pointer[signFunc] // replaces sign; nil for none
	sign    signFunc
	mu      sync.Mutex // guards the fields below
	running *running
}

func (p *place) start() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = serve(p.t, socket.ServerConfig{Path: p.path, ShutdownTimeout: time.Minute, Sign: func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		if fault := p.fault.Load(); fault != nil {
			return (*fault)(ctx, key, message)
		}
		return p.sign(ctx, key, message)
	}})
}

func (p *place) stop(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.running.stop(); err != nil {
		t.Error(err)
	}
}

// signs makes the place sign by fault until mend is called.
func (p *place) signs(fault signFunc) func(*testing.T) func() {
	return func(*testing.T) func() {
		p.fault.Store(&fault)
		return func() { p.fault.Store(nil) }
	}
}

// gone stops the process at the socket.
func (p *place) gone(t *testing.T) func() {
	p.stop(t)
	return func() { p.start() }
}

// replaced puts another server at the socket, which answers each request with answer and disconnects.
func (p *place) replaced(answer string) func(*testing.T) func() {
	return func(t *testing.T) func() {
		p.stop(t)
		l, err := net.Listen("unix", p.path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					if _, err := c.Read(make([]byte, 4096)); err == nil {
						_, _ = io.WriteString(c, answer)
					}
				}()
			}
		}()
		return func() {
			_ = l.Close()
			p.start()
		}
	}
}

// later puts a server with another version of the protocol at the socket.
func (p *place) later(t *testing.T) func() {
	p.stop(t)
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go func() { _ = server.Serve(l) }()
	return func() { server.Stop(); p.start() }
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
	open := func(cfg socket.Config) func(context.Context) (signer.Key, error) {
		return func(ctx context.Context) (signer.Key, error) { return socket.Open(ctx, cfg) }
	}
	other := newPath(t)
	serve(t, socket.ServerConfig{Path: other, Sign: signWith(t, newKey(t))})
	file := newPath(t)
	write(t, file)

	const running, release = "is mayfly signer running?", "this release"
	answers := func(err error) func(*testing.T) func() {
		return p.signs(func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return nil, err })
	}
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: open(socket.Config{Path: p.path, Public: key.Public()}),
		Faults: []signertest.Fault{
			{Name: "not running", Begin: p.gone, Transient: true, Wants: []string{p.path, "no such file", running}},
			{Name: "hangs", Begin: p.signs(hang), Transient: true, Silent: true, Wants: []string{"deadline exceeded"}},
			{Name: "disconnects", Begin: p.replaced(""), Transient: true, Wants: []string{p.path, release}},
			{Name: "is another program", Begin: p.replaced("220 ready\r\n"), Transient: true, Wants: []string{p.path, release}},
			{Name: "is the release before", Begin: p.replaced("\x00\x00\x00\x0d\x01\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00."), Transient: true, Wants: []string{p.path, release}},
			{Name: "is a later release", Begin: p.later, Wants: []string{p.path, "run the same release"}},
			{Name: "its own key is out", Begin: answers(signer.Transient(errors.New("the token was taken out"), 0)), Transient: true, Wants: []string{p.path, "its key is unavailable", "the token was taken out"}},
			{Name: "has not taken up the key", Begin: answers(socket.ErrUnknownKey), Transient: true, Wants: []string{p.path, "does not have the key", "does it read the same one?"}},
			{Name: "does not permit it", Begin: answers(errors.Join(socket.ErrNotPermitted, errPolicy)), Wants: []string{p.path, "it may not sign this", "it has basic constraints"}},
			{Name: "signs wrongly", Begin: p.signs(signWrongly(p)), Wants: []string{"does not verify"}},
		},
		Mistakes: []signertest.Mistake{
			{Name: "no such socket", Open: open(socket.Config{Path: p.path + ".not", Public: key.Public()}), Wants: []string{p.path + ".not", "no such file", running}},
			{Name: "no such folder", Open: open(socket.Config{Path: p.path + "/s", Public: key.Public()}), Wants: []string{p.path + "/s"}},
			{Name: "no socket", Open: open(socket.Config{Public: key.Public()}), Wants: []string{"ca.signer_socket", "no socket is named"}},
			{Name: "an abstract socket", Open: open(socket.Config{Path: "@mayfly", Public: key.Public()}), Wants: []string{"ca.signer_socket", "abstract socket", "name a file"}},
			{Name: "a file", Open: open(socket.Config{Path: file, Public: key.Public()}), Wants: []string{file, "it is no socket", "ca.signer_socket"}},
			{Name: "a folder", Open: open(socket.Config{Path: filepath.Dir(file), Public: key.Public()}), Wants: []string{"it is no socket", "ca.signer_socket"}},
			{Name: "too long a path", Open: open(socket.Config{Path: p.path + string(make([]byte, 100)), Public: key.Public()}), Wants: []string{"ca.signer_socket", "choose a shorter one"}},
			{Name: "of another CA", Open: open(socket.Config{Path: other, Public: key.Public()}), Wants: []string{other, "does not have the key"}},
		},
	})
}

// signWrongly signs another message than the requested one.
func signWrongly(p *place) signFunc {
	return func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		return p.sign(ctx, key, append(message, 'x'))
	}
}

// After a restart no caller gets an error: all kept connections are dead, but one attempt of each
// signature suffices.
func TestRestartCostsNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := &place{t: t, path: newPath(t), sign: signWith(t, key)}
	p.start()
	opened := open(t, p.path, key)
	const clients = 8
	together := func() {
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for range clients {
			wg.Go(func() {
				<-gate
				signature, err := opened.Sign(t.Context(), []byte("message"))
				if err != nil {
					t.Error(err)
					return
				}
				verify(t, key, []byte("message"), signature)
			})
		}
		close(gate)
		wg.Wait()
	}
	for range 5 {
		together()
		p.stop(t)
		p.start()
		together()
	}
}

// front returns the Signer of a server with its key at path.
func front(t *testing.T, path string, key *ecdsa.PrivateKey) *signer.Signer {
	t.Helper()
	s, err := signer.New(signer.Config{Name: "test", Kind: "socket", Public: key.Public(), Open: func(ctx context.Context) (signer.Key, error) {
		return socket.Open(ctx, socket.Config{Path: path, Public: key.Public()})
	}, Timeout: 25 * time.Second, Attempt: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// An error of the signing process is not retried at once, since that process has already retried.
// It counts against the key, unless the process was busy or the message is the cause.
func TestWhatIsSaidOfTheKeyIsHeard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err      error
		failures int
		remedy   signer.Remedy // zero for none
	}{
		"its own key is out":      {signer.Transient(errors.New("the token was taken out"), 0), 1, signer.Retry},
		"it is busy":              {signer.Busy(errors.New("64 signatures are being made")), 0, signer.Wait},
		"it does not permit it":   {errors.Join(socket.ErrNotPermitted, errPolicy), 0, 0},
		"it fails, for all times": {errors.New("the PIN is wrong"), 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, path := newKey(t), newPath(t)
			var asked atomic.Int32
			serve(t, socket.ServerConfig{Path: path, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) {
				asked.Add(1)
				return nil, test.err
			}})
			s := front(t, path, key)
			_, err := s.Sign(t.Context(), []byte("message"))
			holds(t, err, path)
			if f := (*signer.Failure)(nil); errors.As(err, &f) != (test.remedy != 0) || f != nil && f.Remedy != test.remedy {
				t.Errorf("it came as %v", err)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("it was asked %d times for one signature", n)
			}
			if n := s.Status().Failures; n != test.failures {
				t.Errorf("%d failures count, want %d", n, test.failures)
			}
		})
	}
}

// Sign returns when its ctx ends without an answer, and when Close is called.
func TestSignEnds(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	path := newPath(t)
	asked := make(chan struct{}, 1)
	serve(t, socket.ServerConfig{Path: path, ShutdownTimeout: time.Millisecond, Sign: func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		asked <- struct{}{}
		return hang(ctx, key, message)
	}})
	for name, test := range map[string]struct {
		end  func(cancel context.CancelFunc, key io.Closer)
		want error
	}{
		"cancelled": {func(cancel context.CancelFunc, _ io.Closer) { cancel() }, context.Canceled},
		"closed":    {func(_ context.CancelFunc, key io.Closer) { _ = key.Close() }, signer.ErrClosed},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		opened := open(t, path, key)
		ended := make(chan error, 1)
		go func() {
			_, err := opened.Sign(ctx, []byte("message"))
			ended <- err
		}()
		<-asked
		test.end(cancel, opened)
		if err := <-ended; !errors.Is(err, test.want) || signer.IsTransient(err) {
			t.Errorf("%s: got error %v, want %v", name, err, test.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := open(t, path, key).Sign(ctx, []byte("message"))
	if !errors.Is(err, context.DeadlineExceeded) && !signer.IsTransient(err) {
		t.Errorf("after its deadline: error %v", err)
	}
}
