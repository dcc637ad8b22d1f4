// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	defaultConnections = 64
	defaultIdle        = 2 * time.Minute
	defaultRead        = 5 * time.Second
	defaultRequest     = 5 * time.Second
	defaultShutdown    = 5 * time.Second

	// acceptPause is how long a server that cannot accept waits for a free file descriptor or free
	// memory.
	acceptPause = 50 * time.Millisecond
	// abandonPause bounds the wait for requests after their cancellation.
	abandonPause = time.Second

	// overflowID is the ID that Linux shows for every user or group of another user namespace
	// (user_namespaces(7)).
	overflowID = 65534
)

// ServerConfig is the configuration of a Server.
type ServerConfig struct {
	// Path is that of the socket, 107 octets at most. The folder must exist, belong to this
	// process's user or root, and be writable for no other user. A file beside the socket (.lock)
	// prevents a second Server, and stays.
	Path string
	// AllowUIDs are the effective user IDs of the processes that may connect; none for that of
	// this process. No other user is allowed, not even root.
	AllowUIDs []uint32
	// Sign returns the signature over message, which is not hashed, with the key that has the
	// given ID (KeyID), in the form that certificates hold. It decides whether message may be
	// signed. It returns soon after its ctx has ended. It may keep message.
	//
	// The other side gets an error that wraps ErrNotPermitted or ErrUnknownKey, or one of
	// signer.Busy, as such. It gets any other error for which signer.IsTransient holds as an
	// outage of the key. It gets the text of each error, which must therefore hold no secret.
	Sign func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error)
	// Logger receives connections, refusals and panics; nil for none. It gets each message of
	// level warning or higher once a second at most.
	Logger *slog.Logger
	// Refused is called for each refusal, also for those that are not logged; nil for none. Its
	// calls may be concurrent.
	Refused func(Refusal)
	// MaxConnections bounds the connections; zero for 64. Further connections are closed at
	// once.
	MaxConnections int
	// IdleTimeout is how long a connection is kept without a request, or while the peer reads no
	// answer; zero for 2 min. It may be half of that.
	IdleTimeout time.Duration
	// ReadTimeout bounds the arrival of a request after its first octet, RequestTimeout the
	// signing of a request; zero for 5 s each.
	ReadTimeout, RequestTimeout time.Duration
	// ShutdownTimeout bounds the requests that are under way when the Server must stop; zero for
	// 5 s.
	ShutdownTimeout time.Duration
}

// Server signs for other processes of this machine. It is used once.
type Server struct {
	cfg      ServerConfig
	log      breaker.Sparing
	listener *net.UnixListener
	file     fs.FileInfo // of the socket that listener created
	lock     *os.File    // held while it listens

	closing  atomic.Bool
	mu       sync.Mutex                 // guards the fields below
	open     map[*net.UnixConn]struct{} // every connection
	handlers sync.WaitGroup             // one for each connection
}

// NewServer returns a Server that does nothing yet.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := CheckPath(cfg.Path); err != nil {
		return nil, fmt.Errorf("--socket: %w", err)
	}
	if cfg.Sign == nil {
		return nil, errors.New("a server needs something that signs")
	}
	if slices.Contains(cfg.AllowUIDs, overflowID) {
		return nil, fmt.Errorf("--allow-user: the ID %d is nobody's: the kernel shows everybody under it who is of another user namespace; allow the IDs that they have here", overflowID)
	}
	if len(cfg.AllowUIDs) == 0 {
		cfg.AllowUIDs = []uint32{uint32(os.Geteuid())}
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = defaultConnections
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&cfg.IdleTimeout, defaultIdle}, {&cfg.ReadTimeout, defaultRead}, {&cfg.RequestTimeout, defaultRequest}, {&cfg.ShutdownTimeout, defaultShutdown},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Refused == nil {
		cfg.Refused = func(Refusal) {}
	}
	return &Server{cfg: cfg, log: breaker.Sparing{Logger: cfg.Logger, Interval: lineInterval}, open: map[*net.UnixConn]struct{}{}}, nil
}

// mode returns the mode of the socket's file: as narrow as AllowUIDs permits. If other users are
// allowed, every user can connect, and allowed decides.
func (s *Server) mode() fs.FileMode {
	own := uint32(os.Geteuid())
	if !slices.ContainsFunc(s.cfg.AllowUIDs, func(uid uint32) bool { return uid != own }) {
		return 0o600
	}
	return 0o666
}

// Listen creates the socket. Clients that connect wait until Serve is called.
func (s *Server) Listen() error {
	if err := s.listen(); err != nil {
		return fmt.Errorf("--socket: %w", err)
	}
	return nil
}

func (s *Server) listen() error {
	if err := checkFolder(s.cfg.Path); err != nil {
		return err
	}
	lock, err := lock(s.cfg.Path)
	if err != nil {
		return err
	}
	if err := removeStale(s.cfg.Path); err != nil {
		return errors.Join(err, unlock(lock))
	}
	listener, file, err := listen(s.cfg.Path, s.mode())
	if err != nil {
		return errors.Join(fmt.Errorf("making the socket %s: %w", s.cfg.Path, err), unlock(lock))
	}
	s.listener, s.file, s.lock = listener, file, lock
	return nil
}

// Check returns an error if the socket is no longer there, so that no client can connect. Listen
// must have succeeded.
func (s *Server) Check(context.Context) error {
	switch now, err := os.Lstat(s.cfg.Path); {
	case err != nil:
		return fmt.Errorf("--socket: looking for the socket: %w; no server can connect any more: restart mayfly signer", err)
	case !os.SameFile(now, s.file):
		return fmt.Errorf("--socket: somebody has put something else in the place of %s, and no server can connect any more: find out who, and restart mayfly signer", s.cfg.Path)
	}
	return nil
}

// Serve serves clients until ctx ends, and then waits for requests under way. Its error is nil
// unless that took too long. Listen must have succeeded.
func (s *Server) Serve(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("serving before listening")
	}
	// Requests continue for a while after ctx has ended.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopListening := sync.OnceFunc(s.stopListening)
	defer context.AfterFunc(ctx, stopListening)()
	for !s.closing.Load() {
		c, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			s.admit(requests, c)
		case !s.closing.Load():
			s.log.Log(ctx, slog.LevelError, "a connection to the signer's socket could not be accepted", slog.Any("error", err))
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		}
	}
	stopListening() // waits for it to return: a successor may listen when Serve has returned
	return s.finish(cancel)
}

// stopListening removes the socket while it still listens. So the removed socket cannot be that of
// a successor, which would still find ours alive.
func (s *Server) stopListening() {
	s.closing.Store(true)
	if now, err := os.Lstat(s.cfg.Path); err == nil && os.SameFile(now, s.file) {
		_ = os.Remove(s.cfg.Path)
	}
	_ = s.listener.Close()
	_ = unlock(s.lock)
}

// finish wakes the handlers that wait for a request, and waits for the others.
func (s *Server) finish(cancel context.CancelFunc) error {
	s.each(func(c *net.UnixConn) { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	done := make(chan struct{})
	go func() {
		s.handlers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(s.cfg.ShutdownTimeout):
	}
	cancel()
	s.each(func(c *net.UnixConn) { _ = c.Close() })
	select {
	case <-done:
	case <-time.After(abandonPause):
	}
	return fmt.Errorf("requests were still under way %s after the end, and got no answer", s.cfg.ShutdownTimeout)
}

func (s *Server) each(do func(*net.UnixConn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		do(c)
	}
}

// admit starts a handler for c if its peer is allowed and a connection is free.
func (s *Server) admit(ctx context.Context, c *net.UnixConn) {
	p, err := peerOf(c)
	refuse := func(why string) {
		s.cfg.Refused(RefusedConnection)
		s.log.Log(ctx, slog.LevelWarn, why, p.attrs(), slog.Any("error", err))
		_ = c.Close()
	}
	switch {
	case err != nil:
		refuse("a process whose user the kernel does not tell was turned away from the signer's socket")
		return
	case !s.allowed(p):
		refuse("a process that is not allowed was turned away from the signer's socket")
		return
	}
	s.mu.Lock()
	full := len(s.open) >= s.cfg.MaxConnections
	if !full {
		s.open[c] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		refuse("a process was turned away from the signer's socket, which has as many connections as it may")
		return
	}
	s.log.Log(ctx, slog.LevelDebug, "a process has connected to the signer's socket", p.attrs())
	s.handlers.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
			_ = c.Close()
		}()
		s.handle(ctx, c, p)
	})
}

// allowed reports whether p may request signatures.
func (s *Server) allowed(p peer) bool {
	return p.uid != overflowID && slices.Contains(s.cfg.AllowUIDs, p.uid)
}

// peer is the process at the other end, as the kernel recorded it at the connection.
type peer struct {
	pid      int32
	uid, gid uint32
}

func (p peer) attrs() slog.Attr {
	return slog.Group("peer", slog.Int("pid", int(p.pid)), slog.Int64("uid", int64(p.uid)), slog.Int64("gid", int64(p.gid)))
}

// nobody is the peer if the kernel reports none.
func nobody() peer { return peer{pid: -1, uid: math.MaxUint32, gid: math.MaxUint32} }
