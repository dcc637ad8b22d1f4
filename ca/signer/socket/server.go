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

	// acceptPause is how long a server that can accept nothing waits: until some file or
	// memory is free.
	acceptPause = 50 * time.Millisecond
	// abandonPause is for how long requests that were told to end are waited for.
	abandonPause = time.Second

	// overflowID is how Linux shows a user or group of another user namespace, whoever it is
	// (user_namespaces(7)).
	overflowID = 65534
)

// ServerConfig is a Server to be.
type ServerConfig struct {
	// Path is that of the socket, 107 octets at most. The folder must be there and
	// belong to this process's user or root, and nobody else may write to it. A file beside the
	// socket (.lock) keeps a second Server away, and stays.
	Path string
	// AllowUIDs are the effective user IDs of the processes that may connect; none for that of
	// this process. No other is allowed, root neither.
	AllowUIDs []uint32
	// Sign returns the signature over message, not hashed, with the key that has the ID given
	// (KeyID), in the form that certificates hold. It decides whether message may be signed. It
	// returns soon after its ctx has ended. It may keep message.
	//
	// An error that wraps ErrNotPermitted or ErrUnknownKey is told to the other side as such, one
	// of signer.Busy too, and any other for which signer.IsTransient holds as an outage of the
	// key, each with its text, which therefore must not hold a secret.
	Sign func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error)
	// Logger gets who connects, what is refused, and panics; nil for nowhere. Of each message
	// that is a warning or worse it gets one a second at most.
	Logger *slog.Logger
	// Refused is told of each refusal, also of those that are not logged; nil for nobody. It is
	// called by many at a time.
	Refused func(Refusal)
	// MaxConnections is how many connections there are at most; zero for 64. Those beyond are
	// closed at once.
	MaxConnections int
	// IdleTimeout is for how long a connection is kept on which nobody asks, or takes an answer;
	// zero for 2 min. It may be half of that.
	IdleTimeout time.Duration
	// ReadTimeout is how long a request may take to come in once it has begun, RequestTimeout
	// how long it may take to sign; zero for 5 s each.
	ReadTimeout, RequestTimeout time.Duration
	// ShutdownTimeout is how long requests that are under way may take once the Server is to
	// end; zero for 5 s.
	ShutdownTimeout time.Duration
}

// Server signs for other processes of this machine. It is used once.
type Server struct {
	cfg      ServerConfig
	log      breaker.Sparing
	listener *net.UnixListener
	file     fs.FileInfo // of the socket that listener made
	lock     *os.File    // held while it listens

	closing  atomic.Bool
	mu       sync.Mutex                 // guards what follows
	open     map[*net.UnixConn]struct{} // every connection
	handlers sync.WaitGroup             // one for each of them
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

// mode is that of the socket's file: as tight as who is allowed lets it be. Where others are
// allowed it lets everybody connect, and allowed decides.
func (s *Server) mode() fs.FileMode {
	own := uint32(os.Geteuid())
	if !slices.ContainsFunc(s.cfg.AllowUIDs, func(uid uint32) bool { return uid != own }) {
		return 0o600
	}
	return 0o666
}

// Listen makes the socket. Until Serve is called, those who connect wait.
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

// Check tells readiness whether the socket is still there, without which nobody can connect.
// Listen has succeeded.
func (s *Server) Check(context.Context) error {
	switch now, err := os.Lstat(s.cfg.Path); {
	case err != nil:
		return fmt.Errorf("--socket: looking for the socket: %w; no server can connect any more: restart mayfly signer", err)
	case !os.SameFile(now, s.file):
		return fmt.Errorf("--socket: somebody has put something else in the place of %s, and no server can connect any more: find out who, and restart mayfly signer", s.cfg.Path)
	}
	return nil
}

// Serve serves those who connect until ctx ends, then lets what is under way end. Its error is
// nil unless that took too long. Listen has succeeded.
func (s *Server) Serve(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("serving before listening")
	}
	// Requests go on after ctx has ended, for a while.
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
	stopListening() // which has begun: a successor may listen when Serve has returned
	return s.finish(cancel)
}

// stopListening removes the socket while it still listens, so that what is removed cannot be
// the socket of a successor: to that, ours would still be alive.
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

// admit has c handled if its peer is allowed and there is room.
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

// allowed tells whether p may ask for signatures.
func (s *Server) allowed(p peer) bool {
	return p.uid != overflowID && slices.Contains(s.cfg.AllowUIDs, p.uid)
}

// peer is the process at the other end, as the kernel knows it from when it connected.
type peer struct {
	pid      int32
	uid, gid uint32
}

func (p peer) attrs() slog.Attr {
	return slog.Group("peer", slog.Int("pid", int(p.pid)), slog.Int64("uid", int64(p.uid)), slog.Int64("gid", int64(p.gid)))
}

// nobody is the peer that the kernel did not tell.
func nobody() peer { return peer{pid: -1, uid: math.MaxUint32, gid: math.MaxUint32} }
