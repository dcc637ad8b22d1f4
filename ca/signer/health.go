// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// SelfTestMessage is what a self-test signs: it can never be a certificate, which begins with
// the octet of a SEQUENCE.
const SelfTestMessage = "mayfly signer self-test"

const (
	// selfTestInterval is the age of what is known of the key at which Tend makes a self-test:
	// what serves requests is not tested besides.
	selfTestInterval = 15 * time.Second
	// retestInterval is that age for a key that has failed, or never signed.
	retestInterval = time.Second
	// hangingInterval is that age for one that has failed while half of the calls that may be
	// under way hang, and once more for each call beyond: they may never return, and when all
	// hang nothing is left to try it with. So they last for hours.
	hangingInterval = 30 * time.Second
)

// SelfTest opens the key if it is not open, and makes and verifies a signature, whatever the
// breaker says.
func (s *Signer) SelfTest(ctx context.Context) error { return s.selfTest(ctx, s.limits) }

// Prove is SelfTest with patience: a key that is opened for the first time may have to find
// its credentials, connect and log in.
func (s *Signer) Prove(ctx context.Context) error {
	return s.selfTest(ctx, limits{proveTimeout, openTimeout})
}

func (s *Signer) selfTest(ctx context.Context, l limits) error {
	if s.local != nil {
		_, err := s.signLocally(ctx, []byte(SelfTestMessage), true)
		return err
	}
	_, err := s.try(ctx, []byte(SelfTestMessage), true, l)
	return err
}

// Tend begins a self-test in the background if it is time for one, and does not wait for it.
// It is to be called every second or so.
func (s *Signer) Tend(ctx context.Context) {
	if s.local != nil {
		return
	}
	interval := selfTestInterval
	switch {
	case s.hanging():
		interval = time.Duration(len(s.calls)-cap(s.calls)/2) * hangingInterval
	case s.breaker.StatusAt(time.Now()).Failures > 0 || !s.proven.Load():
		interval = retestInterval
	}
	if time.Since(s.epoch)-time.Duration(s.learned.Load()) < interval || s.breaker.Rest().After(time.Now()) || !s.tending.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.tending.Store(false)
		_ = s.SelfTest(ctx) // the breaker remembers what came of it
	}()
}

// hanging tells whether the key has failed, and half of the calls that may be under way are.
func (s *Signer) hanging() bool {
	return len(s.calls) > cap(s.calls)/2 && !s.breaker.Closed()
}

// Status is how a Signer is doing at one moment.
type Status struct {
	Name, Kind string
	// Local is a key in this process's memory, of which the rest tells nothing.
	Local bool
	// Proven tells whether it has ever made a signature that verified.
	Proven bool
	breaker.Status
}

// Status tells how the Signer is doing. It asks nobody.
func (s *Signer) Status() Status {
	return Status{Name: s.name, Kind: s.kind, Local: s.local != nil, Proven: s.proven.Load(), Status: s.breaker.StatusAt(time.Now())}
}

// Check tells readiness whether the Signer can be relied on now. It asks only a key in this
// process's memory, so that no place that hangs makes it hang.
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
		return fmt.Errorf("it has never signed")
	}
	return nil
}
