// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pipe returns a link, and calls other for each request that arrives at its other end.
func pipe(t *testing.T, other func(c net.Conn, r request)) *link {
	t.Helper()
	near, far := net.Pipe()
	l := newLink(&key{path: "/run/s"}, near)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in := newFrames(far, maxRequest)
		for {
			content, ok, err := in.next()
			switch {
			case err != nil:
				t.Error(err)
				return
			case !ok:
				if in.fill() != nil {
					return // the link is broken
				}
				continue
			}
			r, err := parseRequest(content)
			if err != nil {
				t.Error(err)
				return
			}
			other(far, r)
		}
	}()
	t.Cleanup(func() {
		l.fail(errors.New("the test is over"))
		<-ended
	})
	return l
}

// attempts sends n requests, one after another, each for the length of an attempt.
func attempts(t *testing.T, l *link, n int) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		_, err := l.ask(ctx, request{message: []byte("unanswered")})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got error %v", err)
		}
	}
}

// A link without any more answers is given up, so that another takes its place. Waiting callers get
// an error at once.
func TestSilentLinksAreGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := pipe(t, func(net.Conn, request) {})
		waits := make(chan error, 1)
		go func() {
			_, err := l.ask(t.Context(), request{})
			waits <- err
		}()
		attempts(t, l, int(maxSilence/(700*time.Millisecond)))
		if l.broken() {
			t.Fatal("it was given up early")
		}
		attempts(t, l, 1)
		if !l.broken() {
			t.Fatal("it is not given up")
		}
		if err := <-waits; !errors.As(err, new(*hungUpError)) {
			t.Errorf("who waits got error %v, want one after which another link is asked", err)
		}
	})
}

// A link that still delivers answers is kept, even if one request has no answer.
func TestLinksThatAnswerAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := pipe(t, func(c net.Conn, r request) {
			if string(r.message) != "unanswered" {
				_, _ = c.Write(appendAnswer(nil, answer{id: r.id, body: r.message}))
			}
		})
		for range 10 {
			attempts(t, l, 5)
			if _, err := l.ask(t.Context(), request{message: []byte("answered")}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
