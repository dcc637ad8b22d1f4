// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
)

// opening is an attempt to open the key. All callers that need the key wait for it.
type opening struct {
	done chan struct{} // closed when key and err are set
	key  Key
	err  error
}

// get returns the key, and opens it if necessary.
func (s *Signer) get(ctx context.Context) (Key, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if key := s.key; key != nil {
		s.mu.Unlock()
		return key, nil
	}
	o := s.opening
	if o == nil {
		o = &opening{done: make(chan struct{})}
		s.opening = o
		go s.openKey(context.WithoutCancel(ctx), o)
	}
	s.mu.Unlock()
	select {
	case <-o.done:
		return o.key, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("opening the key goes on: %w", ctx.Err())
	}
}

// openKey opens the key for all callers that wait for o.
func (s *Signer) openKey(ctx context.Context, o *opening) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	o.key, o.err = s.openMatching(ctx)
	if o.err != nil && ctx.Err() != nil && !IsTransient(o.err) || errors.Is(o.err, context.DeadlineExceeded) {
		o.err = Transient(fmt.Errorf("opening the key: %w: %w", errSlow, o.err), 0)
	}
	s.mu.Lock()
	s.opening = nil
	closed := s.closed
	if o.err == nil && !closed {
		s.key = o.key
	}
	s.mu.Unlock()
	s.observe.opened(o.err)
	close(o.done)
	switch {
	case o.err == nil && closed:
		_ = o.key.Close() // no caller has signed with it
	case o.err == nil:
		s.logger.LogAttrs(ctx, slog.LevelDebug, "the key of an authority was opened", slog.String("authority", s.name), slog.String("kind", s.kind))
	}
}

func (s *Signer) openMatching(ctx context.Context) (key Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			key, err = nil, fmt.Errorf("opening the key: panic: %v", p)
		}
	}()
	key, err = s.open(ctx)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(s.public) {
		err := fmt.Errorf("it is not the key of the authority's certificate: found %s, and the certificate has %s; name the key that belongs to it", Describe(key.Public()), Describe(s.public))
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

func (s *Signer) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// drop forgets key, so that the next attempt opens the key again.
func (s *Signer) drop(ctx context.Context, key Key, why error) {
	s.mu.Lock()
	lost := s.key == key
	if lost {
		s.key = nil
	}
	s.mu.Unlock()
	if !lost {
		return // another caller was first
	}
	level := slog.LevelWarn
	if !s.breaker.Closed() {
		level = slog.LevelDebug // it was logged before
	}
	s.logger.LogAttrs(ctx, level, "the key of an authority was lost, and is opened again",
		slog.String("authority", s.name), slog.String("kind", s.kind), slog.Any("error", why))
	go func() { _ = key.Close() }() // Close may hang, and the key is no longer usable either way
}

// Close closes the key. The Signer refuses later signatures.
func (s *Signer) Close() error {
	s.mu.Lock()
	key := s.key
	s.key, s.closed = nil, true
	s.mu.Unlock()
	if key == nil {
		return nil
	}
	return key.Close()
}
