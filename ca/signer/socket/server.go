// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	peers "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	defaultConnections = 32
	// maxStreams bounds the requests of one connection: as many as a Signer has calls.
	maxStreams = 64
	// helloTimeout bounds the begin of a connection, requestTimeout the signing.
	helloTimeout    = time.Second
	requestTimeout  = 5 * time.Second
	idleTimeout     = 2 * time.Minute
	defaultShutdown = 5 * time.Second

	// lineInterval is the minimum interval between lines with the same message.
	lineInterval = time.Second
	// maxLogged bounds the logged text of an error, in octets: it may quote data from peers.
	maxLogged = 1 << 10
)

// Refusal is a kind of refusal by a Server: the value of a label.
type Refusal string

// The refusals. A peer that is not allowed can cause only the first one.
const (
	RefusedConnection   Refusal = "connection"    // a peer that is not allowed, or one too many
	RefusedMalformed    Refusal = "malformed"     // a request that does not parse
	RefusedNotPermitted Refusal = "not_permitted" // Sign returned signer.ErrNotPermitted
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
	// Listener is the socket at Path if another process has created it, which also chose its mode and
	// removes it; nil otherwise. Serve closes it.
	Listener net.Listener
	// AllowUIDs are the effective user IDs of the processes that may connect; none for that of
	// this process. No other user is allowed, not even root.
	AllowUIDs []uint32
	// Sign returns the signature over message, which is not hashed, with the key that has the
	// given ID (KeyID), in the form that certificates hold. It decides whether message may be
	// signed. It returns soon after its ctx has ended. It may keep message.
	//
	// The other side gets an error that wraps signer.ErrNotPermitted or ErrUnknownKey, or one of
	// signer.Busy, as such. It gets any other error for which signer.IsTransient holds as an
	// outage of the key. It gets the text of each error, which must therefore hold no secret.
	Sign func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error)
	// Logger receives connections, refusals and panics; nil for none. It gets each message of
	// level warning or higher once a second at most.
	Logger *slog.Logger
	// Refused is called for each refusal, also for those that are not logged; nil for none. Its
	// calls may be concurrent.
	Refused func(Refusal)
	// MaxConnections bounds the connections; zero for 32. Further connections are closed at once.
	MaxConnections int
	// ShutdownTimeout bounds the requests that are under way when the Server must stop; zero for 5 s.
	ShutdownTimeout time.Duration
}

// Server signs for other processes of this machine. It is used once.
type Server struct {
	cfg      ServerConfig
	log      breaker.Sparing
	listener *net.UnixListener
	file     fs.FileInfo // of the socket
	lock     *os.File    // held while it listens; nil with a Listener of the configuration

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
	if slices.Contains(cfg.AllowUIDs, overflowID) {
		return nil, fmt.Errorf("--allow-user: the kernel shows the ID %d for every user of another user namespace; allow the IDs that they have here", overflowID)
	}
	if len(cfg.AllowUIDs) == 0 {
		cfg.AllowUIDs = []uint32{uint32(os.Geteuid())}
	}
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, defaultConnections)
	cfg.ShutdownTimeout = cmp.Or(cfg.ShutdownTimeout, defaultShutdown)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
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

// Listen creates the socket, unless it exists. Clients that connect wait until Serve is called.
func (s *Server) Listen() error {
	err := checkFolder(s.cfg.Path)
	if err == nil && s.cfg.Listener != nil {
		if found := s.cfg.Listener.Addr(); found.Network() != "unix" || found.String() != s.cfg.Path {
			return fmt.Errorf("--socket is %s, and the socket of the service manager is %s; write one path in both", s.cfg.Path, found)
		}
		s.listener, _ = s.cfg.Listener.(*net.UnixListener)
		s.file, err = os.Lstat(s.cfg.Path)
	} else if err == nil {
		// If other users are allowed, every user can connect, and Accept decides.
		mode, own := fs.FileMode(0o600), uint32(os.Geteuid())
		if slices.ContainsFunc(s.cfg.AllowUIDs, func(uid uint32) bool { return uid != own }) {
			mode = 0o666
		}
		s.listener, s.file, s.lock, err = listen(s.cfg.Path, mode)
	}
	if err != nil {
		return fmt.Errorf("--socket: %w", err)
	}
	return nil
}

// Check returns an error if the socket is no longer there, so that no client can connect. Listen
// must have succeeded.
func (s *Server) Check(context.Context) error {
	if now, err := os.Lstat(s.cfg.Path); err != nil || !os.SameFile(now, s.file) {
		return fmt.Errorf("--socket: another process has removed or replaced %s, and no server can connect: find that process, and restart mayfly signer", s.cfg.Path)
	}
	return nil
}

// Serve serves clients until ctx ends, and then waits for requests under way. Its error is nil
// unless that took too long. Listen must have succeeded.
func (s *Server) Serve(ctx context.Context) error {
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
	if s.lock != nil && s.Check(s.requests) == nil {
		_ = os.Remove(s.cfg.Path)
	}
	_ = s.listener.Close()
	if s.lock != nil {
		_ = files.Unlock(s.lock)
	}
}

// answer answers one request. It continues if the client disconnects: a key that gives no answer in
// the client's time has failed.
func (s *Server) answer(_ any, client context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var sent []byte
	if err := decode(&sent); client.Err() != nil { // it disconnected, or its time is over
		return nil, status.FromContextError(client.Err()).Err()
	} else if err != nil {
		return nil, s.malformed(client, err.Error())
	}
	if len(sent) < keyIDSize || len(sent) > keyIDSize+MaxMessage {
		return nil, s.malformed(client, fmt.Sprintf("it has %d octets", len(sent)))
	}
	ctx, cancel := context.WithTimeout(s.requests, requestTimeout)
	defer cancel()
	if deadline, ok := client.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	signature, err := s.sign(ctx, [keyIDSize]byte(sent), sent[keyIDSize:])
	if err == nil && (len(signature) == 0 || len(signature) > maxSignature) {
		err = fmt.Errorf("the signature has %d octets, which is invalid", len(signature))
	}
	if err != nil {
		return nil, s.explain(ctx, peerName(client), sent, err)
	}
	return &signature, nil
}

// otherMethod refuses a request for another method than that of this release.
func (s *Server) otherMethod(_ any, stream grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(stream)
	_ = s.malformed(stream.Context(), "the method is "+name)
	return status.Errorf(codes.Unimplemented, "it has /%s/%s only", service, method)
}

// malformed counts and logs a request that is not one of this release.
func (s *Server) malformed(client context.Context, why string) error {
	s.cfg.Refused(RefusedMalformed)
	s.log.Log(client, slog.LevelWarn, "a request to the signer is malformed", slog.String("peer", peerName(client)), slog.String("error", cut(why, maxLogged)))
	return status.Error(codeMalformed, "the request is malformed: "+cut(why, maxLogged))
}

// peerName returns the process that sent a request.
func peerName(client context.Context) string {
	p, _ := peers.FromContext(client)
	return p.Addr.String()
}

func (s *Server) sign(ctx context.Context, key [keyIDSize]byte, message []byte) (signature []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Log(ctx, slog.LevelError, "panic while signing", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			signature, err = nil, errors.New("internal error; its log has more")
		}
	}()
	return s.cfg.Sign(ctx, key, message)
}

// explain logs err, and returns the status for it.
func (s *Server) explain(ctx context.Context, peer string, sent []byte, err error) error {
	code, level, message := codeFailed, slog.LevelError, "the signer could not sign"
	var f *signer.Failure
	switch {
	case errors.Is(err, signer.ErrNotPermitted):
		s.cfg.Refused(RefusedNotPermitted)
		code, message = codeNotPermitted, "the signer refused a request that its policy does not permit: an attacker may control the server, or it is of another release"
	case errors.Is(err, ErrUnknownKey):
		s.cfg.Refused(RefusedUnknownKey)
		code, level, message = codeUnknownKey, slog.LevelWarn, "the signer refused a request for a key that it does not have"
	case errors.As(err, &f) && f.Remedy == signer.Wait:
		code, level, message = codeBusy, slog.LevelWarn, "the signer got more requests than it can sign at a time"
	case signer.IsTransient(err), ctx.Err() != nil: // the request timed out, or the server stops
		code, level, message = codeUnavailable, slog.LevelWarn, "the signer's key is unavailable"
	}
	s.log.Log(ctx, level, message, slog.String("peer", peer), slog.String("key", hex.EncodeToString(sent[:keyIDSize])),
		slog.Int("octets", len(sent)-keyIDSize), slog.String("error", cut(err.Error(), maxLogged)))
	return status.Error(code, cut(err.Error(), maxText))
}

// cut returns text as UTF-8 of at most limit octets.
func cut(text string, limit int) string {
	return strings.ToValidUTF8(text[:min(len(text), limit)], "?") // the result is never longer
}
