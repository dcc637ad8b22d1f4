// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	defaultConnections = 64
	// maxStreams bounds the requests of one connection: as many as a Signer has calls.
	maxStreams = 64
	// helloTimeout bounds the begin of a connection, requestTimeout the signing.
	helloTimeout    = time.Second
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
	// MaxConnections bounds the connections; zero for 64. Further connections are closed at
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

	grpc     *grpc.Server
	requests context.Context // ends when no request may continue
	cancel   context.CancelFunc
	open     atomic.Int64 // connections
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
	s := &Server{cfg: cfg, log: breaker.Sparing{Logger: cfg.Logger, Interval: lineInterval}}
	s.requests, s.cancel = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(grpc.ForceServerCodecV2(octets{}), grpc.UnknownServiceHandler(s.otherMethod),
		grpc.MaxRecvMsgSize(2*MaxMessage), grpc.MaxHeaderListSize(maxHeader), grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(helloTimeout), grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}))
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: method, Handler: s.answer}},
	}, nil)
	return s, nil
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
		return errors.Join(err, files.Unlock(lock))
	}
	// If other users are allowed, every user can connect, and Accept decides.
	mode, own := fs.FileMode(0o600), uint32(os.Geteuid())
	if slices.ContainsFunc(s.cfg.AllowUIDs, func(uid uint32) bool { return uid != own }) {
		mode = 0o666
	}
	listener, file, err := listen(s.cfg.Path, mode)
	if err != nil {
		return errors.Join(fmt.Errorf("creating the socket %s: %w", s.cfg.Path, err), files.Unlock(lock))
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
	go func() { failed <- s.grpc.Serve(admitting{s.listener, s}) }()
	select {
	case <-ctx.Done():
		s.stopListening()
	case err := <-failed:
		s.stopListening()
		return err
	}
	stopped := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(s.cfg.ShutdownTimeout):
		s.cancel()
		s.grpc.Stop()
		return fmt.Errorf("requests were still under way %s after the stop, and got no answer", s.cfg.ShutdownTimeout)
	}
}

// stopListening removes the socket before another signer can listen, which the lock prevents until
// then.
func (s *Server) stopListening() {
	if now, err := os.Lstat(s.cfg.Path); err == nil && os.SameFile(now, s.file) {
		_ = os.Remove(s.cfg.Path)
	}
	_ = s.listener.Close()
	_ = files.Unlock(s.lock)
}
