// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// SelfTestMessage is the message that a self-test signs. It can never be a certificate, which
// begins with the octet of a SEQUENCE.
const SelfTestMessage = "mayfly signer self-test"

// selfTestInterval is the age of the last result at which Tend tests a key that has not failed.
const selfTestInterval = 15 * time.Second

// SelfTest opens the key if necessary, then creates and verifies a signature. It ignores the
// breaker.
func (s *Signer) SelfTest(ctx context.Context) error { return s.selfTest(ctx, s.limits) }

// Prove is SelfTest with longer timeouts: the first opening of a key may have to find
// credentials, connect and log in.
func (s *Signer) Prove(ctx context.Context) error {
	return s.selfTest(ctx, limits{proveTimeout, openTimeout})
}

func (s *Signer) selfTest(ctx context.Context, l limits) (err error) {
	if s.local != nil {
		_, err = s.signLocally(ctx, []byte(SelfTestMessage), true)
	} else {
		_, err = s.try(ctx, []byte(SelfTestMessage), true, l)
	}
	return err
}

// Tend starts a self-test in the background if one is due, and does not wait for it. The caller
// must call Tend every second or so.
func (s *Signer) Tend(ctx context.Context) {
	if s.local != nil {
		return
	}
	interval := selfTestInterval
	if !s.healthy() {
		interval = probeInterval + s.probeDelay()
	}
	if s.resultAge() < interval || s.breaker.Rest().After(time.Now()) || !s.tending.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.tending.Store(false)
		_ = s.SelfTest(ctx) // the breaker remembers the result
	}()
}

// resultAge returns the age of the last result that says something about the key.
func (s *Signer) resultAge() time.Duration {
	return time.Since(s.epoch) - time.Duration(s.lastResult.Load())
}

// probeDelay is the additional interval between two probes of a failed key. Calls may never return,
// and once all hang the key cannot be tried again: this makes them last for half an hour.
func (s *Signer) probeDelay() time.Duration { return time.Duration(len(s.calls)) * probeInterval }

// healthy reports whether the last result that says something about the key was a success.
func (s *Signer) healthy() bool {
	return s.proven.Load() && s.breaker.StatusAt(time.Now()).Failures == 0
}

// Status is the state of a Signer at one moment.
type Status struct {
	Name, Kind string
	// Local reports that the key is in this process's memory; the fields below then say nothing.
	Local bool
	// Proven reports whether the key has ever created a signature that verified.
	Proven bool
	breaker.Status
}

// Status returns the state of the Signer. It calls no key.
func (s *Signer) Status() Status {
	return Status{Name: s.name, Kind: s.kind, Local: s.local != nil, Proven: s.proven.Load(), Status: s.breaker.StatusAt(time.Now())}
}

// Check returns an error if the Signer is not ready. It calls the key only if the key is in this
// process's memory, so that a key that hangs cannot make Check hang.
func (s *Signer) Check(ctx context.Context) error {
	status := s.Status()
	switch {
	case status.Local:
		return s.SelfTest(ctx)
	case status.State != breaker.Closed:
		return fmt.Errorf("its breaker is %s: %w", status.State, status.LastError)
	case !status.Proven && status.LastError != nil:
		return fmt.Errorf("it has never signed: %w", status.LastError)
	case !status.Proven:
		return errors.New("it has never signed")
	}
	return nil
}
