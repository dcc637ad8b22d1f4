// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

const (
	// keptConnections is how many idle connections a key keeps: as many as a Signer has calls.
	keptConnections = 64
	// clientIdle is how long it keeps them. The server keeps them longer.
	clientIdle = idleTimeout / 2
)

// key is a signer.Key in another process.
type key struct {
	path      string
	public    crypto.PublicKey
	url       *url.URL
	transport *http.Transport
	open      context.Context // ends with Close
	close     context.CancelFunc
}

func newKey(path string, public crypto.PublicKey, id [keyIDSize]byte) *key {
	k := &key{path: path, public: public, url: &url.URL{Scheme: "http", Host: "signer", Path: fmt.Sprintf("%s%x", signPath, id)}}
	k.open, k.close = context.WithCancel(context.Background())
	k.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return k.dial(ctx) },
		MaxIdleConnsPerHost: keptConnections, IdleConnTimeout: clientIdle,
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	return k
}

// Public implements signer.Key.
func (k *key) Public() crypto.PublicKey { return k.public }

// Close implements signer.Key.
func (k *key) Close() error {
	k.close()
	k.transport.CloseIdleConnections()
	return nil
}

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return nil, &signer.MessageError{Err: fmt.Errorf("the message has %d octets, and mayfly signer takes %d at most", len(message), MaxMessage)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.open, cancel)()
	response, text, err := k.post(ctx, message)
	switch dialed := (*dialError)(nil); {
	case k.open.Err() != nil:
		return nil, signer.ErrClosed
	case err == nil:
		return k.result(response, text)
	case ctx.Err() != nil:
		return nil, k.errorf("waiting for its answer: %w", ctx.Err())
	case errors.As(err, &dialed):
		return nil, dialed.error
	default:
		return nil, signer.Transient(k.errorf("it closed the connection or sent no proper answer: %w; it must run, allow uid %d (--allow-user), and be of this release", err, os.Getuid()), 0)
	}
}

// post sends message, and returns the answer with its whole body. The transport sends the request
// again if a kept connection has died before the answer, as after a restart of the other process. A
// second signature does no harm.
func (k *key) post(ctx context.Context, message []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://signer", bytes.NewReader(message))
	if err != nil {
		return nil, nil, err
	}
	request.URL = k.url
	request.Header = http.Header{
		versionHeader:     {version},
		"Idempotency-Key": {}, // is not sent, and lets the transport send the request again
	}
	if deadline, ok := ctx.Deadline(); ok {
		request.Header[timeoutHeader] = []string{milliseconds(max(time.Until(deadline), time.Millisecond))}
	}
	response, err := k.transport.RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.ContentLength < 0 || response.ContentLength > maxText {
		return nil, nil, fmt.Errorf("its answer has %d octets", response.ContentLength)
	}
	body := make([]byte, response.ContentLength)
	_, err = io.ReadFull(response.Body, body)
	return response, body, err
}

// result returns the signature or the error in an answer.
func (k *key) result(response *http.Response, body []byte) ([]byte, error) {
	if found := response.Header.Get(versionHeader); found != version {
		return nil, k.errorf("its answer has version %q of the protocol, and this release has %s; run the same release on both sides", found, version)
	}
	switch response.StatusCode {
	case http.StatusOK:
		return body, nil
	case statusNotPermitted:
		return nil, &signer.MessageError{Err: k.errorf("%w: %s", ErrNotPermitted, body)}
	case statusUnknownKey:
		return nil, signer.Transient(k.errorf("%w: %s; it may not have loaded the CA set yet: does it read the same one?", ErrUnknownKey, body), 0)
	case statusUnavailable:
		// The other side has already retried. A rest above zero prevents a retry here.
		rest, _ := strconv.Atoi(response.Header.Get(restHeader))
		return nil, signer.Transient(k.errorf("its key is unavailable: %s", body), max(time.Duration(rest), 1)*time.Millisecond)
	case statusBusy:
		return nil, signer.Busy(k.errorf("it has too much to sign: %s", body))
	default:
		return nil, k.errorf("%s", body)
	}
}

// milliseconds rounds d up, so that a positive d never becomes zero.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(((d + time.Millisecond - 1) / time.Millisecond).Nanoseconds(), 10)
}

func (k *key) errorf(format string, args ...any) error {
	return fmt.Errorf("mayfly signer at %s: %w", k.path, fmt.Errorf(format, args...))
}

// dialError is the error of a connection that was not established.
type dialError struct{ error }

// dial opens a connection to a trusted process.
func (k *key) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", k.path)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, &dialError{k.errorf("connecting: %w; let mayfly signer allow uid %d, under which this process runs, and the folders above the socket admit it", err, os.Getuid())}
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(k.path):
		return nil, &dialError{k.errorf("connecting: it is no socket; name in ca.signer_socket the one that mayfly signer creates (--socket)")}
	default:
		return nil, &dialError{signer.Transient(k.errorf("connecting: %w; is mayfly signer running? it creates the socket that ca.signer_socket names", err), 0)}
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the connection is a %T", c), c.Close())
	}
	if err := k.checkListener(unix); err != nil {
		_ = unix.Close()
		return nil, &dialError{err}
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
