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
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

// Config names a key and the socket of its signing process.
type Config struct {
	// Path is that of the socket.
	Path string
	// Public is the key: the signing process has one with the same SubjectPublicKeyInfo.
	Public crypto.PublicKey
}

// key is a signer.Key in another process.
type key struct {
	Config
	id     [keyIDSize]byte
	conn   *grpc.ClientConn
	closed atomic.Bool
	dialed atomic.Pointer[error] // of the last attempt to connect
}

// Open returns a key of the signing process. Sign connects to the process, and again after its
// restart. Sign returns as soon as its ctx ends, and it verifies no signature.
func Open(_ context.Context, cfg Config) (signer.Key, error) {
	if _, err := certs.SignatureAlgorithmFor(cfg.Public); err != nil {
		return nil, err
	}
	if err := CheckPath(cfg.Path); err != nil {
		return nil, fmt.Errorf("ca.signer_socket: %w", err)
	}
	id, err := KeyID(cfg.Public)
	if err != nil {
		return nil, err
	}
	k := &key{Config: cfg, id: id}
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
func (k *key) Public() crypto.PublicKey { return k.Config.Public }

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
		return nil, k.errorf("%w: it has %d octets; at most %d are allowed", signer.ErrNotPermitted, len(message), MaxMessage)
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
	return nil, k.explain(status.Convert(err))
}

// explain returns the error of an answer.
func (k *key) explain(answer *status.Status) error {
	text := answer.Message()
	wrapping := func(err error) error { return k.errorf("%w%s", err, strings.TrimPrefix(text, err.Error())) }
	switch answer.Code() {
	case codeNotPermitted:
		return wrapping(signer.ErrNotPermitted)
	case codeUnknownKey:
		return signer.Transient(fmt.Errorf("%w; it may not have loaded the CA set yet: does it read the same one?", wrapping(ErrUnknownKey)), 0)
	case codeUnavailable: // the time prevents a retry here: the other process has already retried
		return signer.Transient(k.errorf("its key is unavailable: %s", text), time.Millisecond)
	case codeBusy:
		return signer.Busy(k.errorf("it has too much to sign: %s", text))
	case codeFailed, codeMalformed:
		return k.errorf("%s", text)
	case codes.DeadlineExceeded, codes.Canceled: // the other process has counted the time as used up a moment before
		return k.errorf("waiting for its answer: %w", context.DeadlineExceeded)
	case codes.Unimplemented:
		return k.errorf("it does not have the method of this release: %s; run the same release on both sides", text)
	case codes.Unavailable:
		k.conn.ResetConnectBackoff() // the retry finds a process that is back
		if dialed := k.dialed.Load(); dialed != nil && *dialed != nil {
			return *dialed
		}
	}
	return signer.Transient(k.errorf("it closed the connection or sent no proper answer: %s; it must run, allow uid %d (--allow-user), and be of this release", text, os.Getuid()), 0)
}

func (k *key) errorf(format string, args ...any) error {
	return fmt.Errorf("mayfly signer at %s: %w", k.Path, fmt.Errorf(format, args...))
}

// dial opens a connection to a trusted process.
func (k *key) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", k.Path)
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, k.errorf("connecting: %w; let mayfly signer allow uid %d, under which this process runs, and the folders above the socket admit it", err, os.Getuid())
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(k.Path):
		return nil, k.errorf("connecting: it is no socket; name in ca.signer_socket the one that mayfly signer creates (--socket)")
	case err != nil:
		return nil, signer.Transient(k.errorf("connecting: %w; is mayfly signer running? it creates the socket that ca.signer_socket names", err), 0)
	}
	if err := k.checkListener(c.(*net.UnixConn)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
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
	folder := filepath.Dir(k.Path)
	info, err := os.Stat(folder)
	if err != nil {
		return signer.Transient(k.errorf("reading the owner of the folder: %w", err), 0)
	}
	if trusted := []uint32{0, uint32(os.Geteuid()), ownerOf(info)}; p.uid == overflowID || !slices.Contains(trusted, p.uid) {
		return k.errorf("uid %d listens there, and of %v, which are root, this process's user and the owner of %s, one is expected; name in ca.signer_socket the socket of mayfly signer, in a folder that belongs to its user", p.uid, trusted, folder)
	}
	return nil
}
