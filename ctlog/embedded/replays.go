// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"cmp"
	"context"
	"crypto/sha256"
	"sync"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// maxReplays is how many submissions over HTTP the log remembers: at most 16 MiB.
const maxReplays = 32 << 10

// replays answers a repeated submission with its first SCT (RFC 6962, section 3). It forgets
// all when the process ends. A precertificate is public in the log, and a client with the token that
// submits it again after that adds an entry.
type replays struct {
	size int

	mu sync.Mutex
	// Under mu: when young has size submissions, it becomes old, and old is forgotten. So the last
	// size submissions are known.
	young, old map[[sha256.Size]byte]*replay
}

// replay is a submission that is running or has succeeded.
type replay struct {
	done chan struct{} // closed when sct and err are set
	sct  ctlog.SCT
	err  error
}

func newReplays(size int) *replays {
	return &replays{size: size, young: make(map[[sha256.Size]byte]*replay)}
}

// once calls submit for the first of several equal submissions and gives its SCT to all. It
// forgets failures. A caller returns when its ctx ends; the submission continues without it.
func (s *replays) once(ctx context.Context, key [sha256.Size]byte, submit func(context.Context) (ctlog.SCT, error)) (ctlog.SCT, error) {
	s.mu.Lock()
	known := cmp.Or(s.young[key], s.old[key])
	if known == nil {
		known = &replay{done: make(chan struct{})}
		if len(s.young) >= s.size {
			s.young, s.old = make(map[[sha256.Size]byte]*replay), s.young
		}
		s.young[key] = known
		go func() {
			known.sct, known.err = submit(context.WithoutCancel(ctx))
			if known.err != nil {
				s.forget(key)
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

// forget drops a submission that has failed.
func (s *replays) forget(key [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, key)
	delete(s.old, key)
}
