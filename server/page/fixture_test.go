// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/server"
)

// at is the time of the states of these tests.
var at = time.Date(2026, 11, 30, 2, 14, 30, 0, time.UTC)

const day = 24 * time.Hour

// quiet returns the state of a server of which nothing needs attention.
func quiet() server.State {
	counts := func(name string, step uint64) server.CountState {
		c := server.CountState{Name: name}
		for i := range c.Minutes {
			c.Minutes[i] = step * uint64(20+(i*i*7+i*13)%17)
			c.Hour += c.Minutes[i]
		}
		c.Total = c.Hour * 61
		return c
	}
	issuer := func(name string) server.Component {
		return server.Component{Name: name, Kind: "static", State: "ok", LastSuccess: at.Add(-4 * time.Minute), History: server.History{Since: at.Add(-6 * day)}}
	}
	const github, gitlab = "https://token.actions.githubusercontent.com", "https://gitlab.com"
	return server.State{
		Version: server.StateVersion, Release: "1.7.0", At: at, Started: at.Add(-6 * day), Status: "SERVING", Since: at.Add(-6 * day),
		Checks: []server.CheckState{
			{Name: "ca", State: "ok", Critical: true, Detail: "authority 2026-b signs", History: server.History{Since: at.Add(-6 * day)}},
			{Name: "issuers", State: "ok", Detail: github + ": ok, keys 4m0s old", History: server.History{Since: at.Add(-2 * time.Hour), LastError: gitlab + ": the server answered 502", LastErrorAt: at.Add(-2 * time.Hour)}},
			{Name: "ctlog 2026", State: "ok", Critical: true, Detail: "4812345 entries", History: server.History{Since: at.Add(-6 * day)}},
		},
		ConfigGeneration: 12, ConfigLoaded: at.Add(-26 * time.Hour), ConfigSHA256: "9f86d081884c7d65", SetGeneration: 7, KernelClock: "synchronised",
		Authorities: []server.Component{
			{Name: "2026-b", State: "active", History: server.History{Since: at.Add(-22 * day)}, PublishAt: at.Add(-29 * day), ActivateAt: at.Add(-22 * day), SignsUntil: at.Add(200 * day), ChainEnds: at.Add(340 * day)},
			{Name: "2027-a", State: "published", History: server.History{Since: at.Add(-2 * day)}, PublishAt: at.Add(-2 * day), ActivateAt: at.Add(200 * day), ChainEnds: at.Add(700 * day)},
			{Name: "2026-a", State: "retired", History: server.History{Since: at.Add(-22 * day)}, PublishAt: at.Add(-395 * day), ActivateAt: at.Add(-388 * day), SignsUntil: at.Add(-22 * day), ChainEnds: at.Add(90 * day)},
		},
		Keys: []server.Component{
			{Name: "2026-b", Kind: "kms", State: "closed", LastSuccess: at.Add(-time.Second), History: server.History{Since: at.Add(-9 * time.Hour), LastError: "kms: signing: deadline exceeded", LastErrorAt: at.Add(-9 * time.Hour)}},
			{Name: "2027-a", Kind: "kms", State: "closed", LastSuccess: at.Add(-time.Minute)},
		},
		Logs: []server.Component{
			{Name: "log.example/2026", Kind: "embedded", State: "closed", LastSuccess: at.Add(-time.Second), TreeSize: 4812345},
			{Name: "https://log2.example/2026h2", Kind: "remote", State: "closed", LastSuccess: at.Add(-3 * time.Hour), History: server.History{Since: at.Add(-3 * time.Hour), LastError: "the log answered 503", LastErrorAt: at.Add(-3 * time.Hour)}},
		},
		Issuers:      []server.Component{issuer(github), issuer(gitlab), issuer("https://accounts.google.com"), {Name: "https://oidc.eks.*.amazonaws.com/id/*", Kind: "wildcard", State: "ok"}},
		IssuerStates: map[string]int{"ok": 4},
		Limits:       []server.LimitState{{Name: "limits.in_flight", InUse: 7, Limit: 512}, {Name: "limits.connections", InUse: 312, Limit: 2048}},
		Certificates: []server.CountState{counts(github, 9), counts(gitlab, 2), counts("", 1)},
		Refusals:     []server.CountState{counts("TOKEN_EXPIRED", 1), {Name: "CT_UNAVAILABLE", Total: 9}},
	}
}

// noisy returns the state of a server with problems.
func noisy() server.State {
	s := quiet()
	failed := func(since time.Duration, text string) server.History {
		return server.History{Since: at.Add(-since), LastError: text, LastErrorAt: at.Add(-20 * time.Second)}
	}
	const refused = "Get \"https://gitlab.com/.well-known/openid-configuration\": dial tcp 192.0.2.7:443: connect: connection refused; the last good keys are used until they are 24 hours old, and then every token of this issuer is refused"
	s.Checks[1].State, s.Checks[1].Error, s.Checks[1].History, s.Checks[1].Runbook = "failed", refused, failed(11*time.Minute, refused), "docs/discovery.md#an-issuer-fails"
	s.Issuers[1].State, s.Issuers[1].Failures, s.Issuers[1].History = "degraded", 4, failed(11*time.Minute, refused)
	s.Logs[1].State, s.Logs[1].Failures, s.Logs[1].History = "open", 12, failed(3*time.Minute, "the log answered 503")
	s.IssuerStates = map[string]int{"ok": 3, "degraded": 1}
	s.Limits[0].InUse = 431
	s.RestartPending = true
	return s
}

// down returns the state of a server that issues nothing.
func down() server.State {
	s := noisy()
	s.Status, s.Since = "NOT_SERVING", at.Add(-95*time.Second)
	s.Checks[0].State, s.Checks[0].Error, s.Checks[0].Runbook = "failed", "the key of authority 2026-b does not sign: kms: signing: permission denied", "docs/signers.md#a-key-is-unavailable"
	s.Checks[0].History = server.History{Since: s.Since, LastError: s.Checks[0].Error, LastErrorAt: at.Add(-5 * time.Second)}
	s.Keys[0].State, s.Keys[0].Failures = "open", 31
	return s
}

// get returns the answer of the page for a state.
func get(t *testing.T, cfg Config, target string) *httptest.ResponseRecorder {
	t.Helper()
	if cfg.Chains == nil {
		cfg.Chains = func() []*ca.Chain { return nil }
	}
	return answer(t, New(cfg), target)
}

func answer(t *testing.T, handler http.Handler, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
	return w
}

// of returns the configuration of a page that shows a state.
func of(s server.State) Config {
	return Config{State: func(context.Context) server.State { return s }}
}
