// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// writeTimeout bounds how long the other side may accept no request.
const writeTimeout = 10 * time.Second

// maxSilence bounds the silence while answers are awaited. It exceeds the time that the other side
// takes for any request, which distinguishes a live connection from a dead one.
const maxSilence = defaultRequest + 2*time.Second

// link is a connection to the signing process, shared by concurrent requests. Waking the other
// process costs as much as the signature. So requests that arrive while others wait and all cores
// are busy go into one write together, and one read gets their answers.
type link struct {
	key  *key // the owner; for errors
	conn net.Conn
	wake chan struct{} // has an element when the writer must send
	done chan struct{} // closed when the link is broken

	mu      sync.Mutex // guards the fields below
	out     []byte     // requests that are not written yet
	spare   []byte     // the next buffer for out
	waiting map[uint32]chan<- answer
	last    uint32    // the last id
	heard   time.Time // when the last answer arrived, or the first waiting request began
	err     error     // why the link is broken; nil if it is not
}

// newLink returns a link over c. The link reads and writes until it is broken.
func newLink(k *key, c net.Conn) *link {
	l := &link{key: k, conn: c, wake: make(chan struct{}, 1), done: make(chan struct{}), waiting: map[uint32]chan<- answer{}}
	go l.write()
	go l.read()
	return l
}

func (l *link) broken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

// ask sends r and waits for the answer, at most until ctx ends.
func (l *link) ask(ctx context.Context, r request) (answer, error) {
	answers := make(chan answer, 1)
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return answer{}, l.err
	}
	for taken := true; taken; _, taken = l.waiting[l.last] {
		l.last++
	}
	r.id = l.last
	alone := len(l.waiting) == 0
	if alone {
		l.heard = time.Now()
	}
	l.waiting[r.id] = answers
	l.out = appendRequest(l.out, r)
	l.mu.Unlock()
	if alone {
		l.send() // at once, since no other request could be sent with it
	} else {
		select {
		case l.wake <- struct{}{}:
		default: // the writer is awake
		}
	}
	select {
	case a, ok := <-answers:
		if !ok {
			l.mu.Lock()
			defer l.mu.Unlock()
			return answer{}, l.err
		}
		return a, nil
	case <-ctx.Done():
		if l.abandon(r.id) {
			l.fail(signer.Transient(&hungUpError{l.key.errorf("nothing has come over a connection for %s: it was given up", maxSilence)}, 0))
		}
		return answer{}, ctx.Err()
	}
}

// abandon drops the answer to a request, and reports whether the link is dead.
func (l *link) abandon(id uint32) (stuck bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, unanswered := l.waiting[id]; !unanswered {
		return false
	}
	l.waiting[id] = nil
	return time.Since(l.heard) > maxSilence
}

// write sends the requests that wait together with others.
func (l *link) write() {
	for {
		select {
		case <-l.wake:
			runtime.Gosched() // lets goroutines that are ready to run add requests
			l.send()
		case <-l.done:
			return
		}
	}
}

// send writes the requests in l.out.
func (l *link) send() {
	l.mu.Lock()
	out := l.out
	l.out, l.spare = l.spare, nil
	l.mu.Unlock()
	if len(out) == 0 {
		return // another goroutine has sent it
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := l.conn.Write(out); err != nil {
		l.fail(l.lost(err, false))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if cap(out) <= keptBuffer {
		l.spare = out[:0]
	}
}

// read delivers answers to the callers that wait for them.
func (l *link) read() {
	in := newFrames(l.conn, maxAnswer)
	for {
		content, ok, err := in.next()
		switch {
		case err != nil:
			l.fail(l.garbled(err))
			return
		case !ok:
			if err := in.fill(); err != nil {
				l.fail(l.lost(err, in.partial()))
				return
			}
			continue
		}
		a, err := parseAnswer(content)
		switch {
		case err != nil:
			l.fail(l.garbled(err))
			return
		case a.status == statusMalformed:
			l.fail(l.key.errorf("it did not understand: %s", a.body))
			return
		}
		a.body = bytes.Clone(a.body) // the next read overwrites it
		if !l.deliver(a) {
			l.fail(l.garbled(errors.New("it is for nobody")))
			return
		}
	}
}

// deliver hands a to the caller that waits for it. It returns false if there was no such request.
func (l *link) deliver(a answer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	answers, asked := l.waiting[a.id]
	delete(l.waiting, a.id)
	l.heard = time.Now()
	if answers != nil {
		answers <- a // does not block: the channel has room
	}
	return asked
}

// fail breaks the link with err, and all waiting callers get err. The first reason counts.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	for _, answers := range l.waiting {
		if answers != nil {
			close(answers)
		}
	}
	clear(l.waiting)
	_ = l.conn.Close()
	close(l.done)
}

// hungUpError is the error of a connection that ended before an answer began, or was given up.
type hungUpError struct{ error }

func (e *hungUpError) Unwrap() error { return e.error }

// lost explains err, which stopped reading or writing.
func (l *link) lost(err error, within bool) error {
	switch gone := errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET); {
	case gone && !within:
		return signer.Transient(&hungUpError{l.key.errorf("it closed the connection without an answer; %s, and lets uid %d use it", isItRunning, os.Getuid())}, 0)
	default:
		return signer.Transient(l.key.errorf("it went away while it answered: %w; %s", err, isItRunning), 0)
	}
}

func (l *link) garbled(err error) error {
	return l.key.errorf("its answer is none: %w; does another program listen there, or another release?", err)
}
