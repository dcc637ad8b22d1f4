// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// All sleeps of this package use the clock of testing/synctest, so no real time passes.

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// place holds keys that behave as a test says. Each opening gives a Key of its own.
type place struct {
	key          *ecdsa.PrivateKey
	opens, signs atomic.Int32
	// onOpen and onSign are called first, with the number of earlier calls; an error that they
	// return is the answer. So is fails, unless it is nil.
	onOpen, onSign func(ctx context.Context, n int) error
	fails          atomic.Pointer[error]
	// wrong creates signatures that do not verify.
	wrong atomic.Bool

	mu     sync.Mutex
	closed map[int]int // how often each Key was closed, by the number of its opening
}

type placedKey struct {
	signer.Key
	p *place
	n int
}

func (p *place) open(ctx context.Context) (signer.Key, error) {
	n := int(p.opens.Add(1)) - 1
	if p.onOpen != nil {
		if err := p.onOpen(ctx, n); err != nil {
			return nil, err
		}
	}
	return &placedKey{signer.InMemory(p.key), p, n}, nil
}

func (k *placedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	n := int(k.p.signs.Add(1)) - 1
	if err := k.p.fails.Load(); err != nil {
		return nil, *err
	}
	if k.p.onSign != nil {
		if err := k.p.onSign(ctx, n); err != nil {
			return nil, err
		}
	}
	if k.p.wrong.Load() {
		message = append([]byte("not "), message...)
	}
	return k.Key.Sign(context.WithoutCancel(ctx), message)
}

func (k *placedKey) Close() error {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	k.p.closed[k.n]++
	return nil
}

// closedTimes returns how often each Key was closed.
func (p *place) closedTimes() map[int]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.closed)
}

// signer returns a Signer of a key in the place.
func (p *place) signer(t *testing.T, cfg signer.Config) *signer.Signer {
	t.Helper()
	p.closed = map[int]int{}
	if p.key == nil {
		p.key = newKey(t)
	}
	cfg.Name, cfg.Kind, cfg.Open = "2026-a", "test", p.open
	if cfg.Public == nil {
		cfg.Public = p.key.Public()
	}
	s, err := signer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign requests a signature.
func sign(t *testing.T, s *signer.Signer) error {
	_, err := s.Sign(t.Context(), message)
	return err
}

// failing returns a hook that fails the first times calls with err.
func failing(times int, err error) func(context.Context, int) error {
	return func(_ context.Context, n int) error {
		if n < times {
			return err
		}
		return nil
	}
}

// silent is a hook that gives no answer.
func silent(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

var (
	message      = []byte("message")
	errPermanent = errors.New("403: allow it in kms.uri")
	errTransient = signer.Transient(errors.New("500: it is out of order"), 0)
)

// The test lists what is retried, how often, and when no key is called at all.
func TestAttempts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		onSign func(context.Context, int) error
		signs  int32
		fails  string // "" for success
	}{
		"at once":                   {nil, 1, ""},
		"after a transient failure": {failing(1, errTransient), 2, ""},
		"not after two":             {failing(2, errTransient), 2, "500: it is out of order"},
		"not after a permanent one": {failing(1, errPermanent), 1, "403: allow it in kms.uri"},
		"not after a Retry-After":   {failing(1, signer.Transient(errors.New("429"), time.Second)), 1, "429"},
		"closed by somebody else":   {failing(1, signer.ErrClosed), 2, ""},
		"opened again":              {failing(1, signer.Stale(errors.New("session lost"))), 2, ""},
		"lost again":                {failing(9, signer.Stale(errors.New("session lost"))), 2, "session lost"},
		"a panic":                   {func(context.Context, int) error { panic("out of its mind") }, 1, "panic: out of its mind"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &place{onSign: test.onSign}
				signature, err := p.signer(t, signer.Config{}).Sign(t.Context(), message)
				if got := p.signs.Load(); got != test.signs {
					t.Errorf("it was asked %d times, want %d", got, test.signs)
				}
				switch {
				case test.fails == "" && err != nil:
					t.Error(err)
				case test.fails != "" && (err == nil || signature != nil || !strings.Contains(err.Error(), test.fails)):
					t.Errorf("signature %x, error %v; want one that says %q", signature, err, test.fails)
				}
			})
		})
	}
}

// A key that hangs costs its callers a bounded time and the process a bounded number of
// goroutines. It is used again once it has recovered.
func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &place{onSign: func(context.Context, int) error { <-release; return nil }} // as a C library does
		s := p.signer(t, signer.Config{Concurrency: 4})
		began := time.Now()
		err := sign(t, s)
		if took := time.Since(began); took < 1400*time.Millisecond || took > 1500*time.Millisecond {
			t.Errorf("the caller waited %s, want two attempts of 700 ms and no more than 1.5 s", took)
		}
		if !signer.IsTransient(err) || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("error %v", err)
		}
		for range 10 {
			if err := s.SelfTest(t.Context()); err == nil {
				t.Error("it signs")
			}
		}
		if got := p.signs.Load(); got != 4 {
			t.Errorf("%d calls are under way, want 4 at most", got)
		}
		close(release)
		synctest.Wait()
		if err := s.SelfTest(t.Context()); err != nil {
			t.Errorf("after it was well again: %v", err)
		}
	})
}

// A key that gives no answer for a while is opened again: its connection may lead nowhere.
func TestSilentKeyIsOpenedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{}
		p.onSign = func(ctx context.Context, _ int) error {
			if p.opens.Load() == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		s := p.signer(t, signer.Config{})
		for range 4 {
			_ = s.SelfTest(t.Context())
			time.Sleep(time.Second)
		}
		if err := sign(t, s); err != nil || p.opens.Load() != 2 || p.closedTimes()[0] != 1 {
			t.Errorf("after %d openings: %v", p.opens.Load(), err)
		}
	})
}

// A caller that has gone says nothing about the key.
func TestCallerWhoGoesProvesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{onSign: silent}
		s := p.signer(t, signer.Config{})
		for _, patience := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := s.Sign(ctx, message); err == nil {
				t.Error("it signed")
			}
			cancel()
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(patience, cancel)
			if _, err := s.Sign(ctx, message); err == nil {
				t.Error("it signed")
			}
		}
		if status := s.Status(); status.Failures != 0 {
			t.Errorf("it has %d failures: %v", status.Failures, status.LastError)
		}
		// Such callers do not prevent the test of a key that answers none of them.
		for range 8 {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_, _ = s.Sign(ctx, message)
			cancel()
			s.Tend(t.Context())
			time.Sleep(2 * time.Second)
		}
		if status := s.Status(); status.State == breaker.Closed {
			t.Errorf("nobody has noticed: %+v", status)
		}
	})
}

// A caller that waits as long as an attempt proves that the key gives no answer. A server that
// signs through another process is such a caller.
func TestCallerWhoseTimeEndsHasSeenSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := (&place{onSign: silent}).signer(t, signer.Config{})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 690*time.Millisecond)
			if _, err := s.Sign(ctx, message); !signer.IsTransient(err) || !strings.Contains(err.Error(), "no answer in time") {
				t.Errorf("error %v", err)
			}
			cancel()
		}
		if status := s.Status(); status.State == breaker.Closed {
			t.Errorf("the breaker is closed: %+v", status)
		}
	})
}

// A refused message does not count against the key, but a refused self-test does.
func TestRefusedMessage(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("%w: it is too long", signer.ErrNotPermitted)
	p := &place{onSign: failing(99, refused)}
	s := p.signer(t, signer.Config{})
	for range 10 {
		if err := sign(t, s); !errors.Is(err, refused) {
			t.Errorf("error %v", err)
		}
	}
	if status := s.Status(); status.Failures != 0 || p.signs.Load() != 10 {
		t.Errorf("it was asked %d times: %+v", p.signs.Load(), status)
	}
	for range 5 {
		_ = s.SelfTest(t.Context())
	}
	if status := s.Status(); status.State == breaker.Closed {
		t.Errorf("the breaker is closed: %+v", status)
	}
}
