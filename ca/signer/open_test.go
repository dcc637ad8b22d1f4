// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// However many callers find a key lost, it is opened again once, and the lost one is closed once.
func TestLostKeyIsOpenedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clients = 20
		var arrived sync.WaitGroup
		arrived.Add(clients)
		p := &place{onSign: func(_ context.Context, n int) error {
			if n >= clients {
				return nil
			}
			arrived.Done()
			arrived.Wait() // all of them use the first key
			return signer.Stale(errors.New("session lost"))
		}}
		s := p.signer(t, signer.Config{})
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				if err := sign(t, s); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if p.opens.Load() != 2 || !maps.Equal(p.closedTimes(), map[int]int{0: 1}) {
			t.Errorf("%d were opened, and closed %v times", p.opens.Load(), p.closedTimes())
		}
	})
}

// One opening serves all callers that wait for it, whatever its result.
func TestOpening(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		onOpen func(context.Context, int) error
		fails  string
		opens  int32
	}{
		"slowly":          {func(context.Context, int) error { time.Sleep(time.Second); return nil }, "", 1},
		"and it fails":    {func(context.Context, int) error { time.Sleep(time.Millisecond); return errPermanent }, "403", 1},
		"and it may pass": {failing(1, errTransient), "", 2},
		"and panics":      {func(context.Context, int) error { time.Sleep(time.Millisecond); panic("out of its mind") }, "panic: out of its mind", 1},
		"and never comes": {silent, "opening the key continues: context deadline exceeded", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &place{onOpen: test.onOpen}
				s := p.signer(t, signer.Config{})
				var all sync.WaitGroup
				for range 5 {
					all.Go(func() {
						err := sign(t, s)
						if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
							t.Errorf("got error %v, want %q", err, test.fails)
						}
					})
				}
				all.Wait()
				if got := p.opens.Load(); got != test.opens {
					t.Errorf("it was opened %d times, want %d", got, test.opens)
				}
				time.Sleep(time.Minute) // an opening that is still under way ends
			})
		})
	}
}

// An opening that does not return is abandoned, and another one does not wait for it. A bounded
// number of them hang.
func TestHungOpenings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mended atomic.Bool
		release := make(chan struct{})
		p := &place{onOpen: func(context.Context, int) error {
			if !mended.Load() {
				<-release // as a C library does
			}
			return nil
		}}
		s := p.signer(t, signer.Config{Concurrency: 4})
		for range 10 {
			if err := s.Prove(t.Context()); !signer.IsTransient(err) {
				t.Errorf("error %v", err)
			}
		}
		if got := p.opens.Load(); got != 4 {
			t.Errorf("%d openings hang, want 4 at most", got)
		}
		mended.Store(true)
		close(release)
		if err := s.Prove(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if closed := p.closedTimes(); len(closed) != int(p.opens.Load())-1 {
			t.Errorf("of %d keys that came late, %v are closed", p.opens.Load(), closed)
		}
	})
}

func TestKeyOfAnotherCertificate(t *testing.T) {
	t.Parallel()
	p := &place{}
	s := p.signer(t, signer.Config{Public: newKey(t).Public()})
	err := sign(t, s)
	if err == nil || !strings.Contains(err.Error(), "not the key of the authority's certificate: found an ECDSA key on P-256, and the certificate has an ECDSA key on P-256") {
		t.Errorf("got error %v", err)
	}
	if p.signs.Load() != 0 || p.closedTimes()[0] != 1 {
		t.Errorf("another key signed %d times, and was closed %d times", p.signs.Load(), p.closedTimes()[0])
	}
}

// A signature that does not verify is an error and is not retried.
func TestWrongSignature(t *testing.T) {
	t.Parallel()
	p := &place{}
	p.wrong.Store(true)
	s := p.signer(t, signer.Config{})
	signature, err := s.Sign(t.Context(), message)
	if err == nil || signature != nil || p.signs.Load() != 1 || !strings.Contains(err.Error(), "signature does not verify") || signer.IsTransient(err) {
		t.Errorf("signature %x after %d attempts, error %v", signature, p.signs.Load(), err)
	}
	if status := s.Status(); status.Proven || status.Failures != 1 {
		t.Errorf("status %+v", status)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{onOpen: func(context.Context, int) error { time.Sleep(100 * time.Millisecond); return nil }}
		s := p.signer(t, signer.Config{})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := sign(t, s); !errors.Is(err, signer.ErrClosed) {
			t.Errorf("error %v", err)
		}
		late := p.signer(t, signer.Config{})
		done := make(chan error, 1)
		go func() { _, err := late.Sign(t.Context(), message); done <- err }()
		synctest.Wait() // the key is being opened
		if err := errors.Join(late.Close(), late.Close()); err != nil {
			t.Error(err)
		}
		<-done
		synctest.Wait()
		if got := p.closedTimes()[0]; got != 1 {
			t.Errorf("what was opened while it was closed was closed %d times", got)
		}
	})
}
