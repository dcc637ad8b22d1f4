// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	keyIDSize = sha256.Size

	// defaultConnections has room for the calls of several servers and keys.
	defaultConnections = 256
	maxHeader          = 4 << 10
	// readTimeout bounds the arrival of a request, requestTimeout the signing.
	readTimeout     = 5 * time.Second
	requestTimeout  = 5 * time.Second
	idleTimeout     = 2 * time.Minute
	defaultShutdown = 5 * time.Second

	// lineInterval is the minimum interval between lines with the same message.
	lineInterval = time.Second
)

// Refusal is a kind of refusal by a Server: the value of a label.
type Refusal string

// The refusals. A peer that is not allowed can cause only the first one.
const (
	RefusedConnection   Refusal = "connection"    // a peer that is not allowed, or one too many
	RefusedMalformed    Refusal = "malformed"     // a request that does not parse
	RefusedNotPermitted Refusal = "not_permitted" // Sign returned ErrNotPermitted
	RefusedUnknownKey   Refusal = "unknown_key"   // Sign returned ErrUnknownKey
)

// Refusals returns all of them, for metrics.
func Refusals() []Refusal {
	return []Refusal{RefusedConnection, RefusedMalformed, RefusedNotPermitted, RefusedUnknownKey}
}

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
	// MaxConnections bounds the connections; zero for 256. Further connections are closed at
	// once.
	MaxConnections int
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

	http     http.Server
	requests context.Context // ends when no request may continue
	cancel   context.CancelFunc

	mu   sync.Mutex // guards the field below
	open map[net.Conn]http.ConnState
}

// NewServer returns a Server that does nothing yet.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := CheckPath(cfg.Path); err != nil {
		return nil, fmt.Errorf("--socket: %w", err)
	}
	if cfg.Sign == nil {
		return nil, errors.New("Sign is required")
	}
	if slices.Contains(cfg.AllowUIDs, overflowID) {
		return nil, fmt.Errorf("--allow-user: the kernel shows the ID %d for every user of another user namespace; allow the IDs that they have here", overflowID)
	}
	if len(cfg.AllowUIDs) == 0 {
		cfg.AllowUIDs = []uint32{uint32(os.Geteuid())}
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = defaultConnections
	}
	if cfg.ShutdownTimeout == 0 {
		cfg.ShutdownTimeout = defaultShutdown
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Refused == nil {
		cfg.Refused = func(Refusal) {}
	}
	s := &Server{cfg: cfg, log: breaker.Sparing{Logger: cfg.Logger, Interval: lineInterval}, open: map[net.Conn]http.ConnState{}}
	s.requests, s.cancel = context.WithCancel(context.Background())
	s.http = http.Server{
		Handler: http.HandlerFunc(s.answer), ConnState: s.changed, ErrorLog: log.New(errorLog{s}, "", 0),
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: readTimeout + 2*requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	return s, nil
}

// errorLog receives the errors of net/http: of accepting connections.
type errorLog struct{ s *Server }

func (l errorLog) Write(line []byte) (int, error) {
	l.s.log.Log(l.s.requests, slog.LevelError, "error in the server of the signer's socket", slog.String("error", cut(string(line), maxLogged)))
	return len(line), nil
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
	// If other users are allowed, every user can connect, and Accept decides.
	mode, own := fs.FileMode(0o600), uint32(os.Geteuid())
	if slices.ContainsFunc(s.cfg.AllowUIDs, func(uid uint32) bool { return uid != own }) {
		mode = 0o666
	}
	listener, file, err := listen(s.cfg.Path, mode)
	if err != nil {
		return errors.Join(fmt.Errorf("creating the socket %s: %w", s.cfg.Path, err), unlock(lock))
	}
	s.listener, s.file, s.lock = listener, file, lock
	return nil
}

// Check returns an error if the socket is no longer there, so that no client can connect. Listen
// must have succeeded.
func (s *Server) Check(context.Context) error {
	switch now, err := os.Lstat(s.cfg.Path); {
	case err != nil:
		return fmt.Errorf("--socket: looking for the socket: %w; no server can connect: restart mayfly signer", err)
	case !os.SameFile(now, s.file):
		return fmt.Errorf("--socket: another process has replaced %s, and no server can connect: find that process, and restart mayfly signer", s.cfg.Path)
	}
	return nil
}

// Serve serves clients until ctx ends, and then waits for requests under way. Its error is nil
// unless that took too long. Listen must have succeeded.
func (s *Server) Serve(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("serving before listening")
	}
	defer s.cancel()
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(admitting{s}) }()
	var serving error
	select {
	case <-ctx.Done():
	case serving = <-failed:
	}
	s.stopListening()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	if err := s.http.Shutdown(bounded); err != nil {
		s.cancel()
		return errors.Join(serving, fmt.Errorf("requests were still under way %s after the stop, and got no answer", s.cfg.ShutdownTimeout), s.http.Close())
	}
	return serving
}

// stopListening removes the socket before another signer can listen, which the lock prevents until
// then. It closes connections without a request: http.Server would wait for one.
func (s *Server) stopListening() {
	if now, err := os.Lstat(s.cfg.Path); err == nil && os.SameFile(now, s.file) {
		_ = os.Remove(s.cfg.Path)
	}
	_ = s.listener.Close()
	_ = unlock(s.lock)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, state := range s.open {
		if state == http.StateNew {
			_ = c.Close()
		}
	}
}

// changed keeps the set of open connections.
func (s *Server) changed(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateClosed {
		delete(s.open, c)
	} else {
		s.open[c] = state
	}
}
