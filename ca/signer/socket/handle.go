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
	// swift is for how long a request may be signed and still be one of a key that takes no time
	// to speak of. Such are signed one after another, with one write for the answers to all that
	// came in together; what others take is not waited for.
	swift = time.Millisecond
	// maxHeld is for how long an answer is held for those after it.
	maxHeld = 500 * time.Microsecond
	// maxAtOnce is how many requests of one connection are signed at once.
	maxAtOnce = 64
)

// session is one connection.
type session struct {
	*Server
	peer peer
	conn *net.UnixConn

	slow   atomic.Bool    // the last request that was not swiftly refused took longer than swift
	others sync.WaitGroup // the goroutines that sign
	atOnce chan struct{}  // has an element for each of them

	mu   sync.Mutex // guards what follows, and writing
	out  []byte     // answers that are not written yet
	held time.Time  // since when the first of them is there
}

// handle answers the requests on c until the peer or the server ends.
func (s *Server) handle(ctx context.Context, c *net.UnixConn, p peer) {
	n := &session{Server: s, peer: p, conn: c, atOnce: make(chan struct{}, maxAtOnce)}
	err := n.serve(ctx)
	n.others.Wait()
	n.flush(ctx)
	n.gone(ctx, err)
}

// serve returns why no more requests come.
func (n *session) serve(ctx context.Context) error {
	in := newFrames(n.conn, maxRequest)
	var deadline time.Time // of the connection; zero for one that has to be set anew
	late := false          // the rest of a frame is awaited, and has a deadline of its own
	for {
		content, ok, err := in.next()
		if !ok && err == nil {
			n.flush(ctx)
			// To set a deadline costs more than to read the clock.
			switch now := time.Now(); {
			case in.partial() && !late:
				late, deadline = true, time.Time{}
				_ = n.conn.SetWriteDeadline(now.Add(n.cfg.IdleTimeout))
				_ = n.conn.SetReadDeadline(now.Add(n.cfg.ReadTimeout))
			case !in.partial() && deadline.Sub(now) < n.cfg.IdleTimeout/2:
				deadline = now.Add(n.cfg.IdleTimeout)
				_ = n.conn.SetDeadline(deadline)
			}
			// In this order, since finish says that it is closing and then wakes by a deadline.
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
		// A copy, since the next read overwrites it: a call of a module or service that hangs may
		// read the message long after, and would sign what was not checked.
		r.message = bytes.Clone(r.message)
		n.take(ctx, r)
	}
}

// take answers r: before it returns, or, where the one before took long, some time later.
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

// give has a written with those that are held, at the latest with the next one.
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

// write writes what is held. Its caller holds n.mu.
func (n *session) write(ctx context.Context) {
	if len(n.out) == 0 {
		return
	}
	if _, err := n.conn.Write(n.out); err != nil {
		n.gone(ctx, err)
		_ = n.conn.Close() // which ends serve
	}
	n.out = n.out[:0]
}

// gone says of a peer that has gone, if that is worth a word.
func (n *session) gone(ctx context.Context, err error) {
	level := slog.LevelWarn
	if err == nil || n.closing.Load() || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) {
		level = slog.LevelDebug
	}
	n.log.Log(ctx, level, "a connection to the signer's socket has ended", n.peer.attrs(), slog.Any("error", err))
}

// answer is the answer to r.
func (n *session) answer(ctx context.Context, r request) answer {
	timeout := n.cfg.RequestTimeout
	if r.timeout > 0 {
		timeout = min(timeout, r.timeout)
	}
	bounded := newRequestContext(ctx, timeout)
	defer bounded.stop()
	began := time.Now()
	signature, err := n.sign(bounded, r.key, r.message)
	// What is refused swiftly has not seen the key, and so tells nothing of it.
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

// errPanic is all that the other side learns of a panic.
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

// refusal is the answer that says err.
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
	case signer.IsTransient(err), ctx.Err() != nil: // it had its time, or the server ends
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

// textAnswer is an answer whose body is text, made to fit.
func textAnswer(status status, rest time.Duration, text string) answer {
	if text == "" {
		text = "no reason was given"
	}
	return answer{status: status, rest: rest, body: []byte(cut(text, maxText))}
}

// cut returns text as UTF-8 of at most limit octets.
func cut(text string, limit int) string {
	return strings.ToValidUTF8(text[:min(len(text), limit)], "?") // which never makes it longer
}
