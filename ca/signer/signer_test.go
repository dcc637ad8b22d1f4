// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// place is where keys lie that do as a test says. Each is a Key of its own, so that it can be
// told which of them was asked, and closed.
type place struct {
	key   *ecdsa.PrivateKey
	opens atomic.Int32
	signs atomic.Int32
	// onOpen and onSign are called first, with how often it was called before; an error of
	// theirs is the answer.
	onOpen, onSign func(ctx context.Context, n int) error
	// wrong makes signatures that do not verify.
	wrong atomic.Bool

	mu     sync.Mutex
	closed map[int]int // how often each of them, by the number of its opening
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
	if k.p.closed == nil {
		k.p.closed = map[int]int{}
	}
	k.p.closed[k.n]++
	return nil
}

func (p *place) closedTimes(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed[n]
}

func (p *place) signer(t *testing.T) *signer.Signer {
	t.Helper()
	return p.signerOf(t, signer.Config{})
}

func (p *place) signerOf(t *testing.T, cfg signer.Config) *signer.Signer {
	t.Helper()
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

// failing returns a hook that fails the first times calls with err.
func failing(times int, err error) func(context.Context, int) error {
	return func(_ context.Context, n int) error {
		if n < times {
			return err
		}
		return nil
	}
}

var (
	message      = []byte("message")
	errPermanent = errors.New("403: allow it in kms.uri")
	errTransient = signer.Transient(errors.New("500: it is out of order"), 0)
)

// What is tried again, how often, and when nobody is asked at all.
func TestAttempts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		onSign func(context.Context, int) error
		signs  int32
		fails  string // "" for success
	}{
		"at once":                   {nil, 1, ""},
		"after a transient failure": {failing(1, errTransient), 2, ""},
		"after two":                 {failing(2, errTransient), 3, ""},
		"not after three":           {failing(3, errTransient), 3, "500: it is out of order"},
		"not after a permanent one": {failing(1, errPermanent), 1, "403: allow it in kms.uri"},
		"not after a Retry-After":   {failing(1, signer.Transient(errors.New("429"), time.Second)), 1, "429"},
		"closed by somebody else":   {failing(1, signer.ErrClosed), 2, ""},
		"opened anew":               {failing(1, signer.Stale(errors.New("session lost"))), 2, ""},
		"a panic":                   {func(context.Context, int) error { panic("out of its mind") }, 1, "panic: out of its mind"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &place{key: newKey(t), onSign: test.onSign}
				signature, err := p.signer(t).Sign(t.Context(), message)
				if got := p.signs.Load(); got != test.signs {
					t.Errorf("it was asked %d times, want %d", got, test.signs)
				}
				switch {
				case test.fails == "" && err != nil:
					t.Error(err)
				case test.fails == "" && !ecdsa.VerifyASN1(&p.key.PublicKey, digest(message), signature):
					t.Error("the signature does not verify")
				case test.fails != "" && (err == nil || signature != nil || !strings.Contains(err.Error(), test.fails)):
					t.Errorf("signature %x, error %v; want one that says %q", signature, err, test.fails)
				}
			})
		})
	}
}

func digest(message []byte) []byte {
	h := crypto.SHA256.New()
	h.Write(message)
	return h.Sum(nil)
}

// A place that hangs costs its callers a bounded time and the process a bounded number of
// goroutines, and is used again once it is well.
func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &place{key: newKey(t), onSign: func(context.Context, int) error { <-release; return nil }} // as a C library does
		s := p.signerOf(t, signer.Config{Concurrency: 4})
		began := time.Now()
		_, err := s.Sign(t.Context(), message)
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

// A key that has been silent for a while is opened anew: its connection may lead nowhere.
func TestSilentKeyIsOpenedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{key: newKey(t)}
		p.onSign = func(ctx context.Context, _ int) error {
			if p.opens.Load() == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		s := p.signer(t)
		for range 4 {
			_ = s.SelfTest(t.Context())
			time.Sleep(time.Second)
		}
		if _, err := s.Sign(t.Context(), message); err != nil || p.opens.Load() != 2 || p.closedTimes(0) != 1 {
			t.Errorf("after %d openings: %v", p.opens.Load(), err)
		}
	})
}

// Nothing is known of a key whose caller has gone.
func TestCallerWhoGoesProvesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{key: newKey(t), onSign: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }}
		s := p.signer(t)
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
		// Nor do they keep a key from being tested that is silent to all of them.
		for range 4 {
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
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

// The breaker opens, keeps everybody away but one a second, and closes with the first
// signature.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out atomic.Bool
		out.Store(true)
		p := &place{key: newKey(t), onSign: func(context.Context, int) error {
			if out.Load() {
				return errPermanent
			}
			return nil
		}}
		s := p.signer(t)
		for range 5 {
			if _, err := s.Sign(t.Context(), message); !errors.Is(err, errPermanent) {
				t.Errorf("error %v", err)
			}
		}
		for range 3 {
			_, err := s.Sign(t.Context(), message)
			var f *signer.Failure
			if !errors.As(err, &f) || f.RetryAfter <= 0 || f.RetryAfter > time.Second || !errors.Is(err, errPermanent) {
				t.Errorf("an open breaker: %v", err)
			}
		}
		if got := p.signs.Load(); got != 5 {
			t.Errorf("it was asked %d times, want 5", got)
		}
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "breaker is open: 403") {
			t.Errorf("readiness says %v", err)
		}
		time.Sleep(time.Second)
		for range 3 { // one of them is the probe
			_, _ = s.Sign(t.Context(), message)
		}
		if got := p.signs.Load(); got != 6 {
			t.Errorf("it was asked %d times, want 6", got)
		}
		out.Store(false)
		time.Sleep(time.Second)
		for range 3 {
			if _, err := s.Sign(t.Context(), message); err != nil {
				t.Errorf("after it was well again: %v", err)
			}
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("readiness says %v", err)
		}
	})
}

// A place that wants to be left alone is, for ten seconds at most, once it has said so to
// several: one that is near its quota says it to somebody now and then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var throttled atomic.Bool
		throttled.Store(true)
		p := &place{key: newKey(t), onSign: func(context.Context, int) error {
			if throttled.Load() {
				return signer.Transient(errors.New("429"), time.Hour)
			}
			return nil
		}}
		s := p.signer(t)
		for n := range 5 {
			_, err := s.Sign(t.Context(), message)
			var f *signer.Failure
			if !errors.As(err, &f) || f.RetryAfter != 10*time.Second || p.signs.Load() != int32(n)+1 {
				t.Errorf("after %d attempts: %v", p.signs.Load(), err)
			}
		}
		throttled.Store(false)
		time.Sleep(9 * time.Second)
		if _, err := s.Sign(t.Context(), message); err == nil || p.signs.Load() != 5 {
			t.Errorf("it was asked %d times: %v", p.signs.Load(), err)
		}
		time.Sleep(time.Second)
		if _, err := s.Sign(t.Context(), message); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := &place{key: newKey(t), onSign: func(_ context.Context, n int) error {
			if n%20 == 0 {
				return signer.Transient(errors.New("429"), 3*time.Second)
			}
			return nil
		}}
		s, refused := p.signer(t), 0
		for range 200 {
			if _, err := s.Sign(t.Context(), message); err != nil {
				refused++
			}
		}
		if refused != 10 {
			t.Errorf("%d of 200 were refused, want the 10 that were throttled", refused)
		}
	})
}

// More callers than a healthy key can serve get what it can make, and nothing is held against
// the key: neither is its breaker opened nor it itself.
func TestOverload(t *testing.T) {
	t.Parallel()
	for name, concurrency := range map[string]int{"in our queue": 8, "in the key's own": 64} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sessions := make(chan struct{}, 8)
				p := &place{key: newKey(t), onSign: func(ctx context.Context, _ int) error {
					select {
					case sessions <- struct{}{}:
					case <-ctx.Done():
						return signer.Busy(ctx.Err())
					}
					defer func() { <-sessions }()
					time.Sleep(20 * time.Millisecond)
					return nil
				}}
				s := p.signerOf(t, signer.Config{Concurrency: concurrency})
				var signed atomic.Int64
				var all sync.WaitGroup
				end := time.Now().Add(2 * time.Second)
				for range 300 {
					all.Go(func() {
						for time.Now().Before(end) {
							if _, err := s.Sign(t.Context(), message); err == nil {
								signed.Add(1)
							} else if !signer.IsTransient(err) {
								t.Errorf("a refusal that does not pass: %v", err)
							}
						}
					})
				}
				all.Wait()
				if got := signed.Load(); got < 700 {
					t.Errorf("%d signatures in two seconds of which 800 are possible", got)
				}
				if status := s.Status(); status.Failures != 0 || p.opens.Load() != 1 {
					t.Errorf("it was opened %d times, and has %d failures: %v", p.opens.Load(), status.Failures, status.LastError)
				}
			})
		})
	}
}

// A key that is lost right after it was opened is not opened again and again for one request.
func TestLostAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{key: newKey(t), onSign: failing(1000, signer.Stale(errors.New("403")))}
		s := p.signer(t)
		if _, err := s.Sign(t.Context(), message); err == nil || p.opens.Load() != 2 || p.signs.Load() != 2 {
			t.Errorf("it was opened %d times and asked %d times: %v", p.opens.Load(), p.signs.Load(), err)
		}
	})
}

// Whoever finds a key lost, it is opened anew once, and the lost one is closed once.
func TestLostKeyIsOpenedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clients = 20
		var arrived sync.WaitGroup
		arrived.Add(clients)
		p := &place{key: newKey(t), onSign: func(_ context.Context, n int) error {
			if n >= clients {
				return nil
			}
			arrived.Done()
			arrived.Wait() // all of them use the first key
			return signer.Stale(errors.New("session lost"))
		}}
		s := p.signer(t)
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				if _, err := s.Sign(t.Context(), message); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if p.opens.Load() != 2 || p.closedTimes(0) != 1 || p.closedTimes(1) != 0 {
			t.Errorf("%d were opened, and closed %d and %d times", p.opens.Load(), p.closedTimes(0), p.closedTimes(1))
		}
	})
}

// One key that is opened serves all who wait for it, whatever it does meanwhile.
func TestOpening(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		onOpen func(context.Context, int) error
		fails  string
		opens  int32
	}{
		"slowly":           {func(context.Context, int) error { time.Sleep(time.Second); return nil }, "", 1},
		"and it fails":     {func(context.Context, int) error { time.Sleep(time.Millisecond); return errPermanent }, "403", 1},
		"and it may pass":  {failing(1, errTransient), "", 2},
		"and panics":       {func(context.Context, int) error { time.Sleep(time.Millisecond); panic("out of its mind") }, "panic: out of its mind", 1},
		"and never comes":  {func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, "opening the key: context deadline exceeded", 1},
		"once it answered": {func(_ context.Context, n int) error { time.Sleep(time.Duration(n) * time.Hour); return nil }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &place{key: newKey(t), onOpen: test.onOpen}
				s := p.signer(t)
				var all sync.WaitGroup
				for range 5 {
					all.Go(func() {
						_, err := s.Sign(t.Context(), message)
						if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
							t.Errorf("got error %v, want %q", err, test.fails)
						}
					})
				}
				all.Wait()
				if got := p.opens.Load(); got != test.opens {
					t.Errorf("it was opened %d times, want %d", got, test.opens)
				}
				time.Sleep(time.Minute) // what still opens ends
			})
		})
	}
}

func TestKeyOfAnotherCertificate(t *testing.T) {
	t.Parallel()
	p := &place{key: newKey(t)}
	s := p.signerOf(t, signer.Config{Public: newKey(t).Public()})
	_, err := s.Sign(t.Context(), message)
	if err == nil || !strings.Contains(err.Error(), "not the key of the authority's certificate: found an ECDSA key on P-256, and the certificate has an ECDSA key on P-256") {
		t.Errorf("got error %v", err)
	}
	if p.signs.Load() != 0 || p.closedTimes(0) != 1 {
		t.Errorf("another key signed %d times, and was closed %d times", p.signs.Load(), p.closedTimes(0))
	}
}

// A signature that does not verify is an error, and is not asked for again.
func TestWrongSignature(t *testing.T) {
	t.Parallel()
	p := &place{key: newKey(t)}
	p.wrong.Store(true)
	s := p.signer(t)
	signature, err := s.Sign(t.Context(), message)
	if err == nil || signature != nil || p.signs.Load() != 1 || !strings.Contains(err.Error(), "signature does not verify") || signer.IsTransient(err) {
		t.Errorf("signature %x after %d attempts, error %v", signature, p.signs.Load(), err)
	}
	if status := s.Status(); status.Proven || status.Failures != 1 {
		t.Errorf("status %+v", status)
	}
}

// Tend tests what is idle now and then, what has failed each second, and nothing besides what
// signs anyway.
func TestTend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out atomic.Bool
		p := &place{key: newKey(t), onSign: func(context.Context, int) error {
			if out.Load() {
				return errPermanent
			}
			return nil
		}}
		s := p.signer(t)
		tend := func(d time.Duration) (asked int32) {
			before := p.signs.Load()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				s.Tend(t.Context())
				synctest.Wait()
			}
			return p.signs.Load() - before
		}
		if got := tend(2 * time.Second); got != 1 {
			t.Errorf("a new key was tested %d times, want once", got)
		}
		if got := tend(time.Minute); got != 4 {
			t.Errorf("an idle key was tested %d times in a minute, want 4", got)
		}
		for range 60 {
			if _, err := s.Sign(t.Context(), message); err != nil {
				t.Fatal(err)
			}
			if got := tend(time.Second); got != 0 {
				t.Fatalf("a key that signs was tested besides")
			}
		}
		out.Store(true)
		if got := tend(time.Minute); got < 40 {
			t.Errorf("a key that fails was tested %d times in a minute", got)
		}
		if status := s.Status(); status.State == breaker.Closed {
			t.Error("its breaker is closed")
		}
		out.Store(false)
		tend(2 * time.Second)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("nobody asked for a certificate, and readiness says %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{key: newKey(t), onOpen: func(context.Context, int) error { time.Sleep(100 * time.Millisecond); return nil }}
		s := p.signer(t)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Sign(t.Context(), message); !errors.Is(err, signer.ErrClosed) {
			t.Errorf("error %v", err)
		}
		late := p.signer(t)
		done := make(chan error, 1)
		go func() { _, err := late.Sign(t.Context(), message); done <- err }()
		synctest.Wait() // it is being opened
		if err := errors.Join(late.Close(), late.Close()); err != nil {
			t.Error(err)
		}
		<-done
		synctest.Wait()
		if got := p.closedTimes(0); got != 1 {
			t.Errorf("what was opened while it was closed was closed %d times", got)
		}
	})
}
