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
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// coresPerLink is how many of this process's cores share one connection. For a fast key, the other
// side signs the requests of each connection on one core at a time.
const coresPerLink = 4

// maxLinks bounds the connections of one key: the other side has defaultConnections for all keys of
// all servers.
const maxLinks = 8

// key is a signer.Key in another process.
type key struct {
	path   string
	public crypto.PublicKey
	id     [keyIDSize]byte

	mu     sync.Mutex // guards the fields below
	links  []*link    // nil where there is no connection
	turn   int        // the link used last
	closed bool
}

func newKey(path string, public crypto.PublicKey, id [keyIDSize]byte) *key {
	return &key{path: path, public: public, id: id, links: make([]*link, min((runtime.GOMAXPROCS(0)+coresPerLink-1)/coresPerLink, maxLinks))}
}

// Public implements signer.Key.
func (k *key) Public() crypto.PublicKey { return k.public }

// Near implements signer.Near.
func (k *key) Near() {}

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(message) > MaxMessage {
		return nil, &signer.MessageError{Err: fmt.Errorf("the message has %d octets, and mayfly signer takes %d at most", len(message), MaxMessage)}
	}
	r := request{key: k.id, message: message}
	if deadline, ok := ctx.Deadline(); ok {
		r.timeout = milliseconds(max(time.Until(deadline), time.Millisecond))
	}
	l, fresh, err := k.link(ctx)
	if err != nil {
		return nil, err
	}
	a, err := l.ask(ctx, r)
	for range k.links {
		if fresh || !errors.As(err, new(*hungUpError)) || ctx.Err() != nil {
			break
		}
		// The process at the other end has gone without an answer: ask its successor. A second
		// signature does no harm. Each kept connection may be to the process that has gone.
		if l, fresh, err = k.link(ctx); err != nil {
			return nil, err
		}
		a, err = l.ask(ctx, r)
	}
	switch {
	case err == nil:
		return k.result(a)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, k.errorf("waiting for its answer: %w", err)
	default:
		return nil, err
	}
}

// result returns the signature or the error in an answer.
func (k *key) result(a answer) ([]byte, error) {
	switch a.status {
	case statusSignature:
		return a.body, nil
	case statusNotPermitted:
		return nil, &signer.MessageError{Err: k.errorf("%w: %s", ErrNotPermitted, a.body)}
	case statusUnknownKey:
		return nil, signer.Transient(k.errorf("%w: %s; it may not have taken up the CA set yet: does it read the same one?", ErrUnknownKey, a.body), 0)
	case statusUnavailable:
		// The other side has already retried. A rest above zero prevents a retry here.
		return nil, signer.Transient(k.errorf("its key cannot be used right now: %s", a.body), max(a.rest, time.Millisecond))
	case statusBusy:
		return nil, signer.Busy(k.errorf("it has too much to sign: %s", a.body))
	default:
		return nil, k.errorf("%s", a.body)
	}
}

func (k *key) errorf(format string, args ...any) error {
	return fmt.Errorf("mayfly signer at %s: %w", k.path, fmt.Errorf(format, args...))
}

const isItRunning = "is mayfly signer running? it makes the socket that ca.signer_socket names"

// link returns the next connection in turn, a fresh one if that one is broken.
func (k *key) link(ctx context.Context) (l *link, fresh bool, err error) {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil, false, signer.ErrClosed
	}
	k.turn = (k.turn + 1) % len(k.links)
	turn := k.turn
	l = k.links[turn]
	k.mu.Unlock()
	if l != nil && !l.broken() {
		return l, false, nil
	}
	// Several callers may connect at the same time: the surplus connections are closed.
	c, err := k.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch now := k.links[turn]; {
	case k.closed:
		_ = c.Close()
		return nil, false, signer.ErrClosed
	case now != nil && !now.broken():
		_ = c.Close()
		return now, true, nil
	}
	l = newLink(k, c)
	k.links[turn] = l
	return l, true, nil
}

// dial opens a connection.
func (k *key) dial(ctx context.Context) (*net.UnixConn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", k.path)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, k.errorf("connecting: %w", ctx.Err())
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, k.errorf("connecting: %w; let mayfly signer allow uid %d, under which this process runs, and the folders above the socket let it pass", err, os.Getuid())
	case errors.Is(err, syscall.EAGAIN):
		return nil, signer.Transient(k.errorf("connecting: %w; more wait for it than it takes", err), 0)
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(k.path):
		return nil, k.errorf("connecting: it is no socket; let ca.signer_socket name the one that mayfly signer makes (--socket)")
	default:
		return nil, signer.Transient(k.errorf("connecting: %w; %s", err, isItRunning), 0)
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the connection is a %T", c), c.Close())
	}
	if err := k.checkPeer(unix); err != nil {
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

// checkPeer requires a trusted listener: in a folder such as /tmp any user may have created the
// socket first.
func (k *key) checkPeer(c *net.UnixConn) error {
	p, err := peerOf(c)
	if err != nil {
		return k.errorf("asking who listens: %w", err)
	}
	folder := filepath.Dir(k.path)
	info, err := os.Stat(folder)
	if err != nil {
		return signer.Transient(k.errorf("asking whose the folder is: %w", err), 0)
	}
	if own, owner := uint32(os.Geteuid()), ownerOf(info); !trusted(p.uid, own, owner) {
		return k.errorf("uid %d listens there, which is neither root, nor uid %d of this process, nor uid %d, to whom %s belongs; let ca.signer_socket name the socket of mayfly signer, in a folder that belongs to its user", p.uid, own, owner, folder)
	}
	return nil
}

// trusted reports whether a listener with uid counts as the signer. The owner of the folder is
// trusted, as that user can replace any socket in it.
func trusted(uid, own, owner uint32) bool {
	return uid != overflowID && (uid == 0 || uid == own || uid == owner)
}

// Close implements signer.Key.
func (k *key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, l := range k.links {
		if l != nil {
			l.fail(signer.ErrClosed)
		}
	}
	return nil
}
