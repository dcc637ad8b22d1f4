// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// maxReplays is how many submissions over HTTP the log remembers: about 8 MiB.
const maxReplays = 32 << 10

// replays answers a repeated submission with its first SCT (RFC 6962, section 3). It forgets
// the oldest first, and all when the process ends. A precertificate is public in the log, and
// a client with the token that submits it again after that adds an entry.
type replays struct {
	size   int
	mu     sync.Mutex
	known  map[[sha256.Size]byte]*replay // under mu
	order  [][sha256.Size]byte           // under mu: a ring of the keys of known, by age
	oldest int                           // under mu
}

// replay is a submission that is running or has succeeded.
type replay struct {
	done chan struct{} // closed when sct and err are set
	sct  ctlog.SCT
	err  error
}

func newReplays(size int) *replays {
	return &replays{size: size, known: make(map[[sha256.Size]byte]*replay)}
}

// once calls submit for the first of several equal submissions and gives its SCT to all. It
// forgets failures. A caller returns when its ctx ends; the submission continues without it.
func (s *replays) once(ctx context.Context, key [sha256.Size]byte, submit func(context.Context) (ctlog.SCT, error)) (ctlog.SCT, error) {
	s.mu.Lock()
	known := s.known[key]
	if known == nil {
		known = &replay{done: make(chan struct{})}
		s.remember(key, known)
		go func() {
			known.sct, known.err = submit(context.WithoutCancel(ctx))
			if known.err != nil {
				s.forget(key, known)
			}
			close(known.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-known.done:
		return known.sct, known.err
	case <-ctx.Done():
		return ctlog.SCT{}, ctx.Err()
	}
}

// remember adds a submission in place of the oldest. The caller holds mu.
func (s *replays) remember(key [sha256.Size]byte, r *replay) {
	s.known[key] = r
	if len(s.order) < s.size {
		s.order = append(s.order, key)
		return
	}
	if old := s.order[s.oldest]; old != key {
		delete(s.known, old)
	}
	s.order[s.oldest] = key
	s.oldest = (s.oldest + 1) % len(s.order)
}

// forget drops a failed submission. Its place in the order stays, and costs nothing.
func (s *replays) forget(key [sha256.Size]byte, r *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[key] == r {
		delete(s.known, key)
	}
}
