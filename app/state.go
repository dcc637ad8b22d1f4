// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/clock"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// newClock returns the clock that decides whether certificates are issued.
func (a *App) newClock(ctx context.Context) *clock.Clock {
	if a.options.report == nil && clock.Kernel() == clock.Unsynchronised {
		a.logger.LogAttrs(ctx, slog.LevelWarn, "the kernel states that nothing synchronises the clock of this machine; run an NTP client, unless the machine's host sets it")
	}
	return clock.New(a.options.Now, a.options.Steady, ctlog.MaxAge, ctlog.MaxAhead)
}

// clockWrong returns the refusal to issue while the clock is not trusted; nil for a nil cause.
func clockWrong(cause error) error {
	if cause == nil {
		return nil
	}
	return refusal.New(refusal.ClockWrong, "the certificate authority cannot trust its clock right now, and issues nothing; try again").Because(cause)
}

// active returns the authority that signs now. It checks the clock again, which may have stepped while the
// request waited for its issuer.
func (a *App) active(now time.Time) (*ca.Authority, error) {
	if err := clockWrong(a.clock.Stepped()); err != nil {
		return nil, err
	}
	return a.authorities.Active(now)
}

// clockCheck is the readiness check of the clock.
func (a *App) clockCheck() server.Check {
	return server.Check{Name: "clock", Critical: true, Runbook: "docs/operations.md#the-clock-is-wrong", Probe: func(context.Context) (string, error) {
		if err := a.clock.Check(); err != nil {
			return "not trusted, so nothing is issued", err
		}
		return "trusted", nil
	}}
}

// clockMetrics publishes what is known about the clock.
func (a *App) clockMetrics() *scraped {
	const wrong, synchronised = "mayfly_clock_wrong", "mayfly_clock_synchronised"
	return newScraped(func(set setGauge) {
		set(wrong, boolean(a.clock.Check() != nil))
		if kernel := clock.Kernel(); kernel != clock.Unknown {
			set(synchronised, boolean(kernel == clock.Synchronised))
		}
	},
		gauge{wrong, "1 while the wall clock is not trusted: every request for a certificate is refused with CLOCK_WRONG.", nil},
		gauge{synchronised, "1 if the kernel states that its clock is synchronised, as by NTP; absent where it does not answer.", nil},
	)
}

// state completes the state of the server.
func (a *App) state(s *server.State) {
	current, entries := a.live.current.Load(), a.live.status()
	s.Release, s.KernelClock, s.RestartPending = a.options.Version, clock.Kernel(), a.restartPending.Load()
	s.ConfigGeneration, s.ConfigLoaded, s.ConfigSHA256 = current.number, current.loaded.UTC(), current.digest
	a.authorities.state(s)
	a.logStates(s)
	s.IssuerStates = map[string]int{}
	for _, entry := range entries {
		s.IssuerStates[string(entry.State)]++
	}
	for _, entry := range mostUrgent(entries) {
		kind := "static"
		if entry.IssuerURL == "" {
			kind = "wildcard"
		}
		s.Issuers = append(s.Issuers, server.Component{
			Name: entry.Entry, Kind: kind, State: string(entry.State), LastSuccess: entry.LastSuccess.UTC(),
			History: server.NewHistory(entry.Since, entry.LastFailure, entry.LastFailureAt),
		})
	}
}

// logStates adds the logs to the state of the server.
func (a *App) logStates(s *server.State) {
	if a.logs == nil {
		return
	}
	for _, log := range a.logs.Status() {
		state := component(log.Name, "remote", log.Status)
		for _, own := range a.embedded {
			if own.Name() == log.Name {
				state.Kind, state.TreeSize = "embedded", own.Status().TreeSize
			}
		}
		s.Logs = append(s.Logs, state)
	}
}

// component returns the state of a key or a log.
func component(name, kind string, s breaker.Status) server.Component {
	return server.Component{
		Name: name, Kind: kind, State: string(s.State), Failures: s.Failures, LastSuccess: s.SucceededAt.UTC(),
		History: server.NewHistory(s.Since, s.LastFailure, s.FailedAt),
	}
}

// state adds the authorities and their keys to the state of the server.
func (c *caSet) state(s *server.State) {
	now, current := c.now(), c.current.Load()
	s.SetGeneration = current.Generation()
	for _, m := range current.Members() {
		s.Authorities = append(s.Authorities, server.Component{
			Name: m.ID, State: m.StateAt(now).String(), History: server.NewHistory(m.Since(now), nil, time.Time{}),
			PublishAt: m.PublishAt.UTC(), ActivateAt: m.ActivateAt.UTC(), SignsUntil: m.SignsUntil().UTC(), ChainEnds: m.Chain.NotAfter.UTC(),
		})
		if m.Authority != nil {
			key := m.Authority.Signer().Status()
			s.Keys = append(s.Keys, component(m.ID, key.Kind, key.Status))
		}
	}
}

// maxIssuers is how many issuer entries a report lists.
const maxIssuers = 200

// mostUrgent returns the entries that a report lists: first those with tokens that are refused, or will be.
func mostUrgent(entries []oidc.IssuerStatus) []oidc.IssuerStatus {
	order := []oidc.State{oidc.StateFailing, oidc.StateDegraded, oidc.StatePending, oidc.StateDisabled, oidc.StateOK}
	slices.SortStableFunc(entries, func(a, b oidc.IssuerStatus) int {
		return cmp.Or(slices.Index(order, a.State)-slices.Index(order, b.State), cmp.Compare(a.Entry, b.Entry))
	})
	return entries[:min(len(entries), maxIssuers)]
}
