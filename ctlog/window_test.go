// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// A log is asked within its window only. Where no log's window is open, the failure is an
// outage and there is no certificate.
func TestWindowOfALog(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	old, next := &scripted{name: "old", steps: []step{failing(errRefused)}}, &scripted{name: "next", steps: []step{failing(errRefused)}}
	now := first
	key := func() []byte { return newFixture(t, nil).log.PublicKeyPEM() }
	logs, err := ctlog.New(ctlog.Config{
		Logs: []ctlog.LogConfig{
			{Log: old, PublicKey: key(), Window: ctlog.Window{End: first.Add(2 * time.Hour)}},
			{Log: next, PublicKey: key(), Window: ctlog.Window{Begin: first.Add(time.Hour), End: first.Add(3 * time.Hour)}},
		},
		Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after     time.Duration
		old, next int64
	}{{0, 1, 0}, {time.Hour, 1, 1}, {2 * time.Hour, 0, 1}, {3 * time.Hour, 0, 0}} {
		old.attempts.Store(0)
		next.attempts.Store(0)
		now = first.Add(test.after)
		_, err := logs.Add(t.Context(), ctlog.Submission{Chain: [][]byte{{1}, {2}}, TBS: []byte{1}})
		var refused *refusal.Error
		if !errors.As(err, &refused) || refused.Reason != refusal.CTUnavailable {
			t.Errorf("after %s: got error %v, want a refusal for CT_UNAVAILABLE", test.after, err)
		}
		if o, n := old.attempts.Load(), next.attempts.Load(); o != test.old || n != test.next {
			t.Errorf("after %s: the old log was asked %d times and the next one %d, want %d and %d", test.after, o, n, test.old, test.next)
		}
	}
	_, err = ctlog.New(ctlog.Config{Logs: []ctlog.LogConfig{{Log: old, PublicKey: key(), Window: ctlog.Window{Begin: first, End: first}}}})
	if err == nil || !strings.Contains(err.Error(), "retire_at must be after activate_at") {
		t.Errorf("got error %v", err)
	}
}

// TestRootsSendsTheToken: an embedded log shows its roots to its submitters alone.
func TestRootsSendsTheToken(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer submitters-only" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"certificates":["AQI="]}`)
	}))
	t.Cleanup(server.Close)
	remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: server.URL, Token: []byte("submitters-only")})
	if err != nil {
		t.Fatal(err)
	}
	if roots, err := remote.Roots(t.Context()); err != nil || len(roots) != 1 {
		t.Errorf("got %d roots (%v), want 1", len(roots), err)
	}
}
