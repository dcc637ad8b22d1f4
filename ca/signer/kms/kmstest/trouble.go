// SPDX-License-Identifier: Apache-2.0

// Package kmstest serves the key-management services to their clients: real protocols, real keys
// and real signatures, on loopback, and with faults.
//
// Only tests import it.
package kmstest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// Trouble is a fault of a service.
type Trouble struct {
	// Status is the HTTP status of every answer, in the service's format.
	Status int
	// RetryAfter is the pause in seconds that the service asks for.
	RetryAfter int
	// Hangs stops all answers until the trouble is over.
	Hangs bool
	// Lies makes the service sign another digest.
	Lies bool
}

// service is the base of all services: one trouble at a time.
type service struct {
	mu      sync.Mutex
	trouble Trouble
	over    chan struct{} // closed when the trouble is over
}

// Begin starts the trouble, which lasts until the caller calls mend.
func (s *service) Begin(trouble Trouble) (mend func()) {
	over := make(chan struct{})
	s.mu.Lock()
	s.trouble, s.over = trouble, over
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.trouble, s.over = Trouble{}, nil
		s.mu.Unlock()
		close(over)
	}
}

// now returns the trouble. While the service hangs, now waits.
func (s *service) now(ctx context.Context) Trouble {
	s.mu.Lock()
	trouble, over := s.trouble, s.over
	s.mu.Unlock()
	if trouble.Hangs {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	return trouble
}

// Fault returns trouble as a fault for signertest.
func (s *service) Fault(name string, trouble Trouble, transient bool, wants ...string) signertest.Fault {
	begin := func(*testing.T) func() { return s.Begin(trouble) }
	return signertest.Fault{Name: name, Begin: begin, Transient: transient, Silent: trouble.Hangs, Wants: wants}
}

// refusal is an error in a service's format.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.status, r.code, r.message) }

// handler serves answer with the service's troubles; refuse writes its errors.
func (s *service) handler(answer func(r *http.Request, body []byte) ([]byte, error), refuse func(w http.ResponseWriter, err *refusal)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server sees that the client goes only after it has read the whole body.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			return
		}
		trouble := s.now(r.Context())
		if trouble.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(trouble.RetryAfter))
		}
		if trouble.Status != 0 {
			refuse(w, &refusal{trouble.Status, http.StatusText(trouble.Status), "in trouble"})
			return
		}
		out, err := answer(r, body)
		if refused, ok := err.(*refusal); ok {
			refuse(w, refused)
			return
		} else if err != nil {
			refuse(w, &refusal{http.StatusBadRequest, "BadRequest", err.Error()})
			return
		}
		_, _ = io.Copy(w, bytes.NewReader(out))
	})
}

// sign signs digest, or another one if Lies is set.
func (s *service) sign(key crypto.Signer, digest []byte, hash crypto.Hash, pss bool) ([]byte, error) {
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("the digest has %d bytes and not %d", len(digest), hash.Size())
	}
	s.mu.Lock()
	lies := s.trouble.Lies
	s.mu.Unlock()
	if lies {
		digest = append([]byte(nil), digest...)
		digest[0] ^= 1
	}
	var opts crypto.SignerOpts = hash
	if pss {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	return key.Sign(rand.Reader, digest, opts)
}
