// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// requestContext behaves like a context of the standard library, whenever its methods are called.
func TestRequestContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(c *requestContext, cancel context.CancelFunc)
		want error
	}{
		"goes on":       {func(*requestContext, context.CancelFunc) {}, nil},
		"is late":       {func(*requestContext, context.CancelFunc) { time.Sleep(2 * time.Second) }, context.DeadlineExceeded},
		"is answered":   {func(c *requestContext, _ context.CancelFunc) { c.stop() }, context.Canceled},
		"server ends":   {func(_ *requestContext, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"late, stopped": {func(c *requestContext, _ context.CancelFunc) { time.Sleep(2 * time.Second); _ = c.Done(); c.stop() }, context.DeadlineExceeded},
	} {
		for _, waits := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				c := newRequestContext(parent, time.Second)
				defer c.stop()
				derived := context.Context(c)
				if waits {
					_ = c.Done()
					var stop context.CancelFunc
					derived, stop = context.WithTimeout(c, time.Hour)
					defer stop()
				}
				test.end(c, cancel)
				synctest.Wait()
				ended := false
				if waits {
					select {
					case <-c.Done():
						ended = true
					default:
					}
				}
				for _, ctx := range []context.Context{c, derived} {
					if got := ctx.Err(); !errors.Is(got, test.want) || waits && ended != (test.want != nil) {
						t.Errorf("%s (waits %t): error %v, ended %t, want %v", name, waits, got, ended, test.want)
					}
				}
				select {
				case <-c.Done():
					ended = true
				default:
				}
				if ended != (test.want != nil) {
					t.Errorf("%s (waits %t): asked late, ended is %t", name, waits, ended)
				}
			})
		}
	}
}
