// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mayfly-ca/mayfly/internal/client"
)

// form is what the two forms of the test differ in.
type form struct {
	clients int
	rate    int           // requests that begin in a second
	hold    time.Duration // how long an event lasts at least
	enough  int           // certificates that an event waits for
	lead    time.Duration // from the edit of the CA set until the authority signs
}

func theForm() form {
	if full() {
		return form{clients: 64, rate: 80, hold: 8 * time.Second, enough: 100, lead: 15 * time.Second}
	}
	return form{clients: 8, rate: 40, enough: 15, lead: 5 * time.Second}
}

// caller is one client, with a token and a key of its own.
type caller struct {
	*client.Client
	client.Request
	timeout time.Duration
}

// outcome is how one request ended.
type outcome struct {
	event    int // in which it began
	asked    time.Time
	end      time.Time
	took     time.Duration // from when the request was due
	failures []error       // one for each attempt that failed
	chain    []string      // PEM; nil if the second attempt failed, too
}

// event is a line of the table.
type event struct {
	name       string
	begin, end time.Time
}

// load starts requests at a fixed rate, whether or not earlier ones have been answered, until judge.
func (f *fleet) load() {
	f.t.Helper()
	var callers []*caller
	for i := range theForm().clients {
		c := &caller{timeout: 30 * time.Second} // as sigstore-go
		if i%2 == 1 {
			c.timeout = 5 * time.Second // as npm's client
		}
		c.Client = must(client.New(client.Config{URL: f.url, RootCAs: f.roots, GRPC: full() && i%4 == 0}))(f.t)
		c.IDToken = must(f.Provider.Mint(map[string]any{"sub": "person-1", "email": fmt.Sprintf("person-%d@example.com", i), "email_verified": true}))(f.t)
		c.Signer = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f.t)
		callers = append(callers, c)
	}
	end := make(chan struct{})
	f.stop = func() { close(end) }
	f.clients.Go(func() {
		begin := time.Now()
		for n := 0; ; n++ {
			due := begin.Add(time.Duration(n) * time.Second / time.Duration(theForm().rate))
			select {
			case <-end:
				return
			case <-time.After(time.Until(due)):
			}
			f.clients.Go(func() { f.request(callers[n%len(callers)], due) })
		}
	})
}

// request requests one certificate, and once again if that fails, after the time that a client waits.
func (f *fleet) request(c *caller, due time.Time) {
	f.mu.Lock()
	o := outcome{event: len(f.events)}
	f.mu.Unlock()
	for len(o.failures) < 2 {
		o.asked = time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		certificate, err := c.SigningCertificate(ctx, c.Request)
		cancel()
		if err == nil {
			o.chain = certificate.PEM
			break
		}
		if o.failures = append(o.failures, err); len(o.failures) == 1 {
			f.pause(err)
		}
	}
	o.end = time.Now()
	o.took = o.end.Sub(due)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcomes = append(f.outcomes, o)
}

// pause waits as clients do: for Retry-After of a refusal (2 s for a 503), and otherwise for a second. On a
// machine without idle time the balancer of this process can be late; then it has had its turn.
func (f *fleet) pause(err error) {
	failed, wait := time.Now(), time.Second
	if errors.As(err, new(*client.Error)) {
		wait = 2 * time.Second
	}
	<-time.After(wait)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for f.balancer != nil && f.balancer.probed.Load() < failed.Add(time.Second).UnixNano() { // a replica keeps its state for a second
		<-tick.C
	}
}

// event runs do under load, and counts the requests that begin in it as a line of the table.
func (f *fleet) event(name string, do func()) {
	f.t.Helper()
	f.mu.Lock()
	f.events = append(f.events, &event{name: name, begin: time.Now()})
	current := f.events[len(f.events)-1]
	f.mu.Unlock()
	do()
	f.mu.Lock()
	defer f.mu.Unlock()
	current.end = time.Now()
}

// failures counts the failures of first attempts by event and reason.
func (f *fleet) failures() string {
	counts := map[string]int{}
	for _, o := range f.outcomes {
		if len(o.failures) > 0 {
			text := o.failures[0].Error()
			if refused := new(client.Error); errors.As(o.failures[0], &refused) {
				text = cmp.Or(refused.Reason, refused.Message)
			}
			counts[f.events[o.event-1].name+": "+text]++
		}
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%d times, %s\n", counts[name], name)
	}
	return text.String()
}

// goOn waits for certificates of requests that begin now or later, and in the full form for some time.
func (f *fleet) goOn() {
	f.t.Helper()
	begin := time.Now()
	f.await("certificates", func() bool {
		return time.Since(begin) >= theForm().hold && f.count(func(o outcome) bool { return o.chain != nil && o.asked.After(begin) }) >= theForm().enough
	})
}

// count returns the number of requests that have ended, for which is holds.
func (f *fleet) count(is func(o outcome) bool) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.outcomes {
		if is(o) {
			n++
		}
	}
	return n
}

// table returns a line for each event. The gap is the longest time without a new certificate.
func (f *fleet) table() string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, "event\trequests\tretried\tfailed\tslowest\tlongest gap")
	ends := []time.Time{}
	for _, o := range f.outcomes {
		if o.chain != nil {
			ends = append(ends, o.end)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for i, e := range f.events {
		requests, retried, failed, slowest, gap, last := 0, 0, 0, time.Duration(0), time.Duration(0), e.begin
		for _, o := range f.outcomes {
			if o.event != i+1 {
				continue
			}
			requests++
			slowest = max(slowest, o.took)
			if len(o.failures) > 0 {
				retried++
			}
			if o.chain == nil {
				failed++
			}
		}
		for _, end := range ends {
			if end.After(e.begin) && end.Before(e.end) {
				gap, last = max(gap, end.Sub(last)), end
			}
		}
		gap = max(gap, e.end.Sub(last))
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%.1f s\t%.2f s\n", e.name, requests, retried, failed, slowest.Seconds(), gap.Seconds())
	}
	_ = out.Flush()
	return text.String()
}
