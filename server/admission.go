// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// turnPatience is how long a verified caller waits for its turn. Then enough of answerTimeout remains
// for a signature and a log.
const turnPatience = time.Second

func errOverloaded() *refusal.Error {
	return refusal.New(refusal.Overloaded, "the certificate authority is answering as many requests as it can; try again in a moment")
}

// admitUnread admits a request for a certificate before its body is read: a refusal here costs least.
//
// Nothing in the body counts, since none of it is verified. If the issuer or a claim of an unverified
// token decided, any client could use up the places of another by naming it, or get more places
// by naming many. A client cannot forge its address over TCP.
func (s *Server) admitUnread(q *request) error {
	if q.method != methodCreate {
		return nil
	}
	if len(s.slots) == cap(s.slots) {
		s.hold(q)
		return errOverloaded()
	}
	return s.cfg.RateLimits.Address(q.client, time.Now())
}

// Refusals beyond refusalRate for each processor, which take about a quarter of its time, are put off.
const (
	refusalRate  = 4500
	longestPause = time.Second // clients wait at least as long after a refusal
)

// hold makes the connection of a refused request wait before its next one is read, if requests arrive
// faster than the server should refuse them. Otherwise refusals would leave no time for certificates.
// What the clients send meanwhile waits in the kernel, and at last in the clients.
func (s *Server) hold(q *request) {
	if q.conn == nil {
		return
	}
	r := s.refusals.Reserve()
	pause := r.Delay()
	if pause > longestPause {
		r.Cancel()
		pause = longestPause
	}
	q.conn.paused.Store(int64(pause))
}

// admitCaller admits a request of a verified caller: by the operator's limits, and then when it is the
// caller's turn.
func (s *Server) admitCaller(ctx context.Context, q *request, token string, p ca.Proof) error {
	if s.reused.again(token) {
		q.caller.TokenReused = true
		s.reused.total.WithLabelValues(q.caller.Token.Entry).Inc()
	}
	caller := ratelimit.Caller{IssuerURL: q.caller.Token.IssuerURL, Identity: q.caller.Identity.SAN.Value, Claim: q.claim}
	if err := s.cfg.RateLimits.Caller(caller, time.Now()); err != nil {
		return err
	}
	cost := proof.Cost(p)
	ok, own := s.turns.Take(ctx, s.sharer(q, caller), cost)
	if !ok {
		q.behindOwn = own
		return errOverloaded()
	}
	q.cost = cost
	return nil
}

// leave gives back what admitCaller took.
func (s *Server) leave(q *request) {
	if q.cost > 0 {
		s.turns.Give(q.cost)
		q.cost = 0
	}
}

// sharer returns the caller between which the places are shared: the value of the claim of the first
// rate limit by claim, otherwise the owner of the repository, otherwise the name in the certificate;
// each of one issuer URL.
func (s *Server) sharer(q *request, caller ratelimit.Caller) uint64 {
	name, ok := s.cfg.RateLimits.Shares(caller)
	if owner := q.caller.Identity.Extensions[certs.SourceRepositoryOwnerURI]; !ok && owner != "" {
		name = owner
	} else if !ok {
		name = caller.Identity
	}
	return maphash.Comparable(s.seed, [2]string{caller.IssuerURL, name})
}

// claim returns the text of a claim of the verified token; false if it has none.
func (q *request) claim(name string) (text string, ok bool) {
	switch v := q.caller.Token.Claims[name].(type) {
	case nil, []any, map[string]any:
		return "", false
	case string:
		return v, true
	default: // a number or a truth value
		return fmt.Sprint(v), true
	}
}

// maxReused is the number of tokens that are remembered, the last ones: about 1.5 MiB.
const maxReused = 1 << 14

// reused finds tokens that were in a request before. Such a request is not refused, since clients
// retry.
type reused struct {
	total *prometheus.CounterVec
	seed  maphash.Seed

	mu   sync.Mutex
	seen *simplelru.LRU[uint64, struct{}] // guarded by mu; hashes of what the issuer has signed
}

func newReused(registry prometheus.Registerer) *reused {
	r := &reused{seed: maphash.MakeSeed(), total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_token_reused_total",
		Help: "Requests with a verified ID token that an earlier request had, by issuer entry. Clients that retry cause some. The last 16,384 tokens are remembered.",
	}, []string{"entry"})}
	r.seen, _ = simplelru.NewLRU[uint64, struct{}](maxReused, nil) // fails only for a size below 1
	registry.MustRegister(r.total)
	return r
}

// again remembers a verified token, and reports whether it was there already. The signature does not
// count, because some algorithms have several for one token.
func (r *reused) again(token string) bool {
	token = strings.TrimSpace(token)
	signed := maphash.String(r.seed, token[:strings.LastIndexByte(token, '.')+1])
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen.Get(signed); ok {
		return true
	}
	r.seen.Add(signed, struct{}{})
	return false
}

// jittered returns a refusal that slows the client down with a time that differs between clients, so
// that they do not come back together. It is at least the time after which a retry can succeed.
func jittered(e *refusal.Error) *refusal.Error {
	if e.Reason.Kind() != refusal.SlowDown {
		return e
	}
	after := max(retryAfter(e), time.Second)
	c := *e
	c.RetryAfter = after + rand.N(after)
	return &c
}

// backlog knows how many callers were refused with OVERLOADED and have not come back yet. A later one gets a later time,
// so that they all come back over the time in which the server can answer them.
type backlog struct {
	start time.Time
	most  int // requests that are answered at a time

	mu        sync.Mutex                    // guards what follows
	second    int                           // the present one, since start
	answers   int                           // in it
	rate      int                           // answers in the second before
	returning [2 * longestRetryAfter]uint64 // callers by the second in which they come back, modulo the length
}

// longestRetryAfter is in seconds. A flood of clients that do not wait makes the others wait for no longer.
const longestRetryAfter = 8

// until moves the backlog to now. The caller holds mu.
func (b *backlog) until(now time.Time) {
	second := int(now.Sub(b.start) / time.Second)
	b.second = max(b.second, second-len(b.returning)) // older ones hold nothing
	for ; b.second < second; b.second++ {
		b.rate, b.answers, b.returning[b.second%len(b.returning)] = b.answers, 0, 0
	}
}

// count counts an answer. If it is OVERLOADED, a copy of jittered, it gets the time at which the caller must come back.
func (b *backlog) count(refused *refusal.Error, now time.Time) {
	if refused == nil || refused.Reason != refusal.Overloaded {
		b.answered(now)
		return
	}
	refused.RetryAfter = b.refused(refused.RetryAfter, now)
}

// answered counts an answer that is no OVERLOADED.
func (b *backlog) answered(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until(now)
	b.answers++
}

// refused returns when a refused caller must come back: after the time that is given, or later if others come back
// until then. A server without a past answers at least most requests in a second.
func (b *backlog) refused(after time.Duration, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until(now)
	var waiting uint64
	for _, n := range b.returning {
		waiting += n
	}
	wait := float64(waiting) / float64(max(b.rate, b.answers, b.most)) // in seconds
	after = max(after, min(time.Duration(float64(after)*wait), longestRetryAfter*time.Second))
	b.returning[(b.second+int(after/time.Second))%len(b.returning)]++
	return after
}

// sampler permits one line of the log in a second.
type sampler struct{ next, left atomic.Int64 }

// pass reports whether a line is permitted, and how many were left out since the last one.
func (s *sampler) pass(now time.Time) (left int64, ok bool) {
	due := s.next.Load()
	if now.UnixNano() < due || !s.next.CompareAndSwap(due, now.Add(time.Second).UnixNano()) {
		s.left.Add(1)
		return 0, false
	}
	return s.left.Swap(0), true
}
