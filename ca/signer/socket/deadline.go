// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"sync"
	"time"
)

// requestContext is a context with a deadline. Its timer starts when a caller first waits for its
// end. A signature with a key in memory does not wait for it, and the timer would cost a tenth of
// such a request.
type requestContext struct {
	parent   context.Context
	deadline time.Time

	mu      sync.Mutex      // guards the fields below
	timed   context.Context // nil until a caller waits
	cancel  context.CancelFunc
	stopped bool
}

func newRequestContext(parent context.Context, timeout time.Duration) *requestContext {
	return &requestContext{parent: parent, deadline: time.Now().Add(timeout)}
}

// Deadline implements context.Context.
func (c *requestContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.cancel = context.WithDeadline(c.parent, c.deadline)
		if c.stopped {
			c.cancel()
		}
	}
	return c.timed.Done()
}

// Err implements context.Context.
func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.timed != nil:
		return c.timed.Err()
	case c.stopped:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. context.WithCancel and the like use it to find the context that
// ends this one.
func (c *requestContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed != nil {
		return c.timed.Value(key)
	}
	return c.parent.Value(key)
}

// stop ends c after the answer to the request.
func (c *requestContext) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.cancel != nil {
		c.cancel()
	}
}
