// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Run reads from maxBackground issuers at a time, and one more that waits for a place; hanging ones do not
// keep the others from their turn.
func TestBackgroundIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const issuers, hanging = 500, 60
		var reading, most, read atomic.Int64
		open := func(reach) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				most.Store(max(most.Load(), reading.Add(1)))
				defer reading.Add(-1)
				var number int
				if _, err := fmt.Sscanf(r.URL.Host, "i%d.example", &number); err != nil {
					t.Error(err)
				}
				if number < hanging {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				time.Sleep(10 * time.Millisecond) // of the bubble's clock
				read.Add(1)
				return nil, fmt.Errorf("no route to %s", r.URL.Host)
			})
		}
		var cfg Config
		for i := range issuers {
			cfg.Issuers = append(cfg.Issuers, Issuer{Key: fmt.Sprintf("https://i%d.example", i), Audiences: []string{"sigstore"}})
		}
		v, err := newVerifier(cfg, open)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = v.Run(ctx) }()
		time.Sleep(fetchTimeout)
		stop()
		<-done
		time.Sleep(2 * fetchTimeout) // until the last fetches have ended
		if most.Load() > maxBackground+1 || read.Load() < issuers-hanging {
			t.Errorf("%d fetches at a time and %d good ones; expected at most %d, and at least %d", most.Load(), read.Load(), maxBackground+1, issuers-hanging)
		}
	})
}

// Static entries with the same settings of connections share them; entries of patterns do not.
func TestStaticEntriesShareConnections(t *testing.T) {
	t.Parallel()
	opened := 0
	_, err := newVerifier(Config{Issuers: []Issuer{
		{Key: "https://a.example", Audiences: []string{"sigstore"}}, {Key: "https://b.example", Audiences: []string{"sigstore"}},
		{Key: "https://c.example", Audiences: []string{"sigstore"}, AllowPrivateNetwork: true},
		{Key: "https://*.d.example", Wildcard: true, Audiences: []string{"sigstore"}}, {Key: "https://*.e.example", Wildcard: true, Audiences: []string{"sigstore"}},
	}}, func(reach) http.RoundTripper { opened++; return http.DefaultTransport })
	if err != nil || opened != 4 {
		t.Errorf("%d connection pools (%v); expected one for both public issuers, one for the private one, and one for each pattern", opened, err)
	}
}
