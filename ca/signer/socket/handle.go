// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

const (
	// swift bounds the signing time of a fast key. Requests for a fast key are signed one after
	// another, with one write for the answers to all that arrived together. A request for a
	// slow key does not delay the next one.
	swift = time.Millisecond
	// maxHeld bounds how long an answer is held for the answers after it.
	maxHeld = 500 * time.Microsecond
	// maxAtOnce bounds the requests of one connection that are signed at once.
	maxAtOnce = 64
)

// session is one connection.
type session struct {
	*Server
	peer peer
	conn *net.UnixConn

	slow   atomic.Bool    // the last request, unless refused within swift, took longer than swift
	others sync.WaitGroup // the goroutines that sign
	atOnce chan struct{}  // has an element for each of them

	mu   sync.Mutex // guards the fields below, and writing
	out  []byte     // answers that are not written yet
	held time.Time  // when the first of them was added
}

// handle answers the requests on c until the peer or the server stops.
func (s *Server) handle(ctx context.Context, c *net.UnixConn, p peer) {
	n := &session{Server: s, peer: p, conn: c, atOnce: make(chan struct{}, maxAtOnce)}
	err := n.serve(ctx)
	n.others.Wait()
	n.flush(ctx)
	n.gone(ctx, err)
}

// serve returns the reason why no more requests come.
func (n *session) serve(ctx context.Context) error {
	in := newFrames(n.conn, maxRequest)
	var deadline time.Time // of the connection; zero if it must be set again
	late := false          // the rest of a frame is awaited, with a deadline of its own
	for {
		content, ok, err := in.next()
		if !ok && err == nil {
			n.flush(ctx)
			// Setting a deadline costs more than reading the clock.
			switch now := time.Now(); {
			case in.partial() && !late:
				late, deadline = true, time.Time{}
				_ = n.conn.SetWriteDeadline(now.Add(n.cfg.IdleTimeout))
				_ = n.conn.SetReadDeadline(now.Add(n.cfg.ReadTimeout))
			case !in.partial() && deadline.Sub(now) < n.cfg.IdleTimeout/2:
				deadline = now.Add(n.cfg.IdleTimeout)
				_ = n.conn.SetDeadline(deadline)
			}
			// The order matters: closing is set before finish wakes this read by a deadline.
			if n.closing.Load() {
				return nil
			}
			if err := in.fill(); err != nil {
				return err
			}
			continue
		}
		late = false
		var r request
		if err == nil {
			r, err = parseRequest(content)
		}
		if err != nil {
			n.cfg.Refused(RefusedMalformed)
			n.log.Log(ctx, slog.LevelWarn, "a request to the signer is malformed", n.peer.attrs(), slog.Any("error", err))
			n.give(ctx, textAnswer(statusMalformed, 0, err.Error()))
			return nil
		}
		// The next read overwrites the message, so it is copied: a call of a module or service that
		// hangs may read the message much later, and would sign one that was not checked.
		r.message = bytes.Clone(r.message)
		n.take(ctx, r)
	}
}

// take answers r before it returns, or later if the request before r was slow.
func (n *session) take(ctx context.Context, r request) {
	if !n.slow.Load() {
		n.give(ctx, n.answer(ctx, r))
		return
	}
	n.flush(ctx)
	n.atOnce <- struct{}{}
	n.others.Go(func() {
		defer func() { <-n.atOnce }()
		n.give(ctx, n.answer(ctx, r))
		n.flush(ctx)
	})
}

// give adds a to the held answers. They are written together, at the latest with the next answer.
func (n *session) give(ctx context.Context, a answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if len(n.out) == 0 {
		n.held = now
	}
	n.out = appendAnswer(n.out, a)
	if len(n.out) > bufferSize || now.Sub(n.held) > maxHeld {
		n.write(ctx)
	}
}

func (n *session) flush(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.write(ctx)
}

// write writes the held answers. Its caller holds n.mu.
func (n *session) write(ctx context.Context) {
	if len(n.out) == 0 {
		return
	}
	if _, err := n.conn.Write(n.out); err != nil {
		n.gone(ctx, err)
		_ = n.conn.Close() // this stops serve
	}
	n.out = n.out[:0]
}

// gone logs that a peer has gone, as a warning only if that is unexpected.
func (n *session) gone(ctx context.Context, err error) {
	level := slog.LevelWarn
	if err == nil || n.closing.Load() || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) {
		level = slog.LevelDebug
	}
	n.log.Log(ctx, level, "a connection to the signer's socket has ended", n.peer.attrs(), slog.Any("error", err))
}

// answer returns the answer to r.
func (n *session) answer(ctx context.Context, r request) answer {
	timeout := n.cfg.RequestTimeout
	if r.timeout > 0 {
		timeout = min(timeout, r.timeout)
	}
	bounded := newRequestContext(ctx, timeout)
	defer bounded.stop()
	began := time.Now()
	signature, err := n.sign(bounded, r.key, r.message)
	// A swift refusal has not used the key, and so says nothing about its speed.
	if slow := time.Since(began) > swift; slow != n.slow.Load() && (slow || err == nil) {
		n.slow.Store(slow)
	}
	if err == nil && (len(signature) == 0 || len(signature) > maxSignature) {
		err = fmt.Errorf("the signature has %d octets, which is none", len(signature))
	}
	a := answer{status: statusSignature, body: signature}
	if err != nil {
		a = n.refusal(bounded, r, err)
	}
	a.id = r.id
	return a
}

// errPanic is the only text about a panic that the other side gets.
var errPanic = errors.New("something went wrong inside; its log has more")

func (s *Server) sign(ctx context.Context, key [keyIDSize]byte, message []byte) (signature []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Log(ctx, slog.LevelError, "panic while signing", slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
			signature, err = nil, errPanic
		}
	}()
	return s.cfg.Sign(ctx, key, message)
}

// refusal returns the answer for err.
func (n *session) refusal(ctx context.Context, r request, err error) answer {
	text := err.Error()
	say := func(level slog.Level, what string) {
		n.log.Log(ctx, level, what, n.peer.attrs(), slog.String("key", fmt.Sprintf("%x", r.key)), slog.Int("octets", len(r.message)), slog.String("error", cut(text, maxLogged)))
	}
	var f *signer.Failure
	switch {
	case errors.Is(err, ErrNotPermitted):
		n.cfg.Refused(RefusedNotPermitted)
		say(slog.LevelError, "the signer was asked to sign what it may not sign: is the front in an attacker's hands, or of another release?")
		return textAnswer(statusNotPermitted, 0, strings.TrimPrefix(text, ErrNotPermitted.Error()+": "))
	case errors.Is(err, ErrUnknownKey):
		n.cfg.Refused(RefusedUnknownKey)
		say(slog.LevelWarn, "the signer was asked to sign with a key that it does not have")
		return textAnswer(statusUnknownKey, 0, strings.TrimPrefix(text, ErrUnknownKey.Error()+": "))
	case errors.As(err, &f) && f.Remedy == signer.Wait:
		say(slog.LevelWarn, "the signer was asked for more than it can sign at a time")
		return textAnswer(statusBusy, 0, text)
	case signer.IsTransient(err), ctx.Err() != nil: // the request timed out, or the server stops
		say(slog.LevelWarn, "the signer could not sign for now")
		var rest time.Duration
		if f != nil {
			rest = milliseconds(max(f.RetryAfter, 0))
		}
		return textAnswer(statusUnavailable, rest, text)
	default:
		say(slog.LevelError, "the signer could not sign")
		return textAnswer(statusFailed, 0, text)
	}
}

// textAnswer returns an answer with text as its body, cut if too long.
func textAnswer(status status, rest time.Duration, text string) answer {
	if text == "" {
		text = "no reason was given"
	}
	return answer{status: status, rest: rest, body: []byte(cut(text, maxText))}
}

// cut returns text as UTF-8 of at most limit octets.
func cut(text string, limit int) string {
	return strings.ToValidUTF8(text[:min(len(text), limit)], "?") // the result is never longer
}
