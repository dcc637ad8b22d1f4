// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// key is a signer.Key in another process.
type key struct {
	path   string
	public crypto.PublicKey
	id     [keyIDSize]byte
	conn   *grpc.ClientConn
	closed atomic.Bool
	dialed atomic.Pointer[error] // of the last attempt to connect
}

func newKey(path string, public crypto.PublicKey, id [keyIDSize]byte) (_ *key, err error) {
	k := &key{path: path, public: public, id: id}
	k.conn, err = grpc.NewClient("passthrough:signer",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := k.dial(ctx)
			k.dialed.Store(&err)
			return c, err
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // dial checks the other process
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 2, MaxDelay: 100 * time.Millisecond}, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(octets{}), grpc.MaxCallRecvMsgSize(maxSignature)),
		grpc.WithMaxHeaderListSize(maxHeader), grpc.WithDisableServiceConfig())
	return k, err
}

// Public implements signer.Key.
func (k *key) Public() crypto.PublicKey { return k.public }

// Close implements signer.Key.
func (k *key) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	return k.conn.Close()
}

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return nil, &signer.MessageError{Err: fmt.Errorf("the message has %d octets, and mayfly signer takes %d at most", len(message), MaxMessage)}
	}
	request, signature := slices.Concat(k.id[:], message), []byte(nil)
	err := k.conn.Invoke(ctx, "/"+service+"/"+method, &request, &signature)
	switch {
	case err == nil:
		return signature, nil
	case k.closed.Load():
		return nil, signer.ErrClosed
	case ctx.Err() != nil:
		return nil, k.errorf("waiting for its answer: %w", ctx.Err())
	}
	answer := status.Convert(err)
	if code := answer.Code(); code == codes.DeadlineExceeded || code == codes.Canceled {
		// The other process has counted the time that is left as used up a moment before.
		return nil, k.errorf("waiting for its answer: %w", context.DeadlineExceeded)
	}
	return nil, k.explain(answer)
}

// explain returns the error of an answer.
func (k *key) explain(s *status.Status) error {
	text := s.Message()
	switch s.Code() {
	case codeNotPermitted:
		return &signer.MessageError{Err: k.errorf("%w: %s", ErrNotPermitted, text)}
	case codeUnknownKey:
		return signer.Transient(k.errorf("%w: %s; it may not have loaded the CA set yet: does it read the same one?", ErrUnknownKey, text), 0)
	case codeUnavailable:
		rest := time.Millisecond // prevents a retry here: the other side has already retried
		for _, detail := range s.Details() {
			if retry, ok := detail.(*errdetails.RetryInfo); ok {
				rest = max(rest, retry.GetRetryDelay().AsDuration())
			}
		}
		return signer.Transient(k.errorf("its key is unavailable: %s", text), rest)
	case codeBusy:
		return signer.Busy(k.errorf("it has too much to sign: %s", text))
	case codeFailed, codeMalformed:
		return k.errorf("%s", text)
	case codes.Unimplemented:
		return k.errorf("it does not have the method of this release: %s; run the same release on both sides", text)
	case codes.Unavailable:
		if dialed := k.dialed.Load(); dialed != nil && *dialed != nil {
			return *dialed
		}
	}
	return signer.Transient(k.errorf("it closed the connection or sent no proper answer: %s; it must run, allow uid %d (--allow-user), and be of this release", text, os.Getuid()), 0)
}

func (k *key) errorf(format string, args ...any) error {
	return fmt.Errorf("mayfly signer at %s: %w", k.path, fmt.Errorf(format, args...))
}

// dial opens a connection to a trusted process.
func (k *key) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", k.path)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, k.errorf("connecting: %w; let mayfly signer allow uid %d, under which this process runs, and the folders above the socket admit it", err, os.Getuid())
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(k.path):
		return nil, k.errorf("connecting: it is no socket; name in ca.signer_socket the one that mayfly signer creates (--socket)")
	default:
		return nil, signer.Transient(k.errorf("connecting: %w; is mayfly signer running? it creates the socket that ca.signer_socket names", err), 0)
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the connection is a %T", c), c.Close())
	}
	if err := k.checkListener(unix); err != nil {
		_ = unix.Close()
		return nil, err
	}
	return unix, nil
}

// isSocket reports whether path is a socket. It also returns true if stat fails.
func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err != nil || info.Mode()&fs.ModeSocket != 0
}

// checkListener requires a trusted listener: in a folder such as /tmp any user may have created the
// socket first. The owner of the folder is trusted, as that user can replace any socket in it.
func (k *key) checkListener(c *net.UnixConn) error {
	p, err := peerOf(c)
	if err != nil {
		return k.errorf("reading who listens: %w", err)
	}
	folder := filepath.Dir(k.path)
	info, err := os.Stat(folder)
	if err != nil {
		return signer.Transient(k.errorf("reading the owner of the folder: %w", err), 0)
	}
	own, owner := uint32(os.Geteuid()), ownerOf(info)
	if p.uid == overflowID || p.uid != 0 && p.uid != own && p.uid != owner {
		return k.errorf("uid %d listens there, which is neither root, nor uid %d of this process, nor uid %d, which owns %s; name in ca.signer_socket the socket of mayfly signer, in a folder that belongs to its user", p.uid, own, owner, folder)
	}
	return nil
}
