// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
)

// get returns the key, and opens it if necessary. One opening serves all callers that wait for it.
func (s *Signer) get(ctx context.Context) (Key, error) {
	if key, err := s.opened(); key != nil || err != nil {
		return key, err
	}
	opening := s.openings.DoChan("", func() (any, error) { return s.openKey(context.WithoutCancel(ctx)) })
	select {
	case result := <-opening:
		key, _ := result.Val.(Key)
		return key, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("opening the key continues: %w", ctx.Err())
	}
}

// opened returns the key if it is open, and ErrClosed after Close.
func (s *Signer) opened() (Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return s.key, nil
}

func (s *Signer) isClosed() bool {
	_, err := s.opened()
	return err != nil
}

// openKey opens the key for all callers.
func (s *Signer) openKey(ctx context.Context) (Key, error) {
	if key, err := s.opened(); key != nil || err != nil {
		return key, err // an earlier opening has just succeeded
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	key, err := s.openMatching(ctx)
	if err != nil && ctx.Err() != nil && !IsTransient(err) || errors.Is(err, context.DeadlineExceeded) {
		err = Transient(fmt.Errorf("opening the key: %w: %w", errNoAnswer, err), 0)
	}
	s.observe.opened(err)
	if err != nil {
		return nil, err
	}
	s.logger.LogAttrs(ctx, slog.LevelDebug, "the key of an authority was opened", slog.String("authority", s.name), slog.String("kind", s.kind))
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.key = key
	}
	s.mu.Unlock()
	if closed {
		return nil, errors.Join(ErrClosed, key.Close())
	}
	return key, nil
}

func (s *Signer) openMatching(ctx context.Context) (key Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			key, err = nil, fmt.Errorf("opening the key: panic: %v", p)
		}
	}()
	if key, err = s.open(ctx); err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(s.public) {
		err := fmt.Errorf("it is not the key of the authority's certificate: found %s, and the certificate has %s; name the key that belongs to it", Describe(key.Public()), Describe(s.public))
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

// drop closes key, so that the next attempt opens the key again.
func (s *Signer) drop(ctx context.Context, key Key, why error) {
	s.mu.Lock()
	current := s.key == key
	if current {
		s.key = nil
	}
	s.mu.Unlock()
	if !current {
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
