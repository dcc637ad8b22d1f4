// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// form is what the two forms of the suite differ in.
type form struct {
	clients int
	pause   time.Duration // between two requests of a client
	rounds  int           // certificates of each client before a fault, and refusals in it
	hold    time.Duration // the least duration of a fault
	bound   time.Duration // of a recovery; 0 for none
}

func theForm() form {
	if full() {
		return form{clients: 16, pause: 60 * time.Millisecond, rounds: 8, hold: 3 * time.Second, bound: 5 * time.Second}
	}
	return form{clients: 4, pause: 100 * time.Millisecond, rounds: 2}
}

// load starts the clients, which request certificates until judge. Half of their tokens are those of the
// flaky issuer. No client retries.
func (w *world) load() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stop = cancel
	w.t.Cleanup(func() {
		cancel()
		w.clients.Wait()
	})
	for i := range theForm().clients {
		target := w.targets[i/2%len(w.targets)]
		c := must(client.New(client.Config{URL: strings.Replace(target, "grpc://", "http://", 1), GRPC: strings.HasPrefix(target, "grpc://")}))(w.t)
		w.clients.Go(func() { w.client(ctx, c, i%2 == 0) })
	}
}

func (w *world) client(ctx context.Context, c *client.Client, flaky bool) {
	issuer := w.Provider
	if flaky {
		issuer = w.flaky
	}
	for ctx.Err() == nil {
		o := request(ctx, c, issuer)
		if ctx.Err() != nil {
			return // nobody waits for the answer
		}
		o.flaky = flaky
		w.mu.Lock()
		w.outcomes = append(w.outcomes, o)
		w.mu.Unlock()
		select {
		case <-time.After(theForm().pause):
		case <-ctx.Done():
		}
	}
}

// request requests one certificate.
func request(ctx context.Context, c *client.Client, issuer *provider.Provider) outcome {
	var certificate *client.Certificate
	token, err := issuer.Mint(map[string]any{"sub": "person-1", "email": "person@example.com", "email_verified": true})
	key, errKey := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	o := outcome{begin: time.Now()}
	if err = errors.Join(err, errKey); err == nil {
		certificate, err = c.SigningCertificate(ctx, client.Request{IDToken: token, Signer: key})
	}
	o.end = time.Now()
	var refused *client.Error
	switch {
	case err == nil:
		o.chain = certificate.PEM
	case errors.As(err, &refused):
		o.reason, o.message = cmp.Or(refused.Reason, "NO_REASON"), refused.Message
	default:
		o.reason, o.message = noAnswer, err.Error()
	}
	return o
}

// line begins a line of the table. Requests belong to the line in which they end.
func (w *world) line(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
	w.lines = append(w.lines, &line{test: w.t.Name(), fault: fmt.Sprintf(format, args...), recovery: -1})
}

// close assigns outcomes to the newest line. The caller holds mu.
func (w *world) close() {
	for i := len(w.outcomes) - 1; i >= 0 && w.outcomes[i].line == 0; i-- {
		w.outcomes[i].line = max(len(w.lines), 1)
	}
}

// current returns the present state.
func (w *world) current() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes[len(w.changes)-1].state
}

// become records a change of the state.
func (w *world) become(to func(*state)) {
	next := w.current()
	to(&next)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, change{time.Now(), next})
}

// count returns the number of requests that began after a time, for which is holds.
func (w *world) count(since time.Time, is func(o outcome) bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.outcomes {
		if !o.begin.Before(since) && is(o) {
			n++
		}
	}
	return n
}

func certified(o outcome) bool { return o.reason == "" }

// steady waits for certificates, while the state permits what it permits.
func (w *world) steady() {
	w.t.Helper()
	begin, f := time.Now(), theForm()
	w.await("certificates", func() bool {
		return time.Since(begin) >= f.hold/3 && w.count(begin, certified) >= f.rounds*f.clients
	})
}

// refused waits for refusals with one of the reasons.
func (w *world) refused(reasons ...string) {
	w.t.Helper()
	begin, f := time.Now(), theForm()
	w.await(fmt.Sprintf("a refusal with %s", reasons), func() bool {
		return time.Since(begin) >= f.hold && w.count(begin, func(o outcome) bool { return slices.Contains(reasons, o.reason) }) >= f.clients/2
	})
}

// asked waits until a faulty side has got one more request.
func (w *world) asked(calls *atomic.Int64) {
	w.t.Helper()
	before := calls.Load()
	w.await("a request to the faulty side", func() bool { return calls.Load() > before })
}

// recover ends a fault. What the fault permitted is permitted until each API has given a certificate for a
// token of each issuer to requests that began later; that is the recovery time.
func (w *world) recover(bound time.Duration, to func(*state), mend func()) {
	w.t.Helper()
	mended := time.Now()
	mend()
	w.await("recovery", func() bool {
		return w.count(mended, func(o outcome) bool { return certified(o) && o.flaky }) >= theForm().clients &&
			w.count(mended, func(o outcome) bool { return certified(o) && !o.flaky }) >= theForm().clients
	})
	w.mu.Lock()
	took := time.Duration(0)
	for _, o := range w.outcomes {
		if !o.begin.Before(mended) && !certified(o) {
			took = max(took, o.end.Sub(mended))
		}
	}
	l := w.lines[len(w.lines)-1]
	l.recovery = max(l.recovery, took)
	w.mu.Unlock()
	if theForm().bound > 0 && took > bound {
		w.t.Errorf("%s: recovery took %s; at most %s are expected", l.fault, took, bound)
	}
	w.become(to)
}

// judge stops the clients, and completes the lines of the table. more are entries of logs beside the
// world's own, by the log's public key, PEM.
func (w *world) judge(more map[string][]ct.RawLogEntry) {
	w.t.Helper()
	w.stop()
	w.clients.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
	found, keys := leaves{}, [][]byte{}
	for _, l := range w.logs {
		keys = append(keys, l.PublicKeyPEM())
		if err := found.add(must(l.Entries())(w.t)); err != nil {
			w.t.Fatal(err)
		}
	}
	for key, entries := range more {
		keys = append(keys, []byte(key))
		if err := found.add(entries); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, o := range w.outcomes {
		w.lines[o.line-1].add(w, o, found, keys)
	}
	for _, l := range w.lines {
		if l.wrong+l.lost > 0 {
			w.t.Errorf("%s: %d requests were refused wrongly, and %d certificates are lost", l.fault, l.wrong, l.lost)
		}
		report(l)
	}
}

// add judges an outcome.
func (l *line) add(w *world, o outcome, found leaves, keys [][]byte) {
	l.requests++
	switch {
	case o.reason == "":
		l.certificates++
		if err := w.prove(o, found, keys); err != nil {
			if l.lost++; l.lost <= 3 {
				w.t.Errorf("%s: %v", l.fault, err)
			}
		}
	case o.right(w.changes):
		l.right++
	default:
		if l.wrong++; l.wrong <= 3 {
			w.t.Errorf("%s: refused wrongly with %s after %s: %s", l.fault, o.reason, o.end.Sub(o.begin), o.message)
		}
	}
}

// prove verifies a certificate as a client does, and finds the entry that its SCT promises.
func (w *world) prove(o outcome, found leaves, keys [][]byte) error {
	chain := []byte(strings.Join(o.chain, "\n"))
	var err error
	if !slices.ContainsFunc(keys, func(key []byte) bool {
		err = testworld.VerifyChain(chain, w.Root, key)
		return err == nil
	}) {
		return fmt.Errorf("a certificate does not verify with any log's key: %w", err)
	}
	return found.find(o.chain)
}

// summary counts the outcomes since the last change of the state, by reason.
func (w *world) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts, last := map[string]int{}, map[string]string{}
	for _, o := range w.outcomes {
		if o.end.After(w.changes[len(w.changes)-1].at) {
			counts[o.reason]++
			last[o.reason] = o.message
		}
	}
	return fmt.Sprint(counts, last)
}
